"""What the tests of monitoring/ look at: the source, what is generated, and the programs of Prometheus where they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from holdfast_monitoring.source import alerts, cases, recordings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring"
SCHEMAS = Path(__file__).parent / "schemas"
ALERTS = alerts(FOLDER / "source")
RECORDINGS = recordings(FOLDER / "source")
CASES = cases(FOLDER / "source")
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
}
VARIABLES = {"$__rate_interval": "2m", "$datasource": "holdfast-prometheus"}


def read_yaml(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text())


def program(name: str) -> str:
    """A program of Debian's packages prometheus and prometheus-alertmanager; without it the test is skipped."""
    path = ROOT / ".venv" / "prometheus" / "usr" / "bin" / name
    if not path.is_file():
        pytest.skip(f"{name} is not there: scripts/setup unpacks it where it can fetch Debian's packages")
    return str(path)


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels but the headings of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def put_in(expr: str) -> str:
    """The expression as Grafana sends it, with everything chosen."""
    for name in ("node", "gpu", "job", "pool"):
        expr = expr.replace(f'"${name}"', '".*"')
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def panel_queries() -> dict[str, str]:
    """Every panel's queries, by dashboard, panel and letter."""
    return {
        f"{name}: {panel['title']} ({panel['type']}, {target['refId']})": put_in(target["expr"])
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    }


def queries() -> dict[str, str]:
    """Every query that there is: of panels, alerts and recording rules."""
    found = panel_queries()
    found |= {alert.name: alert.promql for alert in ALERTS}
    return found | {rule.record: rule.expr for rule in RECORDINGS}
