"""A fault in what watches the node's health must not end the agent, nor keep a notice from a job."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

from holdfast_common.clock import Clock

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
MAX_TRACES = 20
"""Of one method, with its stack: what fails at every reading would fill the log."""

log = logging.getLogger(__name__)

P = ParamSpec("P")


async def keep(name: str, part: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run a part for ever; one that fails, or ends, is begun again after a pause that grows while it does not live for a minute.

    The same fault again and again makes one entry in the log.
    """
    pause_s, fault = FIRST_PAUSE_S, ""
    while True:
        began = clock.monotonic()
        try:
            await part()
            log.error("%s has ended", name)
        except Exception as error:
            if repr(error) != fault:
                fault = repr(error)
                log.exception("fault in %s", name)
        if clock.monotonic() - began >= MAX_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        await clock.sleep(pause_s)
        pause_s = min(MAX_PAUSE_S, pause_s * 2)


def contained(method: Callable[P, None]) -> Callable[P, None]:
    """Make a listener's method one that logs its faults and raises none."""
    faults = 0

    @functools.wraps(method)
    def call(*arguments: P.args, **keys: P.kwargs) -> None:
        nonlocal faults
        try:
            method(*arguments, **keys)
        except Exception:
            faults += 1
            if faults <= MAX_TRACES:
                log.exception("fault in %s", method.__qualname__)

    return call


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of them has ended; the others are cancelled. Raises what that one raises."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()
