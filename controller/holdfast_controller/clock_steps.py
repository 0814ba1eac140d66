"""The controller's clock, which follows the wall clock when it is told to, and says by how much that was set (by NTP, by an admin)."""

from holdfast_common.clock import Clock

LONGEST_S = 366 * 86400.0
"""A journal that is further ahead of the clock than this was not written by a clock that has been set back."""
STEP_S = 5.0
"""A clock that is off by less is slewed, or the machine was busy: no step."""


class SteadyClock:
    """The clock of one controller: it runs with one that nobody sets, and follows the wall clock only when `resync` is called.

    So no part of the controller ever meets a moment that the fleet has not been moved along to.
    """

    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self._offset = wall.now() - wall.monotonic()

    def now(self) -> float:
        """Return Unix seconds, as of the last `resync`."""
        return self._offset + self._wall.monotonic()

    def monotonic(self) -> float:
        """Return seconds that no one sets."""
        return self._wall.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s` seconds."""
        await self._wall.sleep(duration_s)

    def resync(self) -> float:
        """Follow the wall clock; return by how many seconds it was set meanwhile, 0 for less than `STEP_S`."""
        offset = self._wall.now() - self._wall.monotonic()
        by_s, self._offset = offset - self._offset, offset
        return by_s if abs(by_s) >= STEP_S else 0.0
