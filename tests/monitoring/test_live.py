"""Every query is asked of a real Prometheus, by the configuration and the rules that we ship, with all metrics of the table to scrape."""

import json
import math
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feeder import NODES, Feeder
from holdfast_common.metrics import METRICS
from source_files import ALERTS, DASHBOARDS, FOLDER, RECORDINGS, panel_queries, program, put_in

pytestmark = pytest.mark.timeout(90)


class Prometheus:
    """One that scrapes each second."""

    def __init__(self, folder: Path, scraped: int) -> None:
        shipped = FOLDER / "prometheus"
        config = (shipped / "prometheus.yml").read_text().replace("localhost:9464", f"127.0.0.1:{scraped}")
        config = re.sub(r"_interval: \d+s", "_interval: 1s", config).replace("global:\n", "global:\n  scrape_timeout: 1s\n")
        (folder / "prometheus.yml").write_text(re.sub(r"^alerting:\n(  .*\n)+", "", config, flags=re.MULTILINE))
        (folder / "holdfast.rules.yml").write_text(re.sub("interval: 30s", "interval: 1s", (shipped / "holdfast.rules.yml").read_text()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._at = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address={self._at}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, what: str, **parameters: str) -> Any:
        url = f"http://{self._at}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise ConnectionRefusedError("it is still starting") from error
            raise AssertionError(json.load(error)["error"]) from error

    def values(self, expr: str) -> list[float]:
        found = self.ask("query", query=expr)
        return [float(found["result"][1])] if found["resultType"] == "scalar" else [float(each["value"][1]) for each in found["result"]]

    def await_series(self, expr: str, seconds: float = 40.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self._log.read_text()
            try:
                if self.values(expr):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"no series in {seconds} s: {expr}\n{self._log.read_text()}")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Feeder() as feeder:
        started = Prometheus(tmp_path_factory.mktemp("prometheus"), feeder.port)
        try:
            # Three scrapes of both agents, and recording rules that have seen them.
            started.await_series(f'count(count_over_time(up{{job="holdfast-agents"}}[1m]) >= 4) == {len(NODES)}')
            started.await_series("holdfast:resume_duration_seconds:p95_6h > 0")
            yield started
        finally:
            started.process.kill()
            started.process.wait()


def test_every_metric_of_the_table_is_there(prometheus: Prometheus) -> None:
    found = set(prometheus.ask("label/__name__/values"))
    ends = {"gauge": "", "counter": "_total", "histogram": "_bucket"}
    assert {f"{metric.name}{ends[metric.kind]}" for metric in METRICS.values()} - found == set()


def test_every_panel_shows_something(prometheus: Prometheus) -> None:
    empty = [name for name, expr in panel_queries().items() if all(map(math.isnan, prometheus.values(expr)))]
    assert empty == []


def test_every_recording_rule_gives_something(prometheus: Prometheus) -> None:
    empty = [rule.record for rule in RECORDINGS if all(map(math.isnan, prometheus.values(rule.record)))]
    assert empty == []


def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(ALERTS) + len(RECORDINGS)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_grafanas_form_of_an_alert_gives_1_for_each_series(prometheus: Prometheus) -> None:
    with_series = 0
    for alert in ALERTS:
        plain = prometheus.values(alert.promql)
        assert prometheus.values(f"group without () ({alert.promql})") == [1.0] * len(plain), alert.name
        with_series += bool(plain)
    assert with_series > len(ALERTS) / 3, "most were compared without a series"


def test_the_variables_of_dashboards_find_values(prometheus: Prometheus) -> None:
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"][1:]:
            series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            assert prometheus.ask(f"label/{label}/values", **{"match[]": put_in(series)}), f"{name}: {variable['name']}"


def test_a_node_is_named_by_the_controller_alone(prometheus: Prometheus) -> None:
    """`exported_node`, an agent's own word beside that of the service discovery, is dropped."""
    series = prometheus.ask("series", **{"match[]": 'holdfast_gpu_up{job="holdfast-agents"}'})
    assert {each["node"] for each in series} == set(NODES)
    assert not any("exported_node" in each for each in series)
