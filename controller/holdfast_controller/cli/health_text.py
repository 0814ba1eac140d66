"""A node's health in words, table cells and JSON. Pure."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast_controller.cli.output import Cell, Row, plain_table
from holdfast_controller.cli.text import clean, moment

GRAVE = frozenset({"drain", "evacuate", "replace"})
_ORDER = ("note", "drain", "evacuate", "replace")
_STYLES = {"healthy": "green", "note": "yellow", "drain": "red", "evacuate": "red", "replace": "red", "unknown": "dim"}
_READINGS = ("READING", "GPU", "STATE", "VALUE", "DETAIL")


def node_row(node: Any, now: float) -> Row:
    """Return a node's line."""
    first = max(node.health.findings, key=lambda each: (not each.dry_run, _rank(each.action)), default=None)
    return (
        Cell(node.node, "bold"),
        Cell(node.state, _STYLES.get(node.state, "")),
        Cell(str(node.health.gpus_visible) if node.HasField("health") else ""),
        Cell(_headline(first) if first is not None else ""),
        Cell(("here" if node.agent_connected else "silent") if node.instance_id else ""),
        Cell(moment(node.heard_at, now)),
        Cell(node.doing),
    )


def _rank(action: str) -> int:
    return _ORDER.index(action) if action in _ORDER else 0


def _headline(finding: Any) -> str:
    where = f" on {finding.gpu}" if finding.gpu else ""
    return f"{finding.rule}{where}{' (dry run)' if finding.dry_run else ''}"


def standing(node: Any) -> list[str]:
    """Return the findings that hold, each as RULE on GPU."""
    return [_headline(finding) for finding in node.health.findings]


def node_record(node: Any) -> dict[str, Any]:
    """Return a node's JSON object."""
    health = node.health if node.HasField("health") else None
    return {
        "name": node.node,
        "state": node.state,
        "sick": node.state in GRAVE,
        "instance_id": node.instance_id or None,
        "agent_connected": node.agent_connected,
        "heard_at": node.heard_at or None,
        "doing": node.doing,
        "gpus_visible": health.gpus_visible if health else None,
        "driver": (health.driver or None) if health else None,
        "rules_revision": (health.rules_revision or None) if health else None,
        "ready": health.ready if health else None,
        "quick_check": (health.quick_check or None) if health else None,
        "deep_check": (health.deep_check or None) if health else None,
        "findings": [_finding(each) for each in node.health.findings],
        "readings": [_reading(each) for each in node.health.readings],
    }


def _finding(each: Any) -> dict[str, Any]:
    return {
        "rule": each.rule,
        "gpu": each.gpu or None,
        "action": each.action,
        "since": _figure(each.since) or None,
        "text": each.text,
        "advice": each.advice,
        "dry_run": each.dry_run,
        "strikes": each.strikes,
        "job_ids": list(each.job_ids),
    }


def _reading(each: Any) -> dict[str, Any]:
    value = _figure(each.value) if each.state == "ok" else None
    return {"name": each.name, "gpu": each.gpu or None, "state": each.state, "value": value, "detail": each.detail or None}


def _figure(value: float) -> float | None:
    """Return the value; None for one that JSON has no word for."""
    return value if math.isfinite(value) else None


def node_lines(node: Any, steps: Mapping[str, str], now: float) -> Iterator[str]:
    """Yield what is known of a node, for people. `steps`: rule → the next step for an admin."""
    agent = "its agent is here" if node.agent_connected else "its agent is silent" if node.instance_id else "it has no machine"
    yield clean(f"{node.node}: {node.state}; {agent}.")
    yield clean(node.doing)
    if not node.HasField("health"):
        yield "Its agent has said nothing of its health since the controller's start."
        return
    health = node.health
    partly = "" if health.ready else " Not everything has been read yet."
    yield clean(f"{health.gpus_visible} GPU(s) visible, driver {health.driver or 'none'}; heard {moment(node.heard_at, now)}.{partly}")
    yield clean(f"Quick check: {health.quick_check or 'not yet'}. Deep check: {health.deep_check or 'none'}.")
    for finding in sorted(health.findings, key=lambda each: (each.dry_run, -_rank(each.action))):
        yield ""
        yield from map(clean, _finding_lines(finding, steps, now))
    if health.readings:
        yield ""
        yield plain_table(_READINGS, [_reading_row(each) for each in health.readings])


def _finding_lines(finding: Any, steps: Mapping[str, str], now: float) -> Iterator[str]:
    since = moment(_figure(finding.since) or 0.0, now) or "unknown"
    jobs = f", job {' '.join(str(job) for job in finding.job_ids)}" if finding.job_ids else ""
    yield f"{_headline(finding)}: {finding.action}, since {since}, {finding.strikes} strike(s){jobs}"
    yield f"  seen:   {finding.text or '-'}"
    yield f"  advice: {finding.advice or '-'}"
    yield f"  next:   {steps.get(finding.rule) or 'see docs/health.md'}"


def _reading_row(each: Any) -> Row:
    value = f"{each.value:g}" if each.state == "ok" else ""
    return Cell(each.name), Cell(each.gpu), Cell(each.state), Cell(value), Cell(each.detail)
