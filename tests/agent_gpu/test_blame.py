"""Whose process it was, also when it is gone."""

from pathlib import Path

import pytest
from holdfast_nodeagent.gpu import blame
from holdfast_nodeagent.gpu.blame import Blame
from holdfast_nodeagent.processes import Processes


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


@pytest.fixture
def blamed(table: Path) -> Blame:
    return Blame(Processes(table, lambda: 0.0))


def process(table: Path, pid: int, job_id: int = 0, *, state: str = "S") -> None:
    folder = table / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(f"{pid} (python) {state} 1 " + "0 " * 17 + "500 0 0")
    (folder / "status").write_text("Uid:\t0\t0\t0\t0\n")
    (folder / "cgroup").write_text(f"0::/system.slice/slurmstepd.scope/job_{job_id}/step_0\n" if job_id else "0::/\n")


def end(table: Path, pid: int) -> None:
    for file in (table / str(pid)).iterdir():
        file.unlink()
    (table / str(pid)).rmdir()


def test_a_running_process(table: Path, blamed: Blame) -> None:
    process(table, 101, 12)
    process(table, 102)
    assert [blamed.job_of(pid) for pid in (101, 102, 103, 0, -1)] == [12, 0, 0, 0, 0]


def test_a_process_that_has_ended_since_it_was_looked_at(table: Path, blamed: Blame) -> None:
    process(table, 101, 12)
    blamed.job_of(101)
    process(table, 101, state="Z")
    assert blamed.job_of(101) == 12
    end(table, 101)
    assert blamed.job_of(101) == 12


def test_a_pid_that_another_process_has_now(table: Path, blamed: Blame) -> None:
    process(table, 101, 12)
    blamed.job_of(101)
    process(table, 101)
    assert blamed.job_of(101) == 0
    end(table, 101)
    assert blamed.job_of(101) == 0


def test_no_more_than_so_many_are_remembered(table: Path, blamed: Blame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "MAX_REMEMBERED", 2)
    for pid in (101, 102, 103):
        process(table, pid, 12)
        blamed.job_of(pid)
        end(table, pid)
    assert [blamed.job_of(pid) for pid in (101, 102, 103)] == [0, 12, 12]
