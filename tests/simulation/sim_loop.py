"""An event loop in virtual time: where nothing can run, time jumps to the next timer. So every sleep and `asyncio.timeout` is virtual."""

import asyncio
import selectors

START = 1_700_000_000.0


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Never waits: there is no input from outside."""

    elapsed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for something that will never come")
        self.elapsed_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` starts at 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.elapsed_s


class LoopClock:
    """A `holdfast_common.clock.Clock` on a loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return START + self._loop.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)
