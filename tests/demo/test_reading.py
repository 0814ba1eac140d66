"""Reading what jobs, Slurm and the controller wrote, and the moments at which the cloud strikes."""

import json
import sqlite3
from pathlib import Path

import pytest
from holdfast_sandbox.demo.evidence import KINDS, Evidence, read_evidence, write_evidence
from holdfast_sandbox.demo.scenario import JOBS, PAIR, RECLAIMS, SINGLE, arguments, due, sbatch_options
from holdfast_sandbox.history.journal import read_journal
from holdfast_sandbox.history.model import Start
from holdfast_sandbox.history.reading import read_completions, read_lines, read_starts, read_steps


def test_evidence_survives_writing(tmp_path: Path, evidence: Evidence) -> None:
    write_evidence(tmp_path / "e.json", evidence)
    assert read_evidence(tmp_path / "e.json") == evidence


def test_steps_are_read_as_unbroken_runs() -> None:
    output = "".join(f"step {step} attempt 0 loss 2.3 accuracy 0.1\n" for step in range(5))
    output += "holdfast: attempt 1 resumes at step 3\nstep 3 attempt 1 loss 1 accuracy 0\nstep 5 attempt 1 loss 1 accuracy 0\n"
    assert read_steps(output) == [(0, 0, 4), (1, 3, 3), (1, 5, 5)]
    assert read_steps("") == []


def test_starts_and_lines_leave_out_what_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "starts.txt").write_text("1.5 0 spot-1\n2.5 1 spot-2\n3.")
    assert read_starts(tmp_path / "starts.txt") == [Start(1.5, 0, "spot-1"), Start(2.5, 1, "spot-2")]
    assert read_starts(tmp_path / "none") == []
    (tmp_path / "attempts.jsonl").write_text('{"event": "done"}\n{"eve')
    assert read_lines(tmp_path / "attempts.jsonl") == [{"event": "done"}]


def test_slurms_completion_log(tmp_path: Path) -> None:
    line = "JobId={} UserId=root(0) GroupId=root(0) Name=single JobState={} Partition=spot TimeLimit=UNLIMITED NodeList=spot-1\n"
    log = tmp_path / "jobcomp.log"
    log.write_text(line.format(1, "PENDING") + line.format(12, "FAILED") + line.format(1, "COMPLETED"))
    assert read_completions(log) == {1: ["PENDING", "COMPLETED"], 12: ["FAILED"]}
    assert read_completions(tmp_path / "none") == {}


def test_the_journal_is_read_beside_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, v INTEGER, at REAL, kind TEXT, refs TEXT, text TEXT, body TEXT)")
    for seq in (1, 2):
        writer.execute("INSERT INTO events VALUES (?, 1, ?, 'Launch', '', 'Launch: why', ?)", (seq, seq + 0.5, json.dumps({"at": seq})))
    writer.commit()
    assert [entry.seq for entry in read_journal(path)] == [1, 2]
    assert [(entry.at, entry.body) for entry in read_journal(path, 1)] == [(2.5, {"at": 2})]
    writer.close()
    with pytest.raises(sqlite3.Error):
        read_journal(tmp_path / "none.sqlite")


@pytest.mark.parametrize(
    ("kind", "status", "comes"),
    [
        ("free", {"state": "running", "step": 13, "saved_step": None}, True),
        ("free", {"state": "running", "step": 3, "saved_step": None}, False),
        ("free", {"state": "running", "step": 38, "saved_step": None}, False),
        ("free", {"state": "running", "step": 13, "saved_step": None, "saving_step": 12}, False),
        ("one_of_two", {"state": "running", "step": 90, "saved_step": 80}, True),
        ("saving", {"state": "running", "step": 40, "saved_step": None, "saving_step": 40}, True),
        ("saving", {"state": "running", "step": 46, "saved_step": None, "saving_step": 40}, False),
        ("saving", {"state": "running", "step": 13, "saved_step": None}, False),
        ("unnoticed", {"state": "running", "step": 90, "saved_step": 80}, True),
        ("unnoticed", {"state": "running", "step": 13, "saved_step": None}, False),
        ("free", {"state": "running", "step": "13"}, False),
        ("free", {}, False),
    ],
)
def test_when_a_reclaim_is_due(kind: str, status: dict[str, object], comes: bool) -> None:
    assert due(kind, SINGLE, status, 0.1) is comes  # type: ignore[arg-type]


def test_a_save_that_may_be_over_is_not_struck() -> None:
    saving = {"state": "running", "step": 40, "saved_step": None, "saving_step": 40}
    assert due("saving", SINGLE, saving, 0.1)
    assert not due("saving", SINGLE, saving, 1.5)


def test_a_reference_differs_only_in_where_and_how_fast_it_runs() -> None:
    for spec in JOBS:
        mine, other = (arguments(spec, Path("out.pt"), reference=reference) for reference in (False, True))
        at = mine.index("--step-sleep-s") + 1
        assert mine[:at] + mine[at + 1 :] == other[:at] + other[at + 1 :]
    assert sbatch_options(PAIR, reference=True) == ["--partition=local", "--nodes=1", "--ntasks-per-node=2"]
    assert sbatch_options(PAIR, reference=False) == ["--partition=spot"]
    assert sorted(kind for _, kind in RECLAIMS) == sorted(KINDS)
