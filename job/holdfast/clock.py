"""The time that the library sees: three functions, replaced where a test needs another time."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """`wall` gives Unix seconds (deadlines), `monotonic` seconds for durations, `sleep` waits that many seconds."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
