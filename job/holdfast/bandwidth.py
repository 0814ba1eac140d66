"""A limit on the bytes per second that saving may write, so that one job does not starve a shared file system."""

import os

from holdfast.clock import Clock

VARIABLE = "HOLDFAST_SAVE_BANDWIDTH_MIB_S"
MIB = 1024 * 1024
BURST_S = 0.1


class Limiter:
    """Token bucket over bytes. `rate_mib_s` None: no limit. The limit is per process (per rank)."""

    def __init__(self, rate_mib_s: float | None, clock: Clock) -> None:
        if rate_mib_s is not None and not 0 < rate_mib_s < float("inf"):
            raise ValueError(f"the save bandwidth must be above 0 MiB/s, not {rate_mib_s}")
        self.bytes_per_s = None if rate_mib_s is None else rate_mib_s * MIB
        self._clock = clock
        self._level_bytes = 0.0
        self._filled_at = clock.monotonic()

    @property
    def slice_bytes(self) -> int:
        """Largest write to make at once, so that the pace is even and not one stall per gigabyte."""
        if self.bytes_per_s is None:
            return 8 * MIB
        return min(8 * MIB, max(4096, int(self.bytes_per_s * BURST_S)))

    def take(self, count: int) -> None:
        """Wait until `count` bytes may be written."""
        if self.bytes_per_s is None:
            return
        now = self._clock.monotonic()
        burst = self.bytes_per_s * BURST_S
        self._level_bytes = min(burst, self._level_bytes + (now - self._filled_at) * self.bytes_per_s) - count
        self._filled_at = now
        if self._level_bytes < 0:
            self._clock.sleep(-self._level_bytes / self.bytes_per_s)


def rate_from(explicit_mib_s: float | None, environ: dict[str, str] | None = None) -> float | None:
    """The rate in MiB/s: the argument, else the environment's, else None. Raises ValueError for a bad number."""
    if explicit_mib_s is not None:
        return explicit_mib_s
    text = (os.environ if environ is None else environ).get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError as fault:
        raise ValueError(f"{VARIABLE} must be a number of MiB/s, not {text!r}") from fault
