"""How long the next save will take, told to the node before its first byte is written."""

from collections import deque

_GUESS_BYTES_PER_S = 100 * 1024 * 1024
_FIXED_S = 0.1


class Estimate:
    """The slowest of the last five saves; before the first, size over the bandwidth limit or 100 MiB/s."""

    def __init__(self, limit_bytes_per_s: float | None) -> None:
        self._limit_bytes_per_s = limit_bytes_per_s
        self._recent_s: deque[float] = deque(maxlen=5)
        self._size_bytes = 0

    def learn(self, size_bytes: int, seconds: float | None = None) -> None:
        """A save's size, and how long it took where that is known."""
        self._size_bytes = size_bytes
        if seconds is not None:
            self._recent_s.append(seconds)

    @property
    def expected_s(self) -> float:
        """Seconds."""
        rate = self._limit_bytes_per_s or _GUESS_BYTES_PER_S
        if not self._recent_s:
            return round(_FIXED_S + self._size_bytes / rate, 3)
        return round(max(self._recent_s), 3)
