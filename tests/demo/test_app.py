"""The command: what it writes, keeps and returns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_sandbox.cluster import SandboxError
from holdfast_sandbox.demo import app
from holdfast_sandbox.demo.checks import Failure
from holdfast_sandbox.demo.evidence import Evidence, read_evidence

FILES = {"result.json", "evidence.json", "report.txt", "timeline.svg"}


class Run:
    """Takes the place of the minutes on a sandbox: leaves a file in the demo's folder and returns or raises what it was given."""

    def __init__(self, outcome: tuple[Evidence, list[Failure]] | BaseException) -> None:
        self.outcome = outcome
        self.work = Path()

    def __call__(self, work: Path, _example: Path) -> tuple[Evidence, list[Failure]]:
        self.work = work
        (work / "a log").touch()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: tuple[Evidence, list[Failure]] | BaseException) -> Run:
    run = Run(outcome)
    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(app, "WORK_UNDER", tmp_path)
    return run


def test_a_good_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    run = put(monkeypatch, tmp_path, (evidence, []))
    assert app.main(["--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert read_evidence(out / "evidence.json") == evidence
    assert (out / "report.txt").read_text() in capsys.readouterr().out
    assert not run.work.exists()


def test_keep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    run = put(monkeypatch, tmp_path, (evidence, []))
    assert app.main(["--out", str(out), "--keep"]) == 0
    assert (run.work / "a log").exists()
    assert str(run.work) in capsys.readouterr().err


def test_a_broken_promise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    run = put(monkeypatch, tmp_path, (replace(evidence, leftovers=["4711: slurmd"]), []))
    assert app.main(["--out", str(out), "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["failures"] == [{"promise": "no process outlived the sandbox", "what": "4711: slurmd"}]
    assert json.loads(said.out) == json.loads((out / "result.json").read_text())
    assert "no process outlived the sandbox: 4711: slurmd" in said.err
    assert str(run.work) in said.err
    assert (run.work / "a log").exists()


def test_a_scenario_that_was_cut_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    short = replace(evidence, reclaims=evidence.reclaims[:1])
    evidence.jobs["single"].starts.clear()
    put(monkeypatch, tmp_path, (short, [Failure("the scenario ran to its end", "it took too long")]))
    assert app.main(["--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "the scenario ran to its end: it took too long" in said
    assert "every figure has its record" in said
    assert {path.name for path in out.iterdir()} == FILES


@pytest.mark.parametrize(("fault", "code"), [(SandboxError("no ports"), 1), (KeyboardInterrupt(), 130)])
def test_no_run_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path, fault: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = put(monkeypatch, tmp_path, fault)
    assert app.main(["--out", str(out)]) == code
    said = capsys.readouterr().err
    assert str(run.work) in said
    assert str(fault) in said
    assert (run.work / "a log").exists()
