"""The look behind a fence: what it says must be young when it is acted upon.

A process can be paused between its look and its deed (a virtual machine that migrates, a host without memory). By then somebody else
may have moved the job: a requeue would then hit the attempt after, which is well. That the deed then waits for nobody is the caller's
part (`Slurm.together`).
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast_common.clock import Clock

FRESH_S = 1.0
"""An answer that arrives later than this after its question is asked for again …"""
LOOKS = 2
"""… but so many looks are enough: a slurmctld that is slow each time must not keep a job from leaving in time."""

T = TypeVar("T")


async def fresh(look: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Return what `look` says, asked once more where the answer was long in coming. Raises what `look` raises."""
    for _ in range(LOOKS - 1):
        began = clock.monotonic()
        found = await look()
        if clock.monotonic() - began <= FRESH_S:
            return found
    return await look()
