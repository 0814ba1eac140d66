"""What is committed is what the source generates."""

import shutil
from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_monitoring import __main__ as command
from holdfast_monitoring.files import generated
from holdfast_monitoring.source import alerts
from source_files import FOLDER, ROOT


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of monitoring/ and of its page, on which the command works."""
    shutil.copytree(FOLDER, tmp_path / "monitoring")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "monitoring.md", tmp_path / "docs")
    monkeypatch.setattr(command, "FOLDER", tmp_path / "monitoring")
    return tmp_path / "monitoring"


def test_what_is_committed_is_what_the_source_generates() -> None:
    assert [path for path, text in generated(FOLDER).items() if path.read_text() != text] == []


def test_nothing_else_lies_where_generated_files_do() -> None:
    made = set(generated(FOLDER))
    for folder, pattern in (("grafana/dashboards", "*"), ("tests", "*"), ("prometheus", "*.rules.yml")):
        assert set((FOLDER / folder).glob(pattern)) <= made


def test_check_names_the_files_that_differ(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check"]) == 0
    rules = copy / "prometheus" / "holdfast.rules.yml"
    rules.write_text(rules.read_text().replace("> 60", "> 61"))
    (copy / "grafana" / "dashboards" / "gpu.json").unlink()
    assert command.main(["--check"]) == 1
    assert "monitoring/prometheus/holdfast.rules.yml, monitoring/grafana/dashboards/gpu.json" in capsys.readouterr().err
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0


def test_faults_of_the_source_are_all_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = copy / "source" / "alerts" / "preemption.toml"
    source.write_text(source.read_text().replace('scope = "job"', 'scope = "jobs"').replace('window = "10m"', 'windows = "10m"'))
    with pytest.raises(ConfigError, match="did you mean 'job'"):
        alerts(copy / "source")
    assert command.main(["--check"]) == 2
    assert "windows: unknown key" in capsys.readouterr().err


def test_an_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--chek"]) == 2
    assert "Usage" in capsys.readouterr().err
