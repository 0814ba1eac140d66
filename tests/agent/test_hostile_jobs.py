"""A job that floods its node: the agent goes on hearing the others, its log and the controller's journal stay small."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.jobfiles import TIME_MAX
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent import jobs as jobs_module
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.fakes import FakeJob
from holdfast_nodeagent.jobdirs import MAX_FOLDER_BYTES, JobDirs, JobKey
from holdfast_nodeagent.jobs import Jobs
from holdfast_nodeagent.notices.aws import parse_instance_action
from holdfast_nodeagent.processes import Process, Processes
from holdfast_nodeagent.record import Record

Make = Callable[..., FakeJob]
KEY = JobKey(12, 0)


class Foreign(Processes):
    """Every process lives, and none is the job's; counts how often that was looked up."""

    asked, ours = 0, False

    def alive(self, pid: int, started: float, *, ticks: int | None = None) -> Process | None:
        return Process(pid, 1, os.getuid(), started, "x")

    def in_job(self, process: Process, job_id: int) -> bool:
        self.asked += 1
        return self.ours

    def steps(self) -> dict[int, list[Process]]:
        return {}


def agent_of(run_dir: Path, clock: VirtualClock, processes: Processes, reports: list[Report]) -> Jobs:
    return Jobs(JobDirs(run_dir / "jobs"), processes, clock, lambda context: context, reports.append, lambda key: None)


async def test_a_word_that_changes_at_each_tick_is_told_now_and_then_and_the_last_one_comes(
    run_dir: Path, clock: VirtualClock, make_job: Make
) -> None:
    job, reports, processes = make_job(), list[Report](), Foreign()
    processes.ours = True
    jobs = agent_of(run_dir, clock, processes, reports)
    for number in range(1000):
        job.rank(state=("running", "saving")[number % 2])
        await clock.advance(0.05)
        jobs.tick()
    assert len(reports) < jobs_module.BURST + 50 / jobs_module.REPORT_S + 5, "twenty a second would be a thousand"
    job.rank(state="saved")
    await clock.advance(2.0)
    jobs.tick()
    assert reports[-1].state == "saved"


async def test_faults_flood_no_log(run_dir: Path, clock: VirtualClock, make_job: Make, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job()
    jobs = agent_of(run_dir, clock, Foreign(), [])
    for number in range(300):
        job.write("rank.0.json", ("{", '{"v":2}', "[]")[number % 3])
        await clock.advance(0.05)
        jobs.tick()
    assert caplog.text.count("void") == jobs_module.MAX_FAULT_LINES
    assert caplog.text.count("no more of this job") == 1


def test_a_thousand_large_files_are_not_read_at_each_tick(run_dir: Path, make_job: Make) -> None:
    job = make_job()
    large = json.dumps({"v": 1, "x": "y" * 60_000}).encode()
    for rank in range(1200):
        (job.path / "job" / f"rank.{rank}.json").write_bytes(large)
    began = time.process_time()
    claims = JobDirs(run_dir / "jobs").claims(KEY)
    assert claims is not None
    assert sum(map(len, claims.texts.values())) <= MAX_FOLDER_BYTES
    assert "together" in next(iter(claims.faults.values()))
    assert len(claims.texts) + len(claims.faults) == 1024
    assert time.process_time() - began < 1.0


def test_a_rank_has_one_name(run_dir: Path, make_job: Make) -> None:
    job = make_job()
    for name in ("rank.\u0661.json", "rank.1\u0662.json", "rank.+1.json", "rank.1_0.json", "rank.1.json\n"):
        (job.path / "job" / name).write_text("{}")
    (run_dir / "jobs" / "1\u0662.0").mkdir()
    dirs = JobDirs(run_dir / "jobs")
    claims = dirs.claims(KEY)
    assert claims is not None
    assert (claims.texts, claims.faults) == ({}, {})
    assert dirs.keys() == {KEY}


async def test_processes_that_are_not_its_own_cost_little(run_dir: Path, clock: VirtualClock, make_job: Make) -> None:
    job, processes = make_job(), Foreign()
    for rank in range(64):
        job.rank(rank, pid=1000 + rank)
    jobs = agent_of(run_dir, clock, processes, [])
    for _ in range(40):
        await clock.advance(0.05)
        jobs.tick()
    assert processes.asked <= 64 * 3, "once a second each, and not at every tick"


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_time_that_no_file_can_hold_is_no_notice(moment: str) -> None:
    """It ended the agent, again at each of its starts: a notice's time goes into the jobs' files, whose times are bounded."""
    with pytest.raises(Exception, match="no time of ours"):
        parse_instance_action(json.dumps({"action": "terminate", "time": moment}).encode())


async def test_a_notice_that_fits_no_file_costs_the_other_jobs_nothing(
    run_dir: Path, clock: VirtualClock, processes: Processes, make_job: Make
) -> None:
    make_job()
    jobs = agent_of(run_dir, clock, processes, [])
    now = clock.now()
    jobs.set_own([Notice("n", NoticeKind.PREEMPT, TIME_MAX * 10, now)])
    jobs.tick()
    jobs.set_own([Notice("m", NoticeKind.PREEMPT, now + 120, now)])
    jobs.tick()
    assert json.loads((run_dir / "jobs" / "12.0" / "node" / "notice.json").read_text())["id"] == "m"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"v": 1, "boot_id": "b", "began": "soon"}',
        '{"v": 1, "boot_id": "b", "notices": {"a": [{"id": "x", "kind": "preempt", "deadline": 1e300, "received": 1}]}}',
        '{"v": 1, "boot_id": "b", "notices": {"a": [{"id": "x", "kind": "?", "deadline": NaN}]}}',
    ],
)
def test_a_memory_that_is_not_ours_is_not_believed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.json"
    path.write_text(text)
    record = Record(path, "b")
    assert record.notices == {}
    record.save()
    assert Record(path, "b").kept == record.kept
