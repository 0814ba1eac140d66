"""Which checkpoints go after a save, and that their going does not delay the next one."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.directory import Checkpoint, CheckpointDirectory

LOCAL_KEPT = 2
"""Checkpoints that stay on a node's own disk, for an attempt that comes back to it."""
MOST_YIELDS = 3
"""So often in a row a deletion gives way to the next save; then it is finished first, or the disk would fill up."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest so many, and those whose step is divisible by `every_steps`."""

    newest: int
    every_steps: int | None = None


class Retention:
    """Deletes in the thread that saves. `guard` raises Fenced where the directory is no longer ours."""

    def __init__(self, directory: CheckpointDirectory, guard: Callable[[], None], warn: Callable[[str], None]) -> None:
        self._directory = directory
        self._guard = guard
        self._warn = warn
        self._yields = 0

    def run(self, keep: Keep, urgent: Callable[[], bool]) -> None:
        """Delete what is old in the durable tier; trouble is only told. Gives way while it reads if the next save is waiting (`urgent`)."""

        def give_way(_done_bytes: int, _total_bytes: int) -> None:
            if self._yields < MOST_YIELDS and urgent():
                raise _Later

        try:
            self._directory.prune(keep.newest, keep.every_steps, self._guard, give_way)
            self._yields = 0
        except _Later:
            self._yields += 1
        except Exception as fault:  # who is fenced learns it from the next save
            self._warn(f"cannot delete old checkpoints: {type(fault).__name__}: {fault}")


class _Later(Exception):  # noqa: N818  (nothing is wrong)
    """The next save is waiting: what is old goes after that."""


def clean_local(local: CheckpointDirectory, newest: Checkpoint) -> None:
    """On a node's own disk, keep the newest few by turn and step up to the one just saved; a later one is being written."""
    found = sorted(local.all(), key=lambda one: (one.attempt, one.step), reverse=True)
    settled = [one for one in found if (one.attempt, one.step) <= (newest.attempt, newest.step)]
    for old in settled[LOCAL_KEPT:]:
        shutil.rmtree(old.path, ignore_errors=True)
