"""The readings of the node itself: memory, file systems, the checkpoint store, the clock."""

import pwd
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from holdfast_common.clock import Clock
from holdfast_common.health.model import Sample

from holdfast_nodeagent.health.calls import Calls
from holdfast_nodeagent.health.disks import disk_samples, store_samples
from holdfast_nodeagent.health.memory import memory_samples
from holdfast_nodeagent.health.skew import Skew

NAME_LIMIT_S = 5.0

T = TypeVar("T")


class NodeChecks:
    """Nothing here blocks: what may hang runs in threads of its own, with a limit."""

    def __init__(self, clock: Clock, calls: Calls, watched: Iterable[Path], mounts: Iterable[Path], proc: Path = Path("/proc")) -> None:
        self.skew = Skew(clock)
        self._clock = clock
        self._calls = calls
        self._watched = tuple(watched)
        self._mounts = tuple(mounts)
        self._proc = proc

    def medium(self) -> list[Sample]:
        """Take the readings of the medium tier."""
        return memory_samples(self._proc, self._clock.now())

    async def slow(self) -> list[Sample]:
        """Take the readings of the slow tier; 10 s at most."""
        at = self._clock.now()
        samples = await disk_samples(self._calls, self._watched, at) + await store_samples(self._calls, self._mounts, at)
        skew = self.skew.sample()
        return samples if skew is None else [*samples, skew]

    async def user_name(self, uid: int) -> str | None:
        """Return the name of a user, or the number where there is none; None while the directory service does not answer."""
        return await self.told(f"user {uid}", lambda: _user_name(uid))

    async def told(self, subject: str, call: Callable[[], T]) -> T | None:
        """Return what a call says that may hang; None where it gives an error, or does not return within 5 s."""
        try:
            return await self._calls.make(subject, call, NAME_LIMIT_S)
        except (TimeoutError, OSError):
            return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
