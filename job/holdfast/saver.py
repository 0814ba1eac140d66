"""Saving and resuming, by all ranks together.

A save has two halves. In the training loop every rank copies its share of the state. Then a thread of each rank does the rest
while training goes on: rank 0 asks the fence and makes a new folder; every rank writes its files and reports sizes and hashes;
only if all have done so rank 0 asks the fence again and publishes the manifest. A rank that fails says so in the exchange
that the others wait in, so all ranks raise or go on alike.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import faults, manifest
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.directory import Checkpoint, CheckpointDirectory, Unusable
from holdfast.errors import HoldfastError, SaveError
from holdfast.fence import Fence
from holdfast.files import fsync_directory
from holdfast.hashing import default_algorithm, file_hash
from holdfast.manifest import FileEntry, Manifest
from holdfast.peers import Peers, together
from holdfast.process import module
from holdfast.state import Training, file_name, load
from holdfast.worker import Worker
from holdfast.writer import HashingWriter

SHARD_INDEX = ".metadata"
Ended = Callable[["Saved | None", BaseException | None], None]
"""Gets the checkpoint, or why there is none."""


@dataclass(frozen=True)
class Saved:
    """A published checkpoint: where, of which step, how large (all ranks' files), how long it took and training stood still."""

    step: int
    name: str
    size_bytes: int
    seconds: float
    blocked_s: float = 0.0


@dataclass(frozen=True)
class _Copied:
    """What one rank will write: its own file's content, and its share of the tensors."""

    own: bytes
    shards: Any


@dataclass(frozen=True)
class _Written:
    """What one rank has written."""

    files: dict[str, FileEntry]
    shards: Any


class Saver:
    """One attempt's way into the checkpoint directory. Every method is called by all ranks at the same point."""

    def __init__(
        self,
        path: Path,
        peers: Peers,
        limiter: Limiter,
        clock: Clock,
        warn: Callable[[str], None],
        unusable: Unusable = lambda _name, _file, _reason: None,
    ) -> None:
        self._directory = CheckpointDirectory(path, warn, unusable)
        self._fence = Fence(path, clock)
        self._peers, self._line = peers, peers.another()
        self._limiter = limiter
        self._clock = clock
        self._warn = warn
        self._leads = peers.place.rank == 0
        self._worker = Worker("holdfast-save")
        self._shards: Any = None
        self._job_id = ""
        self.attempt = 0

    def enter(self, job_id: str, attempt: int | None) -> int:
        """Take the fence for this attempt (rank 0, for all); returns its number. Raises Fenced, SaveError."""

        def take() -> int:
            return self._fence.take(job_id, attempt) if self._leads else 0

        self._job_id, self.attempt = job_id, together(self._peers, "taking the checkpoint directory", take, HoldfastError)[0]
        return self.attempt

    def resume(self, training: Training) -> Saved | None:
        """Load the newest checkpoint that verifies; None where there is none.

        Raises Fenced, or HoldfastError on all ranks alike with the faulty rank's own exception as its cause there.
        """
        if training.sharded:
            from holdfast.sharded import Shards

            self._shards = Shards(training.sharded, self._peers, self._warn)
        found = together(self._peers, "looking for a checkpoint", self._find, HoldfastError)[0]
        if found is None:
            return None
        name, content = found
        folder = self._directory.path / name
        rank = self._peers.place.rank
        first = next(file for file, entry in content.files.items() if entry.rank == 0 and file.startswith("rank0."))
        own = first.replace("rank0", f"rank{rank}")

        def become() -> None:
            if rank != 0:  # rank 0 has just verified everything; another node may still read something else
                manifest.verify(folder, content, {first, own} & content.files.keys())
            shared = load(folder / first)
            mine = shared if rank == 0 else load(folder / own) if own in content.files else None
            self._restore_filed(training, folder)
            training.restore(shared, mine, self._warn)

        self._restore_shards(folder, content)
        together(self._peers, f"loading {name}", become, HoldfastError)
        return Saved(content.step, name, content.size_bytes, content.write_s)

    def _restore_shards(self, folder: Path, content: Manifest) -> None:
        if self._shards is None:
            return
        if SHARD_INDEX not in content.files:
            self._warn(f"the checkpoint {folder.name} has no tensors of modules and optimizers: they start afresh")
            return
        for name in sorted(self._shards.load(folder)):
            self._warn(f"the checkpoint has no state for {name}: it starts afresh")

    def _restore_filed(self, training: Training, folder: Path) -> None:
        for name, value in training.filed.items():
            if (folder / name).is_dir():
                value.load_files(folder / name)
            else:
                self._warn(f"the checkpoint has no files for {name}: it starts afresh")

    def _find(self) -> tuple[str, Manifest] | None:
        if not self._leads:
            return None
        with self._fence.held():
            previous = self._fence.previous
            another_job = previous is not None and previous.job_id != self._job_id
            self._directory.sweep(self.attempt, every_attempt=another_job)
            found = self._directory.newest_verified()
        return None if found is None else (found[0].name, found[1])

    def warm(self) -> None:
        """Get the buffers for the next copy ready, in the background."""
        if self._shards is not None:
            self._worker.start(self._shards.warm)

    def begin(self, step: int, training: Training, *, keep: int, ended: Ended) -> Future[Saved]:
        """Copy the state of `step`; the future has the published checkpoint, or Fenced or SaveError, on all ranks alike.

        `keep`: how many of the newest checkpoints to leave afterwards. `ended` is called from the thread that saves, before the
        future has its result. Raises as the future does where the copy or an object's own files fail.
        """
        began = self._clock.monotonic()
        checkpoint = self._directory.place(step, self.attempt)
        if training.filed:
            together(self._peers, "preparing a save", lambda: self._prepare(checkpoint))
            together(self._peers, "writing an object's own files", lambda: self._save_filed(checkpoint, training))
        own: list[bytes] = []
        together(self._peers, "reading the state", lambda: own.append(training.capture(step, self._peers.place.rank)))
        shards = None if self._shards is None else self._shards.stage()
        copied = _Copied(own[0], shards)
        blocked_s = self._clock.monotonic() - began

        def complete() -> Saved:
            try:
                content = self._complete(checkpoint, copied, training, began)
            except Exception as fault:
                known = isinstance(fault, HoldfastError)  # else a rank is gone, and what its group raises depends on the backend
                told = fault if known else SaveError(f"the ranks lost each other: {type(fault).__name__}: {fault}")
                ended(None, told)
                raise told from fault
            saved = Saved(step, checkpoint.name, content.size_bytes, self._clock.monotonic() - began, blocked_s)
            ended(saved, None)
            if self._leads:
                self._prune(keep)
            return saved

        return self._worker.start(complete)

    def rest(self) -> None:
        """No save goes on: stop the thread that saves until there is one again."""
        self._worker.stop()

    def _save_filed(self, checkpoint: Checkpoint, training: Training) -> None:
        for name, value in training.filed.items():
            folder = checkpoint.path / name
            folder.mkdir(exist_ok=True)
            value.save_files(folder)

    def _complete(self, checkpoint: Checkpoint, copied: _Copied, training: Training, began: float) -> Manifest:
        """The second half, in the thread that saves."""
        try:
            if not training.filed:
                together(self._line, "preparing a save", lambda: self._prepare(checkpoint))
            algorithm = together(self._line, "choosing a hash", default_algorithm)[0]
            written = together(self._line, "writing a checkpoint", lambda: self._write(checkpoint, copied, training, algorithm))

            def publish() -> Manifest | None:
                return self._publish(checkpoint, copied, written, algorithm, began) if self._leads else None

            content = together(self._line, "publishing a checkpoint", publish)[0]
            assert content is not None
            return content
        except SaveError:
            self._discard(checkpoint)
            raise
        finally:
            if copied.shards is not None:
                copied.shards.release()

    def _prepare(self, checkpoint: Checkpoint) -> None:
        """Rank 0 makes the folder."""
        if not self._leads:
            return
        self._fence.check()
        if checkpoint.published:
            raise SaveError(f"{checkpoint.path} is published already and is never written again")
        if checkpoint.path.exists():
            shutil.rmtree(checkpoint.path)  # our own attempt's, from a save that failed
        checkpoint.path.mkdir()
        fsync_directory(checkpoint.path.parent)
        faults.point("folder-made")

    def _write(self, checkpoint: Checkpoint, copied: _Copied, training: Training, algorithm: str) -> _Written:
        rank = self._peers.place.rank
        files: dict[str, FileEntry] = {}
        writers: dict[str, HashingWriter] = {}

        def create(name: str) -> AbstractContextManager[HashingWriter]:
            writers[name] = HashingWriter(checkpoint.path / name, algorithm, self._limiter)
            return writers[name]

        with create(file_name(rank)) as file:
            file.write(copied.own)
        shards = None if copied.shards is None else copied.shards.write(create)
        for name, writer in writers.items():
            files[name] = FileEntry(bytes=writer.size_bytes, hash=writer.digest, rank=rank)
        files |= self._hash_filed(checkpoint, training, algorithm)
        fsync_directory(checkpoint.path)
        faults.point("folder-synced")
        return _Written(files, shards)

    def _hash_filed(self, checkpoint: Checkpoint, training: Training, algorithm: str) -> dict[str, FileEntry]:
        """This rank's share of the files that objects have written themselves, made durable and hashed."""
        place = self._peers.place
        files = {}
        paths = sorted(path for name in training.filed for path in (checkpoint.path / name).rglob("*") if path.is_file())
        for path in paths[place.rank :: place.world_size]:
            _fsync(path)
            name = path.relative_to(checkpoint.path).as_posix()
            files[name] = FileEntry(bytes=path.stat().st_size, hash=file_hash(path, algorithm), rank=place.rank)
        return files

    def _publish(self, checkpoint: Checkpoint, copied: _Copied, written: list[_Written], algorithm: str, began: float) -> Manifest:
        files = {name: entry for one in written for name, entry in one.files.items()}
        if copied.shards is not None:
            with HashingWriter(checkpoint.path / SHARD_INDEX, algorithm, self._limiter) as file:
                file.write(copied.shards.metadata([one.shards for one in written]))
            files[SHARD_INDEX] = FileEntry(bytes=file.size_bytes, hash=file.digest, rank=0)
            fsync_directory(checkpoint.path)
        torch = module("torch")
        content = Manifest(
            step=checkpoint.step,
            attempt=checkpoint.attempt,
            job_id=self._job_id,
            world_size=self._peers.place.world_size,
            torch=None if torch is None else str(torch.__version__),
            algorithm=algorithm,
            write_s=round(self._clock.monotonic() - began, 3),
            files=files,
        )
        with self._fence.held():
            _write_manifest(checkpoint.path, content.to_bytes())
        return content

    def _discard(self, checkpoint: Checkpoint) -> None:
        """After a failed save: all ranks have reported, so nobody writes there any more."""
        if self._leads and not checkpoint.published:
            shutil.rmtree(checkpoint.path, ignore_errors=True)

    def _prune(self, keep: int) -> None:
        """Delete checkpoints beyond the newest `keep`; trouble is only told (who is fenced learns it from the next save)."""
        try:
            with self._fence.held():
                self._directory.prune(keep)
        except (OSError, HoldfastError) as fault:
            self._warn(f"cannot delete old checkpoints: {fault}")


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_manifest(folder: Path, data: bytes) -> None:
    """The commit: temporary name, fsync, rename, fsync of the folder."""
    temporary = folder / f".{manifest.NAME}.tmp"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        faults.point("manifest-written")
        os.fsync(file.fileno())
    faults.point("manifest-synced")
    temporary.rename(folder / manifest.NAME)
    faults.point("manifest-renamed")
    fsync_directory(folder)
    faults.point("published")
