"""Every query names metrics and labels that Holdfast exports."""

from typing import Any

import promql_parser as promql
import pytest
from holdfast_common.metrics import METRICS
from source_files import RECORDINGS, queries

SCRAPE = {"job", "instance"}
OURS = {rule.record: {"node"} for rule in RECORDINGS} | {"up": {"node"}}
"""Series that no exporter serves, and their labels."""
QUERIES = queries()


def nodes(expr: str) -> list[Any]:
    """All parts of an expression."""
    found: list[Any] = []
    promql.walk(promql.parse(expr), found.append)
    return found


def labels_of(name: str) -> set[str]:
    """The labels of a series, by its name. Fails where no metric has such series."""
    if name in OURS:
        return OURS[name] | SCRAPE
    if name in METRICS and METRICS[name].kind == "gauge":
        return set(METRICS[name].labels) | SCRAPE
    base, _, end = name.rpartition("_")
    assert base in METRICS, f"no metric has series called {name}"
    metric = METRICS[base]
    assert end in ({"total"} if metric.kind == "counter" else {"bucket", "sum", "count"}), f"{name} is a {metric.kind}"
    return set(metric.labels) | SCRAPE | ({"le"} if end == "bucket" else set())


def grouped_by(part: Any) -> set[str]:
    """The labels by which a part joins or adds series up."""
    modifier = getattr(part, "modifier", None)
    if isinstance(part, promql.AggregateExpr):
        return set(modifier.labels) if modifier is not None else set()
    if isinstance(part, promql.BinaryExpr) and modifier is not None:
        joined = modifier.matching.labels if modifier.matching is not None else []
        return set(joined) | set(modifier.group_labels or [])
    return set()


@pytest.mark.parametrize("expr", QUERIES.values(), ids=QUERIES.keys())
def test_names_and_labels_are_those_of_the_table(expr: str) -> None:
    parts = nodes(expr)
    selectors = [part for part in parts if isinstance(part, promql.VectorSelector)]
    selectors += [part.vector_selector for part in parts if isinstance(part, promql.MatrixSelector)]
    assert selectors
    for selector in selectors:
        unknown = {matcher.name for matcher in selector.matchers.matchers} - labels_of(selector.name)
        assert not unknown, f"{selector.name} has no label {unknown}"
    known = set().union(*(labels_of(selector.name) for selector in selectors))
    assert set().union(*map(grouped_by, parts)) <= known


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("holdfast_gpu_up_total", "is a gauge|no metric"),
        ("holdfast_launches", "no metric"),
        ('holdfast_gpu_up{job_id="1"}', "no label"),
        ("holdfast_gpus == 1", "no metric"),
    ],
)
def test_the_check_finds_what_is_wrong(expr: str, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        test_names_and_labels_are_those_of_the_table(expr)
