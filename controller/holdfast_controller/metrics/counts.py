"""Counters and histograms by their labels: what a tally adds to, and a scrape reads."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast_common.exposition import Families
from holdfast_common.metrics import METRICS

MOST_SERIES = 10_000
"""Of one name: labels are names of the policy, clouds' and Holdfast's own words, so there never are as many."""

Labels = tuple[str, ...]


@dataclass(slots=True)
class Observed:
    """A histogram's series."""

    bounds_s: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: int = 0
    sum_s: float = 0.0

    def observe(self, value_s: float) -> None:
        """Count one."""
        self.counts = self.counts or [0] * len(self.bounds_s)
        for place, bound_s in enumerate(self.bounds_s):
            self.counts[place] += value_s <= bound_s
        self.total, self.sum_s = self.total + 1, self.sum_s + value_s


class Counts:
    """Every counter and histogram of the controller since its start."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, float]] = defaultdict(dict)
        self._histograms: dict[str, dict[Labels, Observed]] = defaultdict(dict)

    def begin(self, name: str, *labels: str) -> None:
        """Have a counter start with 0: Prometheus sees no increase in a series' first value."""
        self.add(name, 0.0, *labels)

    def add(self, name: str, by: float, *labels: str) -> None:
        """Count. `name` without `holdfast_` and `_total`, labels in the table's order."""
        series = self._counters[name]
        if by >= 0 and (labels in series or len(series) < MOST_SERIES):
            series[labels] = series.get(labels, 0.0) + by

    def observe(self, name: str, value_s: float, *labels: str) -> None:
        """Count an observation; a clock that was set back makes none."""
        series = self._histograms[name]
        if labels not in series and len(series) >= MOST_SERIES:
            return
        if value_s >= 0:
            series.setdefault(labels, Observed(METRICS[f"holdfast_{name}"].buckets_s)).observe(value_s)

    def value(self, name: str, *labels: str) -> float:
        """Return a counter's value."""
        return self._counters[name].get(labels, 0.0)

    def observed(self, name: str, *labels: str) -> Observed | None:
        """Return a histogram's series."""
        return self._histograms[name].get(labels)

    def write(self, families: Families) -> None:
        """Add all of it to a scrape."""
        for name, counters in self._counters.items():
            for labels, value in counters.items():
                families.add(name, value, dict(zip(METRICS[f"holdfast_{name}"].labels, labels, strict=True)))
        for name, histograms in self._histograms.items():
            for labels, seen in histograms.items():
                named = dict(zip(METRICS[f"holdfast_{name}"].labels, labels, strict=True))
                families.histogram(name, seen.counts, seen.total, seen.sum_s, named)
