"""Grafana's provisioned alerts: the same expressions, evaluated by Grafana.

The file's shape: grafana.com/docs/grafana/latest/alerting/set-up/provision-alerting-resources/file-provisioning.
"""

import re
from collections.abc import Iterable
from typing import Any

from holdfast_monitoring.prometheus import EVERY_S, annotations, labels
from holdfast_monitoring.source import Alert

DATASOURCE = "holdfast-prometheus"
"""The uid of the data source that `provisioning/datasources` makes."""


def provisioning(alerts: Iterable[Alert]) -> dict[str, Any]:
    """Return the content of a file for `provisioning/alerting`."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for alert in alerts:
        groups.setdefault(alert.group, []).append(_rule(alert))
    return {
        "apiVersion": 1,
        "groups": [
            {"orgId": 1, "name": f"holdfast-{name}", "folder": "Holdfast", "interval": f"{EVERY_S}s", "rules": rules}
            for name, rules in groups.items()
        ],
    }


def uid(alert: Alert) -> str:
    """Return the rule's uid: at most 40 characters, and the same for ever, since Grafana knows the rule by it."""
    return "holdfast-" + re.sub(r"(?<!^)(?=[A-Z])", "-", alert.name).lower()


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "uid": uid(alert),
        "title": alert.name,
        "condition": "B",
        "data": [_query(alert), _threshold()],
        "noDataState": "OK",  # the expression gives no series where nothing is wrong
        "execErrState": "Error",
        "for": alert.for_,
        "labels": labels(alert),
        "annotations": annotations(alert),
    }


def _query(alert: Alert) -> dict[str, Any]:
    """Return query A. `group` makes every series that the expression leaves a 1: its own value may be 0, as a lost GPU's `up` is."""
    return {
        "refId": "A",
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": DATASOURCE,
        "model": {
            "refId": "A",
            "datasource": {"type": "prometheus", "uid": DATASOURCE},
            "expr": f"group without () ({alert.promql})",
            "instant": True,
            "range": False,
        },
    }


def _threshold() -> dict[str, Any]:
    return {
        "refId": "B",
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": "__expr__",
        "model": {
            "refId": "B",
            "datasource": {"type": "__expr__", "uid": "__expr__"},
            "type": "threshold",
            "expression": "A",
            "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
        },
    }
