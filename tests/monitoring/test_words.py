"""The values that queries ask for are words that Holdfast's exporters write."""

from typing import Any

import promql_parser as promql
import pytest
from holdfast_common.health.catalogue import CLOCK_REASONS
from holdfast_common.health.model import Action
from holdfast_common.notice import NoticeKind
from holdfast_controller.metrics.collector import NODE_PHASES
from holdfast_controller.metrics.leaving import OUTCOMES
from holdfast_controller.providers.base import FaultKind, Market
from holdfast_nodeagent.exporter import PLAIN
from source_files import queries

WORDS: dict[tuple[str, str], set[str]] = {
    ("holdfast_launch_faults_total", "kind"): set(FaultKind),
    ("holdfast_preemption_notices_total", "kind"): set(NoticeKind),
    ("holdfast_job_gpu_seconds_total", "kind"): {"useful", "lost", "checkpoint"},
    ("holdfast_evacuations_total", "outcome"): set(OUTCOMES),
    ("holdfast_nodes", "phase"): set(NODE_PHASES),
    ("holdfast_pool_price_usd_per_hour", "market"): set(Market),
    ("holdfast_node_finding", "action"): set(Action),
    ("holdfast_node_finding", "dry_run"): {"true", "false"},
    ("holdfast_gpu_clock_event_reason_active", "reason"): set(CLOCK_REASONS),
    ("up", "job"): {"holdfast-controller", "holdfast-agents"},
}
for name, labels in PLAIN.values():
    for label, value in labels.items():
        WORDS.setdefault((f"holdfast_{name}", label), set()).add(value)
        WORDS.setdefault((f"holdfast_{name}_total", label), set()).add(value)
FREE = {"node", "gpu", "pool", "job_id", "xid"}
"""Labels whose values are names and numbers."""
QUERIES = queries()


def matchers(expr: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def visit(part: Any) -> None:
        selector = part.vector_selector if isinstance(part, promql.MatrixSelector) else part
        if isinstance(selector, promql.VectorSelector):
            found.extend((selector.name, matcher) for matcher in selector.matchers.matchers)

    promql.walk(promql.parse(expr), visit)
    return found


def test_words_are_exported() -> None:
    checked = set()
    for query, expr in QUERIES.items():
        for name, matcher in matchers(expr):
            if matcher.name in FREE or matcher.value == ".*":
                continue
            words = WORDS[name, matcher.name]
            asked = set(matcher.value.replace("hw_.*", "hw_slowdown").split("|"))
            assert asked <= words, f"{query}: {matcher.name} of {name} is never {asked - words}"
            checked.add((name, matcher.name))
    assert len(checked) > 10


def test_the_check_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUERIES, "broken", 'holdfast_launch_faults_total{kind="refusal"}')
    with pytest.raises(AssertionError, match="is never"):
        test_words_are_exported()
