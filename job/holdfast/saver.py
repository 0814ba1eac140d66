"""Saving, by all ranks together.

A save has two halves. In the training loop every rank copies its share of the state. Then a thread of each rank does the rest
while training goes on: rank 0 asks the fence; every rank writes its files and reports sizes and hashes; where the first tier is
the node's own, every rank sends its files to the durable one; only if all have done so rank 0 asks the fence again and publishes
the manifest. A rank that fails says so in the exchange that the others wait in, so all ranks raise or go on alike.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import faults, ownfiles
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.directory import Checkpoint, CheckpointDirectory, Unusable
from holdfast.errors import BadCheckpointError, HoldfastError, SaveError
from holdfast.fence import Fence, Owner, read_owner
from holdfast.files import fsync_directory
from holdfast.hashing import default_algorithm
from holdfast.manifest import FileEntry, Manifest
from holdfast.peers import Peers, together
from holdfast.process import Job, module
from holdfast.resumption import SHARD_INDEX, Resumption
from holdfast.retention import Keep, Retention, clean_local
from holdfast.state import Training, file_name
from holdfast.store.transfer import copy_files
from holdfast.store.verification import check_sizes
from holdfast.tiers import Tiers, make_private
from holdfast.worker import Worker
from holdfast.writer import HashingWriter

Ended = Callable[["Saved | None", BaseException | None], None]
"""Gets the checkpoint, or why there is none."""
SIGHT_TRIES, SIGHT_PAUSE_S = 50, 0.2


@dataclass(frozen=True)
class Saved:
    """A published checkpoint: of which step, where, how large (all ranks' files), and how long it took.

    For `blocked_s` of the `seconds` training stood still; for `sending_s` of them the files were copied to the durable tier.
    """

    step: int
    name: str
    tier: str
    size_bytes: int
    seconds: float
    blocked_s: float = 0.0
    sending_s: float = 0.0
    partial: bool = False


@dataclass(frozen=True)
class _Copied:
    """What one rank will write: its own file's content, and its share of the tensors of `parts`.

    `files` were written by objects themselves (None: there are none, and no folder yet). `standing`: this very checkpoint is there.
    """

    own: bytes
    shards: Any
    parts: tuple[str, ...]
    partial: bool
    files: list[str] | None = None
    standing: Manifest | None = None


@dataclass(frozen=True)
class _Written:
    """What one rank has written."""

    files: dict[str, FileEntry]
    shards: Any


class Saver:
    """One attempt's way into the checkpoint directory. Every method is called by all ranks at the same point."""

    def __init__(
        self,
        tiers: Tiers,
        peers: Peers,
        limiter: Limiter,
        clock: Clock,
        warn: Callable[[str], None],
        unusable: Unusable = lambda _name, _file, _reason: None,
    ) -> None:
        self._tiers = tiers
        self._directory = CheckpointDirectory(tiers.durable, warn, unusable)
        self._local = CheckpointDirectory(tiers.first, warn)
        self._fence = Fence(tiers.durable, clock)
        self._retention = Retention(self._directory, self._fence.check, warn)
        self._peers, self._line = peers, peers.another()
        self._limiter = limiter
        self._clock = clock
        self._warn = warn
        self._leads = peers.place.rank == 0
        self._worker = Worker("holdfast-save")
        self._shards: Any = None
        self._job_id = ""
        self._mates = [peers.place.rank]  # the ranks that see the same first tier
        self._turn = 0
        self._begun = 0

    def enter(self, job: Job) -> int:
        """Take the fence for this attempt (rank 0, for all); returns the attempt's number. Raises Fenced, HoldfastError."""

        def take() -> Owner | None:
            if self._tiers.one:
                self._tiers.first.root.mkdir(parents=True, exist_ok=True)
            else:
                make_private(self._tiers.first.root)
            return self._fence.take(job.identity, job.attempt, job.array) if self._leads else None

        places = self._peers.gather((self._tiers.durable.location, self._tiers.one, os.uname().nodename))
        if len({place[:2] for place in places}) > 1:
            raise HoldfastError(
                f"the ranks have different checkpoint directories, or only some have local=: {sorted({p[0] for p in places})}"
            )
        owner = together(self._peers, "taking the checkpoint directory", take, HoldfastError)[0]
        assert owner is not None
        self._job_id, self._turn = owner.job_id, owner.turn
        together(self._peers, "looking at the checkpoint directory", lambda: self._see(owner), HoldfastError)
        mine = places[self._peers.place.rank]
        self._mates = [rank for rank, place in enumerate(places) if self._tiers.one or place == mine]
        previous = self._fence.previous
        if previous is not None and previous.job_id != owner.job_id:
            self._warn(f"{self._tiers.durable.location} was {previous}'s: {owner} goes on from its checkpoints")
        return owner.attempt

    def _see(self, owner: Owner) -> None:
        """Every rank must see what rank 0 has written; another node's view may be some seconds old."""
        for _ in range(SIGHT_TRIES):
            with contextlib.suppress(OSError, HoldfastError):
                found = read_owner(self._tiers.durable)
                if found is not None and found.token == owner.token:
                    return
            self._clock.sleep(SIGHT_PAUSE_S)
        rank, node = self._peers.place.rank, os.uname().nodename
        raise HoldfastError(
            f"rank {rank} on {node} does not see in {self._tiers.durable.location} what rank 0 has written there:"
            " the checkpoint directory must be on a file system that all nodes see"
        )

    def resume(self, training: Training) -> Saved | None:
        """Load the newest checkpoint that verifies; None where there is none. Raises as `Resumption.run`."""
        if training.sharded:
            from holdfast.sharded import Shards

            self._shards = Shards(training.sharded, self._peers, self._warn)
        resumption = Resumption(self._tiers, self._directory, self._fence, self._peers, self._mates, self._warn)
        found = resumption.run(training, self._shards, self._turn)
        if found is None:
            return None
        name, content, size_bytes = found
        return Saved(content.step, self._place(name), self._tiers.durable.tier, size_bytes, content.write_s)

    def _place(self, name: str) -> str:
        """What people are shown: the name in a directory, the whole location in an object store."""
        return name if self._tiers.durable.tier == "shared" else self._tiers.durable.place(name)

    def warm(self) -> None:
        """Get the buffers for the next copy ready, in the background."""
        if self._shards is not None:
            self._worker.start(self._shards.warm)

    def begin(self, step: int, training: Training, *, keep: Keep, ended: Ended, parts: tuple[str, ...] | None = None) -> Future[Saved]:
        """Copy the state of `step`; the future has the published checkpoint, or Fenced or SaveError, on all ranks alike.

        `parts`: save only these of the modules, optimizers and objects with files of their own. `ended` is called from the thread that
        saves, before the future has its result. Raises as the future does where the copy or an object's own files fail.
        """
        began = self._clock.monotonic()
        self._begun += 1
        number = self._begun
        checkpoint = self._directory.place(step, self._turn)
        filed = {name: value for name, value in training.filed.items() if parts is None or name in parts}
        try:
            copied = self._copy(checkpoint, training, filed, parts)
        except SaveError:
            self._discard(checkpoint)
            raise
        blocked_s = self._clock.monotonic() - began

        def complete() -> Saved:
            try:
                content, sending_s = self._complete(checkpoint, copied, began)
            except Exception as fault:
                known = isinstance(fault, HoldfastError)  # else a rank is gone, and what its group raises depends on the backend
                told = fault if known else SaveError(f"the ranks lost each other: {type(fault).__name__}: {fault}")
                ended(None, told)
                raise told from fault
            seconds = self._clock.monotonic() - began
            place, tier = self._place(checkpoint.name), self._tiers.durable.tier
            saved = Saved(step, place, tier, content.size_bytes, seconds, blocked_s, sending_s, content.partial)
            ended(saved, None)
            return saved

        future = self._worker.start(complete)
        if parts is None:  # after a partial one nothing goes: the whole one before it is needed
            self._worker.start(lambda: self._clean_up(checkpoint, keep, future, number))
        return future

    def rest(self) -> None:
        """No save goes on: stop the thread that saves until there is one again."""
        self._worker.stop()

    def _copy(self, checkpoint: Checkpoint, training: Training, filed: dict[str, Any], parts: tuple[str, ...] | None) -> _Copied:
        """The first half. What objects write themselves is written now, and listed by one rank of those that see it."""
        files: list[str] = []
        if filed:
            folder = self._folder(checkpoint)
            standing = together(self._peers, "preparing a save", lambda: self._prepare(checkpoint, parts is not None))[0]
            if standing is not None:
                return _Copied(b"", None, (), parts is not None, standing=standing)
            together(self._peers, "writing an object's own files", lambda: ownfiles.save(folder, filed))
            first = self._mates[0] == self._peers.place.rank
            listed = together(self._peers, "listing them", lambda: ownfiles.names(folder, filed) if first else [])
            files = listed[self._mates[0]]
        own: list[bytes] = []
        together(self._peers, "reading the state", lambda: own.append(training.capture(checkpoint.step, self._peers.place.rank)))
        shards = None if self._shards is None else self._shards.stage()
        return _Copied(own[0], shards, training.large if parts is None else parts, parts is not None, files if filed else None)

    def _folder(self, checkpoint: Checkpoint) -> Path:
        return self._tiers.first.root / checkpoint.name

    def _complete(self, checkpoint: Checkpoint, copied: _Copied, began: float) -> tuple[Manifest, float]:
        """The second half, in the thread that saves."""
        try:
            standing = copied.standing
            if copied.files is None and standing is None:
                standing = together(self._line, "preparing a save", lambda: self._prepare(checkpoint, copied.partial))[0]
            if standing is not None:
                return standing, 0.0
            algorithm = together(self._line, "choosing a hash", default_algorithm)[0]
            written = together(self._line, "writing a checkpoint", lambda: self._write(checkpoint, copied, algorithm))
            content = together(
                self._line, "describing a checkpoint", lambda: self._describe(checkpoint, copied, written, algorithm, began)
            )[0]
            assert content is not None
            sending = self._clock.monotonic()
            if not self._tiers.one:
                together(self._line, f"copying to {self._tiers.durable.location}", lambda: self._send(checkpoint, content))
            together(self._line, "publishing a checkpoint", lambda: self._publish(checkpoint, content))
            return content, 0.0 if self._tiers.one else self._clock.monotonic() - sending
        except SaveError:
            self._discard(checkpoint)
            raise
        finally:
            if copied.shards is not None:
                copied.shards.release()

    def _prepare(self, checkpoint: Checkpoint, partial: bool = False) -> Manifest | None:
        """Rank 0 asks the fence; the first rank of those that see the same folder makes it.

        Returns the manifest if this very checkpoint stands already: its publishing had only been reported as failed.
        """
        if self._leads:
            self._fence.check()
            if checkpoint.published:
                return self._standing(checkpoint, partial)
        if self._mates[0] == self._peers.place.rank:
            folder = self._folder(checkpoint)
            if folder.exists():
                shutil.rmtree(folder)  # our own turn's, from a save that failed
            folder.mkdir()
            fsync_directory(folder.parent)
            faults.point("folder-made")
        return None

    def _standing(self, checkpoint: Checkpoint, partial: bool) -> Manifest:
        """Our own turn's of this step; folders carry the turn, so nobody else wrote it. Raises SaveError if it is not whole."""
        try:
            content = self._directory.read(checkpoint)
            check_sizes(self._tiers.durable, checkpoint.name, content.files)
        except BadCheckpointError as fault:
            raise SaveError(f"{checkpoint.location} is published already, is bad ({fault}), and is never written again") from fault
        if content.partial and not partial:
            raise SaveError(f"{checkpoint.location} is published already, holds a part only, and is never written again")
        return content

    def _write(self, checkpoint: Checkpoint, copied: _Copied, algorithm: str) -> _Written:
        rank = self._peers.place.rank
        folder = self._folder(checkpoint)
        writers: dict[str, HashingWriter] = {}

        def create(name: str) -> AbstractContextManager[HashingWriter]:
            writers[name] = HashingWriter(folder / name, algorithm, self._limiter)
            return writers[name]

        with create(file_name(rank)) as file:
            file.write(copied.own)
        shards = None if copied.shards is None else copied.shards.write(create, copied.parts if copied.partial else None)
        files = {name: FileEntry(bytes=writer.size_bytes, hash=writer.digest, rank=rank) for name, writer in writers.items()}
        files |= ownfiles.entries(folder, (copied.files or [])[self._mates.index(rank) :: len(self._mates)], algorithm, rank)
        fsync_directory(folder)
        faults.point("folder-synced")
        return _Written(files, shards)

    def _describe(self, checkpoint: Checkpoint, copied: _Copied, written: list[_Written], algorithm: str, began: float) -> Manifest | None:
        """Rank 0 writes what belongs to no rank, and the manifest's content."""
        if not self._leads:
            return None
        folder = self._folder(checkpoint)
        files = _joined(written)
        if copied.shards is not None:
            with HashingWriter(folder / SHARD_INDEX, algorithm, self._limiter) as file:
                file.write(copied.shards.metadata([one.shards for one in written], copied.parts if copied.partial else None))
            files[SHARD_INDEX] = FileEntry(bytes=file.size_bytes, hash=file.digest, rank=0)
            fsync_directory(folder)
        torch = module("torch")
        return Manifest(
            step=checkpoint.step,
            attempt=checkpoint.attempt,
            job_id=self._job_id,
            world_size=self._peers.place.world_size,
            torch=None if torch is None else str(torch.__version__),
            algorithm=algorithm,
            write_s=round(self._clock.monotonic() - began, 3),
            files=files,
            parts=copied.parts,
            partial=copied.partial,
        )

    def _send(self, checkpoint: Checkpoint, content: Manifest) -> None:
        """Every rank copies what it wrote to the durable tier."""
        mine = [name for name, entry in content.files.items() if entry.rank == self._peers.place.rank]
        copy_files(self._tiers.first, self._tiers.durable, checkpoint.name, content, mine)

    def _publish(self, checkpoint: Checkpoint, content: Manifest) -> None:
        if not self._leads:
            return
        try:
            check_sizes(self._tiers.durable, checkpoint.name, content.files)
        except BadCheckpointError as fault:
            rank = content.files[fault.file].rank
            raise SaveError(f"{fault.file}, which rank {rank} has written, is not in {checkpoint.location}: {fault.reason}") from fault
        with self._fence.held():
            self._tiers.durable.publish(checkpoint.name, content.to_bytes())

    def _discard(self, checkpoint: Checkpoint) -> None:
        """After a failed save: all ranks have reported, so nobody writes there any more."""
        if self._mates[0] != self._peers.place.rank:
            return
        with contextlib.suppress(OSError):  # where it is not known whether it is published, it stays
            if not (self._tiers.one and checkpoint.published):
                shutil.rmtree(self._folder(checkpoint), ignore_errors=True)

    def _clean_up(self, checkpoint: Checkpoint, keep: Keep, future: Future[Saved], number: int) -> None:
        """After a save, of which training has learnt already."""
        if future.exception() is not None:
            return
        if not self._tiers.one and self._mates[0] == self._peers.place.rank:
            clean_local(self._local, checkpoint)
        if self._leads:
            self._retention.run(keep, urgent=lambda: self._begun != number)


def _joined(written: list[_Written]) -> dict[str, FileEntry]:
    """All ranks' files. Raises SaveError where two have written different ones of the same name, each on its own disk."""
    files: dict[str, FileEntry] = {}
    for one in written:
        for name, entry in one.files.items():
            if name in files and files[name].hash != entry.hash:
                raise SaveError(f"ranks {files[name].rank} and {entry.rank} have written different files of the name {name}")
            files[name] = entry
    return files
