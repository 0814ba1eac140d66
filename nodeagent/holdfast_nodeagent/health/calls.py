"""Calls that may never return: a file system whose server is gone holds whoever asks it, and such a thread cannot be ended.

So each is made in a thread of its own, at most one per subject, which does not keep the agent from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from holdfast_common.clock import Clock

T = TypeVar("T")


class Calls(Protocol):
    """Makes a call that may hang."""

    async def make(self, subject: str, call: Callable[[], T], limit_s: float) -> T:
        """Return what the call returns. Raises TimeoutError: it has not returned within `limit_s`; OSError: as the call does."""


class ThreadCalls:
    """In a daemon thread. While a subject's call hangs, no other is begun: who asks waits for the one that is under way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: dict[str, asyncio.Future[Any]] = {}

    async def make(self, subject: str, call: Callable[[], T], limit_s: float) -> T:
        """Return what the call returns. Raises TimeoutError and OSError."""
        future = self._under_way.get(subject)
        if future is None:
            future = self._under_way[subject] = self._begin(subject, call)
        sleeper = asyncio.ensure_future(self._clock.sleep(limit_s))
        try:
            await asyncio.wait({future, sleeper}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
        if not future.done():
            raise TimeoutError(f"{subject} has not answered within {limit_s:g} s")
        found: T = future.result()
        return found

    def _begin(self, subject: str, call: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: Exception | None) -> None:
            self._under_way.pop(subject, None)
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, fault = None, None
            try:
                result = call()
            except Exception as error:
                fault = error
            with suppress(RuntimeError):  # the agent has ended meanwhile
                loop.call_soon_threadsafe(finish, result, fault)

        threading.Thread(target=run, name=f"call {subject}", daemon=True).start()
        return future
