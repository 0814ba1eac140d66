"""An event loop in virtual time: where nothing can run, time jumps to the next timer. So every sleep and `asyncio.timeout` is virtual."""

import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

START = 1_700_000_000.0
_OURS: ContextVar[bool] = ContextVar("controller", default=False)
"""Set in whatever the controller's own tasks do."""


def controller_context() -> Context:
    """Return a context whose tasks, and theirs, are the controller's: they can be frozen."""
    context = copy_context()
    context.run(_OURS.set, True)
    return context


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
        self._frozen = False
        self._held: list[asyncio.Handle] = []

    def freeze(self) -> None:
        """From now on no task of the controller takes a step."""
        self._frozen = True

    def thaw(self) -> None:
        """Let all that has become due meanwhile happen now, in its order."""
        self._frozen = False
        self._ready: Any
        self._ready.extend(self._held)
        self._held = []

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        """Do something in the next round, or, where it is the controller's and that is frozen, once it goes on."""
        if self._frozen and (context.get(_OURS, False) if context is not None else _OURS.get()):
            handle = asyncio.Handle(callback, args, self, context)
            self._held.append(handle)
            return handle
        return super().call_soon(callback, *args, context=context)

    def time(self) -> float:
        return self._virtual.elapsed_s


class LoopClock:
    """A `holdfast_common.clock.Clock` on a loop's time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.set_by = 0.0
        """What somebody has set this host's clock by."""

    def now(self) -> float:
        return START + self.set_by + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)
