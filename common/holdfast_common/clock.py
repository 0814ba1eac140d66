"""Time as an argument: the only module that reads a wall clock or sleeps.

`SystemClock` runs in production. `VirtualClock` ships for tests and the simulator: its `sleep` returns at once in real time and moves
its own time forward, in the order in which the sleepers are due.
"""

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Where a part of Holdfast gets its time from."""

    def now(self) -> float:
        """Return Unix seconds. May be set forward or back at any moment (NTP, an admin)."""

    def monotonic(self) -> float:
        """Return seconds since some moment, which no one sets."""

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s` seconds of this clock."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since the host's boot."""
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Sleep in real time."""
        await asyncio.sleep(duration_s)


class VirtualClock:
    """A clock that moves only when it is told to, or when `advance` finds a sleeper due."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start
        self._set_by = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the virtual Unix seconds."""
        return self._now + self._set_by

    def monotonic(self) -> float:
        """Return the virtual seconds, whatever the clock was set to."""
        return self._now

    def step(self, by_s: float) -> None:
        """Set the clock, as NTP does: no time passes."""
        self._set_by += by_s

    async def sleep(self, duration_s: float) -> None:
        """Wait until `advance` has moved the time by `duration_s`."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + duration_s, next(self._order), future))
        await future

    async def advance(self, duration_s: float) -> None:
        """Move the time forward, waking each sleeper at its moment and letting it run before the next is due."""
        end = self._now + duration_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not future.done():
                future.set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle(rounds: int = 20) -> None:
    """Let every task that can run do so, without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)
