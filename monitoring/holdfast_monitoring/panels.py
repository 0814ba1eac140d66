"""Grafana's panels: options and field settings by kind, as Grafana 11 and later write them."""

from typing import Any

from holdfast_monitoring.board import Line, Panel

DATASOURCE = {"type": "prometheus", "uid": "$datasource"}

_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def panel(source: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """Return the panel's JSON."""
    made: dict[str, Any] = {
        "id": number,
        "type": source.kind,
        "title": source.title,
        "description": source.text,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [_target(source, query, index) for index, query in enumerate(source.queries)],
        "fieldConfig": {"defaults": _field(source), "overrides": []},
        "options": _OPTIONS[source.kind],
    }
    if source.kind == "table":
        made["transformations"] = _columns(source)
    return made


def _target(source: Panel, query: Line, index: int) -> dict[str, Any]:
    table, range_ = source.kind == "table", source.kind == "timeseries"
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "expr": query.promql,
        "legendFormat": query.legend or "__auto",
        "format": "table" if table else "time_series",
        "instant": not range_,
        "range": range_,
    }


def _field(source: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"value": None, "color": "green" if source.steps else "text"}]
    steps += [{"value": step.at, "color": step.color} for step in source.steps]
    field: dict[str, Any] = {
        "unit": source.unit,
        "color": {"mode": "palette-classic" if source.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": _mappings(source),
    }
    if not source.negative:
        field["min"] = 0
    if source.top is not None:
        field["max"] = source.top
    if source.kind == "timeseries":
        field["custom"] = _lines(source)
    if source.kind == "table":
        field["custom"] = {"align": "auto", "inspect": False, "cellOptions": {"type": "auto"}}
    return field


def _lines(source: Panel) -> dict[str, Any]:
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if source.stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if source.stacked else "none"},
        "thresholdsStyle": {"mode": "line" if source.steps else "off"},
    }


def _mappings(source: Panel) -> list[dict[str, Any]]:
    if not source.meanings:
        return []
    return [{"type": "value", "options": {str(each.value): {"text": each.text, "color": each.color} for each in source.meanings}}]


def _columns(source: Panel) -> list[dict[str, Any]]:
    """Show the named labels in their order and the value, and nothing else."""
    shown = [*source.columns, *(["Value"] if source.value_name else [])]
    return [
        {"id": "filterFieldsByName", "options": {"include": {"names": shown}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: index for index, name in enumerate(shown)},
                "renameByName": {"Value": source.value_name} if source.value_name else {},
            },
        },
    ]


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "graphMode": "none",
        "colorMode": "value",
        "justifyMode": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "orientation": "auto",
        "reduceOptions": _LAST,
    },
    "table": {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"},
    "bargauge": {
        "displayMode": "basic",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "orientation": "horizontal",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "reduceOptions": _LAST,
    },
}
