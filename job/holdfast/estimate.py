"""How long a save will take, learned from those before: for each tier by bytes, bandwidth and fixed cost, and the staging by itself.

A guess is on the slow side (the 95th percentile of the last ten), because a notice's deadline is kept by it; `typical` gives the median.
"""

import statistics
from collections import deque
from collections.abc import Iterable

GUESS_BYTES_PER_S = 100 * 1024 * 1024
GUESS_STAGE_BYTES_PER_S = 1024 * 1024 * 1024
FIXED_S = 0.1
"""Of a tier whose samples are all of about one size: then its fixed cost cannot be told from its bandwidth."""
SAMPLES = 10
_SPREAD = 2.0
SHARED = "shared"


class Tier:
    """What writing to one place (local disk, shared file system, object store) took lately."""

    def __init__(self, guess_bytes_per_s: float) -> None:
        self._guess_bytes_per_s = guess_bytes_per_s
        self._samples: deque[tuple[int, float]] = deque(maxlen=SAMPLES)

    def learn(self, size_bytes: int, seconds: float) -> None:
        """So many bytes took so long, the fixed cost included."""
        self._samples.append((size_bytes, seconds))

    @property
    def known(self) -> bool:
        """Whether anything was measured here."""
        return bool(self._samples)

    @property
    def fixed_s(self) -> float:
        """Seconds that a save costs here whatever its size: where sizes differ enough, what a line through the samples says."""
        if not self._samples:
            return FIXED_S
        sizes, seconds = zip(*self._samples, strict=True)
        differ = max(sizes) >= _SPREAD * max(1, min(sizes))
        fitted = statistics.linear_regression(sizes, seconds).intercept if differ else FIXED_S
        return float(min(max(0.0, fitted), *seconds))

    def seconds(self, size_bytes: int, *, typical: bool = False) -> float:
        """How long so many bytes are expected to take, seconds."""
        fixed_s = self.fixed_s
        each = [fixed_s + (took - fixed_s) * size_bytes / size for size, took in self._samples if size > 0]
        if not each:
            return max(fixed_s, *(took for _, took in self._samples), 0.0) + size_bytes / self._guess_bytes_per_s
        return statistics.median(each) if typical else p95(each)


def p95(values: list[float]) -> float:
    """The 95th percentile, between the two values next to it."""
    if len(values) == 1:
        return values[0]
    return min(statistics.quantiles(values, n=20, method="inclusive")[-1], max(values))


class Estimate:
    """What is known of a run's saves. Before the first, bytes over the bandwidth limit or 100 MiB/s (staging: 1 GiB/s)."""

    def __init__(self, limit_bytes_per_s: float | None, tiers: Iterable[str] = (SHARED,)) -> None:
        """`tiers`: through which a save goes, in turn; the last outlives the node."""
        self._order = tuple(tiers)
        self._guess_bytes_per_s = limit_bytes_per_s or GUESS_BYTES_PER_S
        self._tiers: dict[str, Tier] = {}
        self._stage = Tier(GUESS_STAGE_BYTES_PER_S)
        self._size_bytes = 0

    def learn(self, size_bytes: int, seconds: float | None = None, tier: str = SHARED) -> None:
        """A whole save's size, and how long it took to write it to the tier where that is known."""
        self._size_bytes = size_bytes
        if seconds is not None:
            self._tier(tier).learn(size_bytes, seconds)

    def learn_stage(self, size_bytes: int, seconds: float) -> None:
        """Copying so many bytes out of training's way blocked it for so long."""
        self._stage.learn(size_bytes, seconds)

    @property
    def size_bytes(self) -> int:
        """Of the last save; before the first, what `learn` was told."""
        return self._size_bytes

    @property
    def expected_s(self) -> float:
        """Seconds of the next whole save until it is durable, told to the node before its first byte is written."""
        return round(sum(self.tier_s(self._size_bytes, tier) for tier in self._order), 3)

    def tier_s(self, size_bytes: int, tier: str = SHARED, *, typical: bool = False) -> float:
        """Seconds to write so many bytes to a tier."""
        return self._tier(tier).seconds(size_bytes, typical=typical)

    def stage_s(self, size_bytes: int, *, typical: bool = False) -> float:
        """Seconds for which staging so many bytes blocks training."""
        if not self._stage.known:
            return size_bytes / GUESS_STAGE_BYTES_PER_S
        return self._stage.seconds(size_bytes, typical=typical)

    def save_s(self, size_bytes: int, *, typical: bool = False) -> float | None:
        """Seconds from the start of a save until it is durable: staged, then written to each of the tiers in turn.

        None where one of them was never measured: no deadline is planned by a guess.
        """
        if not all(self._tier(tier).known for tier in self._order):
            return None
        written_s = sum(self.tier_s(size_bytes, tier, typical=typical) for tier in self._order)
        return (self.stage_s(size_bytes, typical=typical) if self._stage.known else 0.0) + written_s

    def _tier(self, name: str) -> Tier:
        return self._tiers.setdefault(name, Tier(self._guess_bytes_per_s))
