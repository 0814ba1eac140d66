"""Prometheus' own tools on our files: promtool, amtool."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from holdfast_monitoring.prometheus import unit_tests
from source_files import ALERTS, CASES, FOLDER, program


def ran(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["holdfast.rules.yml", "holdfast.recordings.yml"])
def test_rules(name: str) -> None:
    assert "SUCCESS" in ran(program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(FOLDER / "prometheus" / name))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["short", "long"])
def test_each_alert_fires_when_it_should_and_not_else(name: str) -> None:
    assert "SUCCESS" in ran(program("promtool"), "test", "rules", str(FOLDER / "tests" / f"{name}.test.yml"))


def test_the_tests_find_a_limit_that_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    rules = (FOLDER / "prometheus" / "holdfast.rules.yml").read_text()
    (folder / "holdfast.rules.yml").write_text(rules.replace("holdfast_gpu_retired_pages > 63", "holdfast_gpu_retired_pages > 62"))
    (tmp_path / "tests").mkdir()
    tests = tmp_path / "tests" / "few.test.yml"
    tests.write_text(yaml.safe_dump(unit_tests(ALERTS, [case for case in CASES if case.alert == "RetiredPagesMany"], 30)))
    done = subprocess.run([program("promtool"), "test", "rules", str(tests)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "RetiredPagesMany: 63 pages" in done.stdout + done.stderr


def test_the_scrape_configuration() -> None:
    assert "is valid" in ran(program("promtool"), "check", "config", str(FOLDER / "prometheus" / "prometheus.yml"))


def test_the_other_way_to_find_agents(tmp_path: Path) -> None:
    """The commented lines, put in the place of the first way."""
    text = (FOLDER / "prometheus" / "prometheus.yml").read_text()
    first, _, other = text.partition("  - job_name: holdfast-agents")
    lines = [line.removeprefix("  # ") for line in other.splitlines() if line.startswith("  # ") and not line.startswith("  # Where")]
    agents = tmp_path / "agents.json"
    agents.write_text(json.dumps([{"targets": ["10.0.0.5:9465"], "labels": {"node": "spot-1"}}]))
    lines = [line.replace("/run/holdfast/agents.json", str(agents)) for line in lines]
    (tmp_path / "holdfast.rules.yml").write_text((FOLDER / "prometheus" / "holdfast.rules.yml").read_text())
    (tmp_path / "prometheus.yml").write_text(first + "\n".join(f"  {line}" for line in lines) + "\n")
    assert "file_sd_configs" in (tmp_path / "prometheus.yml").read_text()
    assert "is valid" in ran(program("promtool"), "check", "config", str(tmp_path / "prometheus.yml"))


def test_the_alertmanager_example_and_its_routes() -> None:
    config = str(FOLDER / "alertmanager" / "alertmanager.yml")
    amtool = program("amtool")
    assert "SUCCESS" in ran(amtool, "check-config", config)
    for severity, receiver in (("critical", "pager"), ("warning", "team"), ("info", "log")):
        assert ran(amtool, "config", "routes", "test", f"--config.file={config}", "service=holdfast", f"severity={severity}").split() == [
            receiver
        ]
    assert ran(amtool, "config", "routes", "test", f"--config.file={config}", "severity=critical").split() == ["team"], "not ours"
