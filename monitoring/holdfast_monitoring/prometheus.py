"""Prometheus' rules, and promtool's tests of them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from holdfast_monitoring.source import Alert, Case, Recording

EVERY_S = 30
"""How often rules are evaluated and targets scraped."""
LONG_MINUTES = 25
LONG_EVERY_S = 300
"""promtool evaluates every rule at every step of every test: tests that look so far ahead take longer steps."""


def recording_group(recordings: Iterable[Recording]) -> dict[str, Any]:
    """Return the group of the recording rules."""
    rules = [{"record": rule.record, "expr": rule.expr} for rule in recordings]
    return {"name": "holdfast-recordings", "interval": f"{EVERY_S}s", "rules": rules}


def alert_groups(alerts: Iterable[Alert]) -> list[dict[str, Any]]:
    """Return the groups of the alerting rules."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for alert in alerts:
        groups.setdefault(alert.group, []).append(_alert_rule(alert))
    return [{"name": f"holdfast-{name}", "interval": f"{EVERY_S}s", "rules": rules} for name, rules in groups.items()]


def labels(alert: Alert) -> dict[str, str]:
    """Return the labels that an alert has besides its series'."""
    return {"severity": alert.severity, "scope": alert.scope, "service": "holdfast"}


def annotations(alert: Alert) -> dict[str, str]:
    """Return the texts that go with an alert."""
    return {"summary": alert.summary, "cause": alert.cause, "next": alert.next, "runbook": alert.runbook}


def unit_tests(alerts: Iterable[Alert], cases: Iterable[Case], every_s: int) -> dict[str, Any]:
    """Return promtool's tests, to lie in `monitoring/tests/`. Raises KeyError where a case is of no alert."""
    known = {alert.name: alert for alert in alerts}
    return {
        "rule_files": ["../prometheus/holdfast.rules.yml"],
        "evaluation_interval": f"{every_s}s",
        "tests": [_unit_test(known[case.alert], case) for case in cases],
    }


def _alert_rule(alert: Alert) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.promql}
    if alert.for_ != "0s":
        rule["for"] = alert.for_
    return {**rule, "labels": labels(alert), "annotations": annotations(alert)}


def _unit_test(alert: Alert, case: Case) -> dict[str, Any]:
    fired = [
        {
            "exp_labels": {**labels(alert), **found},
            "exp_annotations": {key: _filled(text, found) for key, text in annotations(alert).items()},
        }
        for found in case.labels or ()
    ]
    return {
        "name": f"{alert.name}: {case.why}",
        "interval": f"{EVERY_S}s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [*_not_yet(alert), {"eval_time": case.at, "alertname": alert.name, "exp_alerts": fired}],
    }


def _not_yet(alert: Alert) -> list[dict[str, Any]]:
    """Return the look at an alert right before it may fire at the earliest."""
    held_s = int(alert.for_.removesuffix("m")) * 60 if alert.for_.endswith("m") else 0
    return [{"eval_time": f"{held_s - EVERY_S}s", "alertname": alert.name, "exp_alerts": []}] if held_s else []


def _filled(text: str, found: Mapping[str, str]) -> str:
    """Return the text as Prometheus fills it in: a label that is not there is empty."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: found.get(match[1], ""), text)
