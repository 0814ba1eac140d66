"""`[metrics]`: where the controller's metrics are served, and the file of targets."""

from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_controller.config import ControllerConfig, load_config

PLAIN = 'cluster = "lab"\nstate_dir = "/var/lib/holdfast"\npolicy = "/etc/holdfast/policy.toml"\n'


def loaded(tmp_path: Path, metrics: str) -> ControllerConfig:
    path = tmp_path / "controller.toml"
    path.write_text(f"{PLAIN}{metrics}")
    return load_config(path)


def test_nothing_is_served_unless_it_is_asked_for(tmp_path: Path) -> None:
    metrics = loaded(tmp_path, "").metrics
    assert (metrics.listen, metrics.file_sd) == ("", "")


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "0.0.0.0:9464", "[::1]:9464", "monitor.lab:0", ""])
def test_a_host_is_named(tmp_path: Path, listen: str) -> None:
    said = loaded(tmp_path, f'[metrics]\nlisten = "{listen}"\nfile_sd = "/etc/prometheus/agents.json"\n').metrics
    assert (said.listen, said.file_sd) == (listen, "/etc/prometheus/agents.json")


@pytest.mark.parametrize(
    "line", ['listen = ":9464"', 'listen = "9464"', 'listen = "host"', 'listen = "host:65536"', 'listen = "host:http"']
)
def test_without_a_host_or_a_port_it_is_refused(tmp_path: Path, line: str) -> None:
    """A bare port would mean all addresses without saying so."""
    with pytest.raises(ConfigError, match="write host:port"):
        loaded(tmp_path, f"[metrics]\n{line}\n")


def test_the_file_has_an_absolute_path_and_other_keys_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, '[metrics]\nfile_sd = "agents.json"\nlistens = "h:1"\n')
    faults = " ".join(caught.value.faults)
    assert "absolute path" in faults
    assert "listens" in faults
