from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_nodeagent.__main__ import main
from holdfast_nodeagent.config import load

GOOD = 'controller = "ctl:7420"\ncluster = "lab"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def test_the_two_settings_without_default_are_enough(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    assert config.jobs_dir == Path("/run/holdfast/jobs")
    assert (config.cloud, config.metadata_url) == ("auto", "")
    assert config.slurmd_command == ()


def test_every_fault_is_said_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, 'controller = "ctl"\ncluster = "a b"\npoll_s = 0\nmetadata_url = "https://x/?q"\ncolour = "red"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert {fault.split(":")[0] for fault in caught.value.faults} == {"controller", "cluster", "poll_s", "metadata_url", "colour"}


@pytest.mark.parametrize("address", ["ctl:0", "ctl:70000", "ctl:", ":1", "a b:1", "http://ctl:1"])
def test_an_address_that_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        load(write(tmp_path, f'controller = "{address}"\ncluster = "lab"\n'))


def test_the_metadata_url_may_have_a_path(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD + 'metadata_url = "http://127.0.0.1:8080/imds/i-1/"\n'))
    assert config.metadata_url == "http://127.0.0.1:8080/imds/i-1"


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        load(write(tmp_path, "controller ="))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "missing.toml")


def test_check_answers_by_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(write(tmp_path, GOOD)), "--check"]) == 0
    assert main(["--config", str(write(tmp_path, "cluster = 3")), "--check"]) == 2
    said = capsys.readouterr().err
    assert "controller: Field required" in said
    assert "cluster:" in said
