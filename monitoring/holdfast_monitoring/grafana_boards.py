"""Grafana's dashboards, and the variables that they let choose."""

from typing import Any

from holdfast_monitoring.board import Dashboard, Panel, Row
from holdfast_monitoring.layout import placed
from holdfast_monitoring.panels import DATASOURCE, panel

SCHEMA_VERSION = 41
"""Of Grafana 11.6 and 12; newer ones migrate it when they load it."""

VARIABLES = {
    "node": ("Node", "label_values(holdfast_agent_build_info, node)"),
    "gpu": ("GPU", 'label_values(holdfast_gpu_up{node=~"$node"}, gpu)'),
    "job": ("Job", 'label_values(holdfast_gpu_job_info{node=~"$node"}, job_id)'),
    "pool": ("Pool", "label_values(holdfast_pool_price_usd_per_hour, pool)"),
}
"""Name → label and query. Each may be several, or all."""


def dashboard(source: Dashboard) -> dict[str, Any]:
    """Return the dashboard's JSON, as provisioning and the import page read it."""
    return {
        "uid": source.uid,
        "title": source.title,
        "description": source.text,
        "tags": ["holdfast"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "time": {"from": f"now-{source.hours}h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [_other_dashboards()],
        "templating": {"list": [_datasource(), *(_variable(name) for name in source.variables)]},
        "panels": _panels(source),
    }


def _panels(source: Dashboard) -> list[dict[str, Any]]:
    panels = []
    for number, (each, place) in enumerate(placed(source.row), start=1):
        if isinstance(each, Panel):
            panels.append(panel(each, number, place))
        else:
            panels.append(_heading(each, number, place))
    return panels


def _heading(row: Row, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def _other_dashboards() -> dict[str, Any]:
    return {
        "title": "Holdfast",
        "type": "dashboards",
        "icon": "external link",
        "tooltip": "",
        "tags": ["holdfast"],
        "asDropdown": True,
        "targetBlank": False,
        "includeVars": False,
        "keepTime": True,
    }


def _datasource() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1, "hide": 0}


def _variable(name: str) -> dict[str, Any]:
    label, query = VARIABLES[name]
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"], "selected": True},
        "hide": 0,
    }
