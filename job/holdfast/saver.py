"""Saving and resuming, by all ranks together.

A save: rank 0 asks the fence and makes a new folder; every rank writes its file and reports size and hash; only if all
have done so rank 0 asks the fence again and publishes the manifest. A rank that fails says so in the exchange that the
others wait in, so all ranks raise or go on alike.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast import faults, manifest
from holdfast.bandwidth import Limiter
from holdfast.clock import Clock
from holdfast.directory import Checkpoint, CheckpointDirectory, Unusable
from holdfast.errors import Fenced, HoldfastError, SaveError
from holdfast.fence import Fence
from holdfast.files import fsync_directory
from holdfast.hashing import default_algorithm
from holdfast.manifest import FileEntry, Manifest
from holdfast.peers import Peers, together
from holdfast.process import module
from holdfast.state import Training, dump, file_name, load
from holdfast.writer import HashingWriter


@dataclass(frozen=True)
class Saved:
    """A published checkpoint: where, of which step, how large (all ranks' files), and how long writing took."""

    step: int
    name: str
    size_bytes: int
    seconds: float


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
        self._peers = peers
        self._limiter = limiter
        self._clock = clock
        self._warn = warn
        self._leads = peers.place.rank == 0
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
        found = together(self._peers, "looking for a checkpoint", self._find, HoldfastError)[0]
        if found is None:
            return None
        name, content = found
        folder = self._directory.path / name
        rank = self._peers.place.rank
        files = {entry.rank: file for file, entry in content.files.items()}
        wanted = {files[0], files.get(rank, files[0])}

        def become() -> None:
            if rank != 0:  # rank 0 has just verified everything; another node may still read something else
                manifest.verify(folder, content, wanted)
            shared = load(folder / files[0])
            mine = shared if rank == 0 else load(folder / files[rank]) if rank in files else None
            training.restore(shared, mine, self._warn)

        together(self._peers, f"loading {name}", become, HoldfastError)
        return Saved(content.step, name, content.size_bytes, content.write_s)

    def _find(self) -> tuple[str, Manifest] | None:
        if not self._leads:
            return None
        with self._fence.held():
            previous = self._fence.previous
            another_job = previous is not None and previous.job_id != self._job_id
            self._directory.sweep(self.attempt, every_attempt=another_job)
            found = self._directory.newest_verified()
        return None if found is None else (found[0].name, found[1])

    def save(self, step: int, training: Training) -> Saved:
        """Write and publish the checkpoint of `step`. Raises Fenced or SaveError, on all ranks alike."""
        began = self._clock.monotonic()
        checkpoint = self._directory.place(step, self.attempt)
        algorithm = together(self._peers, "preparing a save", lambda: self._prepare(checkpoint))[0]
        try:
            entries = together(self._peers, "writing a checkpoint", lambda: self._write(checkpoint, training, algorithm))
            content = self._manifest(checkpoint, dict(entries), algorithm, self._clock.monotonic() - began)
            together(self._peers, "publishing a checkpoint", lambda: self._publish(checkpoint, content))
        except SaveError:
            self._discard(checkpoint)
            raise
        return Saved(step, checkpoint.name, content.size_bytes, self._clock.monotonic() - began)

    def _prepare(self, checkpoint: Checkpoint) -> str:
        """Rank 0 makes the folder; returns the hash algorithm (rank 0's choice is everybody's)."""
        if not self._leads:
            return ""
        self._fence.check()
        if checkpoint.published:
            raise SaveError(f"{checkpoint.path} is published already and is never written again")
        if checkpoint.path.exists():
            shutil.rmtree(checkpoint.path)  # our own attempt's, from a save that failed
        checkpoint.path.mkdir()
        fsync_directory(checkpoint.path.parent)
        faults.point("folder-made")
        return default_algorithm()

    def _write(self, checkpoint: Checkpoint, training: Training, algorithm: str) -> tuple[str, FileEntry]:
        rank = self._peers.place.rank
        content = training.capture(checkpoint.step, rank)
        name = file_name(rank)
        with HashingWriter(checkpoint.path / name, algorithm, self._limiter) as file:
            dump(content, file)
        fsync_directory(checkpoint.path)
        faults.point("folder-synced")
        return name, FileEntry(bytes=file.size_bytes, hash=file.digest, rank=rank)

    def _manifest(self, checkpoint: Checkpoint, files: dict[str, FileEntry], algorithm: str, took_s: float) -> Manifest:
        torch = module("torch")
        return Manifest(
            step=checkpoint.step,
            attempt=checkpoint.attempt,
            job_id=self._job_id,
            world_size=self._peers.place.world_size,
            torch=None if torch is None else str(torch.__version__),
            algorithm=algorithm,
            write_s=round(took_s, 3),
            files=files,
        )

    def _publish(self, checkpoint: Checkpoint, content: Manifest) -> None:
        if self._leads:
            with self._fence.held():
                _write_manifest(checkpoint.path, content.to_bytes())

    def _discard(self, checkpoint: Checkpoint) -> None:
        """After a failed save: all ranks have reported, so nobody writes there any more."""
        if self._leads and not checkpoint.published:
            shutil.rmtree(checkpoint.path, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Delete checkpoints beyond the newest `keep`. Raises Fenced; other trouble is only told."""

        def delete() -> None:
            if not self._leads:
                return
            try:
                with self._fence.held():
                    self._directory.prune(keep)
            except Fenced:
                raise
            except (OSError, HoldfastError) as fault:
                self._warn(f"cannot delete old checkpoints: {fault}")

        together(self._peers, "deleting old checkpoints", delete)


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
