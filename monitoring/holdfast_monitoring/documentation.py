"""The sections of docs/monitoring.md that are made from the source and from the table of metrics."""

import re
from collections.abc import Iterable

from holdfast_common.metrics import AGENT, CONTROLLER, Metric

from holdfast_monitoring.source import Alert, Recording

GROUPS = {
    "gpu": "GPUs",
    "node": "Nodes and agents",
    "controller": "Controller",
    "preemption": "Preemption",
    "capacity": "Capacity and cost",
}


def filled_in(page: str, alerts: Iterable[Alert], recordings: Iterable[Recording]) -> str:
    """Return the page with what stands between `<!-- made: NAME -->` and `<!-- end -->` made anew. Raises KeyError for another NAME."""
    made = {
        "alerts": _alerts(tuple(alerts)),
        "recordings": _recordings(recordings),
        "agent metrics": _metrics(AGENT),
        "controller metrics": _metrics(CONTROLLER),
    }
    return re.sub(
        r"(<!-- made: ([a-z ]+) -->\n).*?(<!-- end -->)", lambda found: found[1] + made[found[2]] + found[3], page, flags=re.DOTALL
    )


def _alerts(alerts: tuple[Alert, ...]) -> str:
    parts = []
    for group, title in GROUPS.items():
        parts.append(f"\n### {title}\n")
        parts += [_alert(alert) for alert in alerts if alert.group == group]
    return "".join(parts) + "\n"


def _alert(alert: Alert) -> str:
    held = "" if alert.for_ == "0s" else f", for {alert.for_}"
    return (
        f"\n#### {alert.name}\n\n*{alert.severity}*{held}: {_plain(alert.summary)}.\n\n"
        f"- **Cause:** {_plain(alert.cause)}\n- **Next:** {_plain(alert.next)}\n"
    )


def _plain(text: str) -> str:
    """Return a text with names of labels in braces where values will stand."""
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"{\1}", text)


def _recordings(recordings: Iterable[Recording]) -> str:
    return "| Series | What |\n|---|---|\n" + "".join(f"| `{rule.record}` | {rule.text} |\n" for rule in recordings)


def _metrics(metrics: Iterable[Metric]) -> str:
    head = "| Metric | Kind | Labels | What |\n|---|---|---|---|\n"
    return head + "".join(f"| `{shown(each)}` | {each.kind} | {', '.join(each.labels)} | {each.text} |\n" for each in metrics)


def shown(metric: Metric) -> str:
    """Return a metric's name as its samples have it; a histogram's without `_bucket`, `_sum` and `_count`."""
    return metric.name + ("_total" if metric.kind == "counter" else "")
