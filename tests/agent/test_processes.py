"""Real processes: who is woken, and above all who is not."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_nodeagent.processes import Processes, wake_signal

Spawn = Callable[..., subprocess.Popen[bytes]]
Start = Callable[[int], float]
USR1 = int(signal.SIGUSR1)


def wake(processes: Processes, process: subprocess.Popen[bytes], started: float, *, uid: int | None = None, job_id: int = 12) -> str:
    return processes.wake(process.pid, started, os.getuid() if uid is None else uid, job_id, USR1)


def test_a_registered_process_of_the_job_is_woken(processes: Processes, spawn: Spawn, start_of: Start) -> None:
    process = spawn(environment=12)
    assert wake(processes, process, start_of(process.pid) + 1.5) == ""
    assert process.wait() == -signal.SIGUSR1


@pytest.mark.parametrize(
    ("shift_s", "uid", "job_id", "why"),
    [
        (2.5, None, 12, "another time"),
        (-2.5, None, 12, "another time"),
        (0, 4242, 12, "another user"),
        (0, None, 13, "not in job 13"),
        (0, None, 1, "not in job 1"),
    ],
)
def test_no_one_else_is(
    processes: Processes, spawn: Spawn, start_of: Start, shift_s: float, uid: int | None, job_id: int, why: str
) -> None:
    process = spawn(environment=12)
    assert why in wake(processes, process, start_of(process.pid) + shift_s, uid=uid, job_id=job_id)
    assert process.poll() is None


def test_a_process_that_has_ended_is_not(processes: Processes, spawn: Spawn, start_of: Start) -> None:
    process = spawn(environment=12)
    started = start_of(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "another time" in wake(processes, process, started)  # a zombie
    process.wait()
    assert f"no process {process.pid}" in wake(processes, process, started)


def fake_process(
    root: Path, pid: int, *, parent: int = 1, name: str = "python", uid: int = 0, cgroup: str = "0::/\n", title: bytes = b""
) -> None:
    folder = root / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} " + "0 " * 17 + "500 0 0")
    (folder / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    (folder / "comm").write_text(name + "\n")
    (folder / "cmdline").write_bytes(title)
    (folder / "cgroup").write_text(cgroup)
    (folder / "environ").write_bytes(b"")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    root = tmp_path / "proc"
    root.mkdir()
    return root


def member(table: Path, pid: int, job_id: int) -> bool:
    processes = Processes(table, lambda: 1_700_000_000.0)
    process = processes.get(pid)
    assert process is not None
    return processes.in_job(process, job_id)


def test_membership_by_cgroup(table: Path) -> None:
    fake_process(table, 10, cgroup="0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0\n")
    fake_process(table, 11, cgroup="5:devices:/slurm/uid_7/job_12/step_batch\n3:cpuset:/\n")
    for pid in (10, 11):
        assert member(table, pid, 12)
        assert not member(table, pid, 1)
        assert not member(table, pid, 2)


def test_membership_by_a_slurmstepd_among_the_ancestors(table: Path) -> None:
    fake_process(table, 20, name="slurmstepd", title=b"slurmstepd: [12.batch]")
    fake_process(table, 21, parent=20, name="bash (x) y")
    fake_process(table, 22, parent=21)
    assert member(table, 22, 12)
    assert not member(table, 22, 13)


def test_a_users_process_cannot_pass_for_a_slurmstepd(table: Path) -> None:
    fake_process(table, 30, name="slurmstepd", title=b"slurmstepd: [12.batch]", uid=4242)
    fake_process(table, 31, parent=30)
    assert not member(table, 31, 12)
    assert Processes(table, lambda: 1_700_000_000.0).steps() == {}


def job_of(table: Path, pid: int) -> int | None:
    return Processes(table, lambda: 1_700_000_000.0).job_of(pid)


@pytest.mark.parametrize(
    ("cgroup", "job_id"),
    [
        ("0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0\n", 12),
        ("0::/system.slice/node1_slurmstepd.scope/job_12\n", 12),
        ("5:devices:/slurm/uid_7/job_4294967294/step_batch\n3:cpuset:/\n", 4294967294),
        ("0::/system.slice/job_x/job_012/my_job_13/job_14x\n", None),
        ("0::/\n", None),
    ],
)
def test_the_job_of_a_process_by_cgroup(table: Path, cgroup: str, job_id: int | None) -> None:
    fake_process(table, 10, cgroup=cgroup)
    assert job_of(table, 10) == job_id


def test_the_job_of_a_process_by_its_slurmstepd_and_never_by_its_own_word(table: Path) -> None:
    fake_process(table, 20, name="slurmstepd", title=b"slurmstepd: [12.batch]")
    fake_process(table, 21, parent=20)
    fake_process(table, 22)
    (table / "22" / "environ").write_bytes(b"SLURM_JOB_ID=12\0")
    assert [job_of(table, pid) for pid in (21, 22, 23)] == [12, None, None]


def test_steps_of_every_kind_are_found(table: Path) -> None:
    for pid, title in enumerate((b"[12.batch]", b"[12.0]", b"[13.extern]", b"[14+1.0]", b"[x.0]", b"infinity"), start=40):
        fake_process(table, pid, name="slurmstepd", title=b"slurmstepd: " + title)
    assert {job: [step.pid for step in steps] for job, steps in Processes(table, lambda: 1_700_000_000.0).steps().items()} == {
        12: [40, 41],
        13: [42],
        14: [43],
    }


def step_jobs(table: Path, *titles: bytes, uid: int = 0) -> frozenset[int] | None:
    for pid, title in enumerate(titles, start=70):
        fake_process(table, pid, name="slurmstepd", title=title, uid=uid)
    return Processes(table, lambda: 1_700_000_000.0).step_jobs()


def test_the_jobs_of_all_steps_are_named(table: Path) -> None:
    titles = (b"slurmstepd: [12.batch]", b"slurmstepd: [12.0]", b"slurmstepd: [14+1.0]", b"/usr/sbin/slurmstepd\0infinity\0")
    assert step_jobs(table, *titles) == {12, 14}


@pytest.mark.parametrize("title", [b"/usr/sbin/slurmstepd\0", b"slurmstepd: [StepId=13.0]"])
def test_a_step_that_is_not_understood_makes_the_whole_unclear(table: Path, title: bytes) -> None:
    assert step_jobs(table, b"slurmstepd: [12.batch]", title) is None


def test_no_step_at_all_is_clear(table: Path) -> None:
    assert step_jobs(table, b"", b"slurmstepd: [12.batch]", uid=4242) == frozenset()


def test_start_times_count_from_the_boot(table: Path) -> None:
    fake_process(table, 50)
    processes = Processes(table, lambda: 1_700_000_000.0)
    process = processes.get(50)
    assert process is not None
    assert process.started == 1_700_000_000 + 500 / os.sysconf("SC_CLK_TCK")
    assert processes.alive(50, process.started + 1.9)
    assert not processes.alive(50, process.started + 2.1)
    assert not processes.alive(51, process.started)


def test_a_loop_of_parents_ends(table: Path) -> None:
    fake_process(table, 60, parent=61)
    fake_process(table, 61, parent=60)
    assert not member(table, 60, 12)


def test_a_real_step_and_slurmd(processes: Processes, spawn: Spawn) -> None:
    step = spawn(987_654, step=True)
    assert [process.pid for process in processes.steps()[987_654]] == [step.pid]
    assert processes.running("slurmstepd")
    assert not processes.running("no-such-name")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("SIGUSR1", 10),
        ("USR2", 12),
        (10, 10),
        (34, 34),
        ("SIGKILL", None),
        ("KILL", None),
        (9, None),
        (15, None),
        (19, None),
        ("SIG", None),
        ("SIGNONE", None),
        (None, None),
    ],
)
def test_only_signals_that_a_program_uses_for_itself(value: str | int | None, number: int | None) -> None:
    assert wake_signal(value) == number
