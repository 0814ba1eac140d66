"""All generated files."""

import json
from pathlib import Path
from typing import Any

import yaml

from holdfast_monitoring import documentation, grafana_alerts, grafana_boards, prometheus
from holdfast_monitoring.board import dashboards
from holdfast_monitoring.source import alerts, cases, recordings

MARK = "# Made by scripts/monitoring from monitoring/source: change it there.\n"


def generated(folder: Path) -> dict[Path, str]:
    """Return the text of each file that is made from `folder`/source, the page in docs among them. Raises ConfigError."""
    source = folder / "source"
    known, recorded, tried = alerts(source), recordings(source), cases(source)
    short = [case for case in tried if case.minutes < prometheus.LONG_MINUTES]
    long = [case for case in tried if case.minutes >= prometheus.LONG_MINUTES]
    rules = [prometheus.recording_group(recorded)]
    files = {
        folder / "prometheus/holdfast.recordings.yml": _yaml({"groups": rules}),
        folder / "prometheus/holdfast.rules.yml": _yaml({"groups": [*rules, *prometheus.alert_groups(known)]}),
        folder / "tests/short.test.yml": _yaml(prometheus.unit_tests(known, short, prometheus.EVERY_S)),
        folder / "tests/long.test.yml": _yaml(prometheus.unit_tests(known, long, prometheus.LONG_EVERY_S)),
        folder / "grafana/provisioning/alerting/holdfast.yaml": _yaml(grafana_alerts.provisioning(known)),
    }
    for name, board in dashboards(source).items():
        files[folder / f"grafana/dashboards/{name}.json"] = json.dumps(grafana_boards.dashboard(board), indent=1, ensure_ascii=False) + "\n"
    page = folder.parent / "docs/monitoring.md"
    files[page] = documentation.filled_in(page.read_text(), known, recorded)
    return files


def _yaml(content: dict[str, Any]) -> str:
    return MARK + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140))
