"""What goes wrong in the object store on demand: refusals, slowness, cut and lost answers, wrong bytes."""

import asyncio
import random
import time
from typing import Annotated, Literal

from pydantic import Field

from holdfast_sandbox.cloud_config import Seconds, Strict
from holdfast_sandbox.objects.errors import HungUpError, StoreError

Mode = Literal["error", "slow", "hang", "cut", "corrupt"]

_STRIKES = {"cut": ("PutObject", "UploadPart", "GetObject"), "corrupt": ("PutObject", "UploadPart")}
"""What has a body that can be cut or stored wrong; other calls pass such a fault and do not count."""


class Fault(Strict):
    """Something that goes wrong in calls of `action` (None: any) whose key begins with `prefix`.

    error: answered with `code`; slow: answered after `seconds`; hang: dropped after `seconds` without an answer; cut: the connection is
    dropped after `bytes` of the body, up or down (a shorter body passes); corrupt: one bit of what is stored is flipped, after all
    checks. `after` (error, slow and hang): the call takes effect first. It strikes the next `count` calls (None: all until cleared), or
    each with probability `share`.
    """

    action: Annotated[str, Field(max_length=60)] | None = None
    prefix: Annotated[str, Field(max_length=1024)] = ""
    mode: Mode = "error"
    code: Annotated[str, Field(max_length=60)] = "SlowDown"
    seconds: Seconds = 0.0
    bytes: Annotated[int, Field(ge=0)] = 0
    after: bool = False
    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class Limit(Strict):
    """Bytes per second over all connections and both directions together; None: as fast as it goes."""

    bytes_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Limits:
    """Makes transfers wait so that they stay below a bandwidth."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may pass."""
        if self.bytes_per_s is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size / self.bytes_per_s
        await asyncio.sleep(self._free_at - now)


class Faults:
    """All that is set up to go wrong."""

    def __init__(self) -> None:
        self.limits = Limits()
        self._faults: list[tuple[Fault, list[int]]] = []
        self._random = random.Random(5)

    def add(self, fault: Fault) -> None:
        """Set up a fault."""
        self._faults.append((fault, [] if fault.count is None else [fault.count]))

    def clear(self) -> None:
        """Let everything go right again."""
        self._faults.clear()
        self.limits.bytes_per_s = None

    def struck(self, action: str, key: str) -> Fault | None:
        """The fault that a call meets, which counts it."""
        for fault, left in self._faults:
            if left == [0] or action not in _STRIKES.get(fault.mode, (action,)):
                continue
            if fault.action in (None, action) and key.startswith(fault.prefix):
                if fault.share < 1 and self._random.random() >= fault.share:
                    continue
                if left:
                    left[0] -= 1
                return fault
        return None


async def suffer(fault: Fault | None, *, after: bool) -> None:
    """Live through what a fault does before (or after) a call takes effect. Raises StoreError, HungUpError."""
    if fault is None or fault.after != after:
        return
    if fault.mode in ("slow", "hang"):
        await asyncio.sleep(fault.seconds)
    if fault.mode == "hang":
        raise HungUpError
    if fault.mode == "error":
        raise StoreError(fault.code, "Please reduce your request rate." if fault.code == "SlowDown" else f"{fault.code} on demand.")
