"""The checkpoint directory: one folder per step and attempt, `step-00000120.a2`, complete once it has a manifest.

Everything that renames or deletes is called by rank 0, inside `Fence.held()`.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast import faults, manifest
from holdfast.errors import BadCheckpointError
from holdfast.files import fsync_directory, replace_durably
from holdfast.manifest import Manifest

_NAME = re.compile(r"step-(\d{8,18})\.a(\d{1,9})", re.ASCII)
Unusable = Callable[[str, str, str], None]
"""Gets a checkpoint's name, the faulty file in it, and the reason."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint's folder; ordered by step, then attempt."""

    step: int
    attempt: int
    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def published(self) -> bool:
        """Whether it has a manifest (whether that verifies is another question)."""
        return (self.path / manifest.NAME).exists()


class CheckpointDirectory:
    """The folders below `path`. `warn` gets one line for each thing a user should know; `unusable` the name, file and reason of each
    checkpoint that cannot be resumed from.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], unusable: Unusable = lambda _name, _file, _reason: None) -> None:
        self.path = path
        self._warn = warn
        self._unusable = unusable
        self._verified: set[str] = set()

    def place(self, step: int, attempt: int) -> Checkpoint:
        """Where the checkpoint of that step and attempt stands or will stand."""
        return Checkpoint(step, attempt, self.path / f"step-{step:08d}.a{attempt}")

    def all(self) -> list[Checkpoint]:
        """All checkpoints, half-written ones too, newest first. Raises OSError."""
        if not self.path.is_dir():
            return []
        found = []
        for path in self.path.iterdir():
            if (match := _NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
                found.append(Checkpoint(int(match[1]), int(match[2]), path))
        return sorted(found, reverse=True)

    def check(self, checkpoint: Checkpoint) -> Manifest:
        """Verify a checkpoint wholly. Raises BadCheckpointError, HoldfastError, OSError."""
        try:
            content = manifest.read(checkpoint.path)
        except FileNotFoundError as fault:
            raise BadCheckpointError(manifest.NAME, "the file is missing") from fault
        if (content.step, content.attempt) != (checkpoint.step, checkpoint.attempt):
            raise BadCheckpointError(manifest.NAME, "it belongs to another step or attempt")
        manifest.verify(checkpoint.path, content)
        self._verified.add(checkpoint.name)
        return content

    def newest_verified(self) -> tuple[Checkpoint, Manifest] | None:
        """The newest checkpoint that verifies. Bad ones on the way are quarantined, unreadable ones passed over.

        Raises HoldfastError where verifying is impossible (a hash that is not installed).
        """
        for checkpoint in self.all():
            if not checkpoint.published:
                continue
            try:
                return checkpoint, self.check(checkpoint)
            except BadCheckpointError as fault:
                self.quarantine(checkpoint, fault)
            except OSError as fault:
                self._warn(f"checkpoint {checkpoint.name} cannot be read ({fault}); using an older one")
                self._unusable(checkpoint.name, Path(str(fault.filename or "")).name, f"cannot be read: {fault.strerror or fault}")
        return None

    def quarantine(self, checkpoint: Checkpoint, fault: BadCheckpointError) -> None:
        """Rename a bad checkpoint to `bad-…`, with the reason beside it, and say so."""
        target = self.path / f"bad-{checkpoint.name}"
        number = 1
        while target.exists():
            number += 1
            target = self.path / f"bad-{checkpoint.name}.{number}"
        try:
            checkpoint.path.rename(target)
            reason = {"v": 1, "checkpoint": checkpoint.name, "file": fault.file, "reason": fault.reason}
            replace_durably(target / "reason.json", json.dumps(reason).encode())
            done = f"moved to {target.name}"
        except OSError as trouble:
            done = f"could not be moved: {trouble}"
        self._warn(f"checkpoint {checkpoint.name} is bad: {fault.file}: {fault.reason}; {done}; using an older one")
        self._unusable(checkpoint.name, fault.file, fault.reason)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint, its manifest first: a crash in between leaves it half-written, never damaged.

        Raises OSError.
        """
        (checkpoint.path / manifest.NAME).unlink(missing_ok=True)
        fsync_directory(checkpoint.path)
        faults.point("removal-unpublished")
        shutil.rmtree(checkpoint.path)
        faults.point("removal-done")

    def sweep(self, attempt: int, *, every_attempt: bool) -> None:
        """At a new attempt's entry: delete what earlier attempts left half-written (their tokens are void).

        `every_attempt`: the directory was another job's, whose attempt numbers say nothing about ours.
        """
        for checkpoint in self.all():
            if not checkpoint.published and (every_attempt or checkpoint.attempt <= attempt):
                self._warn(f"checkpoint {checkpoint.name} was never finished (no {manifest.NAME}); removed")
                self._unusable(checkpoint.name, manifest.NAME, "the file is missing: the save was never finished")
                shutil.rmtree(checkpoint.path, ignore_errors=True)

    def prune(self, keep: int) -> None:
        """Keep the newest `keep`; delete older ones only while one of those kept verifies."""
        published = [checkpoint for checkpoint in self.all() if checkpoint.published]
        if len(published) <= keep or not any(self._good(checkpoint) for checkpoint in published[:keep]):
            return
        for checkpoint in published[keep:]:
            self.remove(checkpoint)

    def _good(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.name in self._verified:
            return True
        try:
            self.check(checkpoint)
        except BadCheckpointError as fault:
            self._warn(f"checkpoint {checkpoint.name} is bad: {fault.file}: {fault.reason}; older ones are kept")
            return False
        except OSError:
            return False
        return True
