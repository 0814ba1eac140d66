"""A real Prometheus (Debian's, unpacked by scripts/setup) that finds the agents by the controller's service discovery, and its alerts."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from e2e_bed import REPOSITORY, Bed, until

BINARY = REPOSITORY / ".venv" / "prometheus" / "usr" / "bin" / "prometheus"
SPARE_PORT = 5
"""Of the sandbox's own block (`holdfast_sandbox.ports.FIXED_PORTS`)."""
SHIPPED = REPOSITORY / "monitoring" / "prometheus"


def _configuration(metrics_port: int) -> str:
    """The example that we ship, with this sandbox's address, no Alertmanager, and two looks a second: a sick machine is gone after one."""
    text = (SHIPPED / "prometheus.yml").read_text().replace("localhost:9464", f"127.0.0.1:{metrics_port}")
    text = re.sub(r"_interval: \d+s", "_interval: 500ms", text).replace("global:\n", "global:\n  scrape_timeout: 500ms\n")
    return re.sub(r"^alerting:\n(  .*\n)+", "", text, flags=re.MULTILINE)


def _hasty(rules: str) -> str:
    """The rules, looked at twice a second; an alert waits a second where it would wait minutes."""
    return re.sub(r"\bfor: \w+", "for: 1s", re.sub(r"\binterval: \w+", "interval: 500ms", rules))


class Prometheus:
    """Scrapes by our own example's configuration and rules, only more often. A new target takes it up to 5 s (its discovery's own pace)."""

    def __init__(self, bed: Bed, directory: Path) -> None:
        directory.mkdir()
        ports = bed.sandbox.site.ports
        (directory / "prometheus.yml").write_text(_configuration(ports.metrics))
        (directory / "holdfast.rules.yml").write_text(_hasty((SHIPPED / "holdfast.rules.yml").read_text()))
        self._url = f"http://127.0.0.1:{ports.first + SPARE_PORT}"
        arguments = [f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data", "--log.level=warn"]
        log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [BINARY, *arguments, f"--web.listen-address={self._url.removeprefix('http://')}"], stdout=log, stderr=log
        )
        log.close()
        until(self._answers, 20, f"Prometheus: {(directory / 'log').read_text()}")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[dict[str, str]]:
        """The labels of each series that the expression gives now."""
        return [each["metric"] for each in self._get("query", query=expression)["result"]]

    def firing(self) -> list[dict[str, str]]:
        """The labels of the alerts that fire now."""
        return [each["labels"] for each in self._get("alerts")["alerts"] if each["state"] == "firing"]

    def fired(self, since: float) -> set[tuple[str, str]]:
        """Name and node of each alert that has fired since then, whether or not it still does."""
        found = self._get("query", query=f'ALERTS{{alertstate="firing"}}[{int(time.time() - since) + 1}s]')["result"]
        return {(each["metric"]["alertname"], each["metric"].get("node", "")) for each in found}

    def _get(self, what: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=5) as answer:
            return json.load(answer)["data"]

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Prometheus has ended"
        try:
            urllib.request.urlopen(f"{self._url}/-/ready", timeout=2).close()
        except OSError:
            return False
        return True
