"""The newest of each reading, and how the rounds went in which they were taken."""

from collections.abc import Iterable, Mapping, Sequence

from holdfast_common.health.catalogue import TIER_S, Tier
from holdfast_common.health.model import Sample
from holdfast_common.metrics import SHORT_S

from holdfast_nodeagent.health.snapshot import TierTime


class Newest:
    """Since the agent's start."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str], Sample] = {}
        """(Reading, GPU or empty) → its newest sample."""
        self.rounds: dict[Tier, int] = dict.fromkeys(TIER_S, 0)
        """Rounds of GPUs' readings that came."""
        self.tiers: dict[str, TierTime] = {}
        self.polled_at = 0.0

    def take(self, samples: Iterable[Sample]) -> None:
        """Remember them."""
        for sample in samples:
            self.samples[sample.name, sample.gpu] = sample

    def round(self, tier: Tier, samples: Sequence[Sample], took_s: float, now: float) -> None:
        """Remember a round of GPUs' readings."""
        self.take(samples)
        self.rounds[tier] += 1
        self.polled_at = now
        before = self.tiers.get(tier, TierTime(buckets=(0,) * len(SHORT_S)))
        buckets = tuple(count + (took_s <= bound) for count, bound in zip(before.buckets, SHORT_S, strict=True))
        self.tiers[tier] = TierTime(before.count + 1, before.sum_s + took_s, buckets)

    def forget_gpus(self, here: Iterable[str]) -> None:
        """Drop the readings of GPUs that are not listed any more."""
        known = {"", *here}
        self.samples = {key: sample for key, sample in self.samples.items() if key[1] in known}

    def of(self, name: str) -> Mapping[str, float | None]:
        """Return the newest values of a reading by GPU."""
        return {gpu: sample.value for (reading, gpu), sample in self.samples.items() if reading == name}
