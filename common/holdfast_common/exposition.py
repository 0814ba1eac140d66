"""Families of Prometheus metrics, made from the table in `metrics` and from nothing else, and their text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from holdfast_common.metrics import METRICS, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Families:
    """Series of one scrape. A name that the table does not have, or other labels than it says, is a fault of ours: KeyError, ValueError."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}

    def add(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Add a gauge's or a counter's series. `name` without `holdfast_` and `_total`."""
        family, values = self._family(name, labels or {})
        family.add_metric(values, value)

    def histogram(self, name: str, counts: Sequence[int], total: int, sum_s: float, labels: Mapping[str, str] | None = None) -> None:
        """Add a histogram's series; `counts[i]` are the observations of at most `buckets_s[i]` seconds, `total` all of them."""
        family, values = self._family(name, labels or {})
        bounds = METRICS[f"holdfast_{name}"].buckets_s
        buckets = [(_number(bound), float(count)) for bound, count in zip(bounds, counts, strict=True)]
        family.add_metric(values, [*buckets, ("+Inf", float(total))], sum_s)

    def __iter__(self) -> Iterator[Family]:
        """Yield the families that have series, in the table's order."""
        return (self._families[name] for name in METRICS if name in self._families)

    def _family(self, name: str, labels: Mapping[str, str]) -> tuple[Any, list[str]]:
        metric = METRICS[f"holdfast_{name}"]
        if set(labels) != set(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        family = self._families.get(metric.name)
        if family is None:
            family = self._families[metric.name] = _new(metric)
        return family, [labels[label] for label in metric.labels]


def text(*sources: Iterable[Family]) -> bytes:
    """Return the text format 0.0.4 of all families of the sources."""
    registry = CollectorRegistry(auto_describe=False)
    for source in sources:
        registry.register(_Once(source))
    return generate_latest(registry)


class _Once:
    """A collector, as the library wants one."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families

    def describe(self) -> Iterable[Family]:
        return ()


def _new(metric: Metric) -> Any:
    kinds: Mapping[str, Any] = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[metric.kind](metric.name, metric.text, labels=metric.labels)


def _number(bound: float) -> str:
    return f"{bound:.10f}".rstrip("0").rstrip(".") if bound < 1 else f"{bound:g}"
