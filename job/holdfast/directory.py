"""The checkpoint directory: one folder per step and turn (see `holdfast.fence`), `step-00000120.a2`, complete once it has a manifest.

Everything that renames or deletes is called by rank 0 of the turn that owns the directory.
"""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from holdfast import manifest
from holdfast.errors import BadCheckpointError, HoldfastError, StoreError
from holdfast.manifest import Manifest
from holdfast.store.base import Progress, Store
from holdfast.store.files import FileStore
from holdfast.store.verification import check_held, read_manifest, verify

_NAME = re.compile(r"(?:bad-)?step-(\d{8,18})\.a(\d{1,9})(?:\.\d+)?", re.ASCII)
Unusable = Callable[[str, str, str], None]
"""Gets a checkpoint's name, the faulty file in it, and the reason."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint's folder; ordered by step, then attempt."""

    step: int
    attempt: int
    name: str
    store: Store = field(compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The folder, of a checkpoint on a file system. Raises HoldfastError for another."""
        if not isinstance(self.store, FileStore):
            raise HoldfastError(f"{self.location} is on no file system")
        return self.store.root / self.name

    @property
    def location(self) -> str:
        """Its path or URL."""
        return self.store.place(self.name)

    @property
    def published(self) -> bool:
        """Whether it has a manifest (whether that verifies is another question). Asks the store. Raises OSError."""
        return self.store.exists(f"{self.name}/{manifest.NAME}")


class CheckpointDirectory:
    """The folders in a store. `warn` gets one line for each thing a user should know; `unusable` the name, file and reason of each
    checkpoint that cannot be resumed from.
    """

    def __init__(self, where: Path | Store, warn: Callable[[str], None], unusable: Unusable = lambda _name, _file, _reason: None) -> None:
        self.store: Store = FileStore(where) if isinstance(where, Path) else where
        self._warn = warn
        self._unusable = unusable
        self._verified: set[str] = set()
        self._partial: dict[str, bool] = {}

    @property
    def path(self) -> Path:
        """The directory, of a store on a file system. Raises HoldfastError for another."""
        if not isinstance(self.store, FileStore):
            raise HoldfastError(f"{self.store.location} is on no file system")
        return self.store.root

    def place(self, step: int, attempt: int) -> Checkpoint:
        """Where the checkpoint of that step and attempt stands or will stand."""
        return Checkpoint(step, attempt, f"step-{step:08d}.a{attempt}", self.store)

    def _list(self, *, published: bool | None, bad: bool) -> list[Checkpoint]:
        found = []
        for folder in self.store.folders():
            match = _NAME.fullmatch(folder.name)
            if match and folder.bad == bad and published in (None, folder.published):
                found.append(Checkpoint(int(match[1]), int(match[2]), folder.name, self.store))
        return sorted(found, reverse=True)

    def all(self) -> list[Checkpoint]:
        """All checkpoints, half-written ones too, newest first. Raises OSError."""
        return self._list(published=None, bad=False)

    def published(self) -> list[Checkpoint]:
        """Those that have a manifest, newest first. Raises OSError."""
        return self._list(published=True, bad=False)

    def unfinished(self) -> list[Checkpoint]:
        """Those that have no manifest, newest first. Raises OSError."""
        return self._list(published=False, bad=False)

    def set_aside(self) -> list[Checkpoint]:
        """Those that were found bad, newest first. They are never taken, and nothing here deletes them. Raises OSError."""
        return self._list(published=None, bad=True)

    def read(self, checkpoint: Checkpoint) -> Manifest:
        """A checkpoint's manifest, checked by itself. Raises BadCheckpointError, HoldfastError, OSError."""
        try:
            content = read_manifest(self.store, checkpoint.name)
        except FileNotFoundError as fault:
            raise BadCheckpointError(manifest.NAME, "the file is missing") from fault
        if (content.step, content.attempt) != (checkpoint.step, checkpoint.attempt):
            raise BadCheckpointError(manifest.NAME, "it belongs to another step or attempt")
        return content

    def check(self, checkpoint: Checkpoint, progress: Progress | None = None) -> Manifest:
        """Verify a checkpoint wholly. Raises BadCheckpointError, HoldfastError, OSError."""
        content = self.read(checkpoint)
        verify(self.store, checkpoint.name, content, progress=progress)
        self._remember(checkpoint, content)
        return content

    def _remember(self, checkpoint: Checkpoint, content: Manifest) -> None:
        """A partial checkpoint is of use only with a whole one before it, so retention must not lean on it."""
        if not content.partial:
            self._verified.add(checkpoint.name)

    def newest_verified(
        self, check: Callable[[Checkpoint], Manifest] | None = None, *, whole_before: Checkpoint | None = None
    ) -> tuple[Checkpoint, Manifest] | None:
        """The newest checkpoint that verifies; with `whole_before` the newest of those older than it that holds all objects.

        Bad ones on the way are quarantined, unreadable ones passed over. `check` replaces our own (a download that verifies on the way).
        Raises StoreError where none verifies and at least one could not be read: to start afresh then would throw away what may be good.
        Raises HoldfastError where verifying is impossible (a hash that is not installed), OSError.
        """
        unread: list[str] = []
        for checkpoint in self.published():
            if whole_before is not None and (checkpoint >= whole_before or self._is_partial(checkpoint)):
                continue
            try:
                content = (check or self.check)(checkpoint)
                self._remember(checkpoint, content)
                return checkpoint, content
            except BadCheckpointError as fault:
                self.quarantine(checkpoint, fault)
            except OSError as fault:
                self._warn(f"checkpoint {checkpoint.name} cannot be read ({fault}); using an older one")
                self._unusable(checkpoint.name, Path(str(fault.filename or "")).name, f"cannot be read: {fault.strerror or fault}")
                unread.append(f"{checkpoint.name}: {fault}")
        if unread:
            advice = "make them readable, or move them away to start afresh"
            raise StoreError(
                f"no checkpoint in {self.store.location} is known to be good, and {len(unread)} cannot be read; {advice}: {unread[0]}"
            )
        return None

    def quarantine(self, checkpoint: Checkpoint, fault: BadCheckpointError) -> None:
        """Set a bad checkpoint aside (`bad-…` on a file system, a mark beside it on an object store), with the reason, and say so."""
        reason = {"v": 1, "checkpoint": checkpoint.name, "file": fault.file, "reason": fault.reason}
        try:
            done = self.store.set_aside(checkpoint.name, json.dumps(reason).encode())
        except OSError as trouble:
            done = f"could not be moved: {trouble}"
        self._warn(f"checkpoint {checkpoint.name} is bad: {fault.file}: {fault.reason}; {done}; using an older one")
        self._unusable(checkpoint.name, fault.file, fault.reason)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint, its manifest first: a crash in between leaves it half-written, never damaged.

        Raises OSError.
        """
        self.store.remove(checkpoint.name)

    def sweep(self, turn: int) -> None:
        """At a new turn's entry: delete what earlier ones left half-written (their tokens are void).

        Raises OSError where the directory cannot be listed; what cannot be deleted is told.
        """
        for checkpoint in self.unfinished():
            if checkpoint.attempt <= turn:
                done = "removed"
                try:
                    self.remove(checkpoint)
                except OSError as fault:
                    done = f"could not be removed: {fault}"
                self._warn(f"checkpoint {checkpoint.name} was never finished (no {manifest.NAME}); {done}")
                self._unusable(checkpoint.name, manifest.NAME, "the file is missing: the save was never finished")

    def prune(
        self,
        keep: int,
        keep_every: int | None = None,
        guard: Callable[[], None] = lambda: None,
        progress: Progress | None = None,
    ) -> list[Checkpoint]:
        """Keep the newest `keep` whole ones and those whose step is divisible by `keep_every`; delete the others, but only while one of the
        newest verifies (in an object store: is there with the digests that were checked when it was sent). Returns what was deleted.

        A partial one stays until `keep` whole ones are newer. `guard` is called before each deletion (`Fence.check`: the directory may have
        changed hands meanwhile), `progress` while one is verified; their exceptions pass through. Raises OSError.
        """
        newest = self.newest_whole(keep)
        older = [one for one in self.published() if len(newest) == keep and one < newest[-1]]
        doomed = [one for one in older if keep_every is None or one.step % keep_every]
        known = any(one.name in self._verified for one in newest)
        if not doomed or not (known or any(self._good(one, progress) for one in newest)):
            return []
        for checkpoint in doomed:
            guard()
            self.remove(checkpoint)
        return doomed

    def newest_whole(self, count: int) -> list[Checkpoint]:
        """The newest so many that hold all objects, if they are good. Raises OSError."""
        return list(itertools.islice((one for one in self.published() if not self._is_partial(one)), count))

    def _is_partial(self, checkpoint: Checkpoint) -> bool:
        """What cannot be read counts as whole: whether it is good is asked later."""
        if checkpoint.name not in self._partial:
            try:
                self._partial[checkpoint.name] = self.read(checkpoint).partial
            except (BadCheckpointError, OSError):
                return False
        return self._partial[checkpoint.name]

    def _good(self, checkpoint: Checkpoint, progress: Progress | None) -> bool:
        try:
            content = self.read(checkpoint)
            if isinstance(self.store, FileStore):
                verify(self.store, checkpoint.name, content, progress=progress)
            else:
                check_held(self.store, checkpoint.name, content)
            self._remember(checkpoint, content)
        except BadCheckpointError as fault:
            self._warn(f"checkpoint {checkpoint.name} is bad: {fault.file}: {fault.reason}; older ones are kept")
            return False
        except OSError:
            return False
        return not content.partial
