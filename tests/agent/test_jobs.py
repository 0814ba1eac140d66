"""What the jobs are told, what they say, and when they are gone: ticks by hand, in virtual time, on real files and processes."""

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.jobfiles import ContextFile
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.fakes import FakeJob
from holdfast_nodeagent.jobdirs import JobDirs, JobKey
from holdfast_nodeagent.jobs import Jobs
from holdfast_nodeagent.processes import Processes

KEY = JobKey(12, 0)
Make = Callable[..., FakeJob]
Spawn = Callable[..., subprocess.Popen[bytes]]
Start = Callable[[int], float]


class Bench:
    def __init__(self, run_dir: Path, clock: VirtualClock, processes: Processes) -> None:
        self.processes = processes
        self.clock = clock
        self.run_dir = run_dir
        self.reports: list[Report] = []
        self.gone: list[JobKey] = []
        self.jobs = self.restart()

    def restart(self) -> Jobs:
        dirs = JobDirs(self.run_dir / "jobs")
        self.jobs = Jobs(dirs, self.processes, self.clock, self.enrich, self.reports.append, self.gone.append)
        return self.jobs

    def enrich(self, context: ContextFile) -> ContextFile:
        return context.model_copy(update={"zone": "us-east-1a"})

    def notice(self, in_s: float = 120, kind: NoticeKind = NoticeKind.PREEMPT, name: str = "n-1") -> Notice:
        now = self.clock.now()
        return Notice(name, kind, now + in_s, now, "taken back")

    async def tick(self, after_s: float = 0.1) -> None:
        await self.clock.advance(after_s)
        self.jobs.tick()


@pytest.fixture
def bench(run_dir: Path, clock: VirtualClock, processes: Processes) -> Bench:
    return Bench(run_dir, clock, processes)


async def test_a_notice_reaches_jobs_that_are_here_and_jobs_that_come(bench: Bench, make_job: Make) -> None:
    first = make_job(12)
    await bench.tick()
    assert first.node("notice.json") is None
    notice = bench.notice()
    bench.jobs.set_own([notice])
    await bench.tick()
    second = make_job(13, 2)
    await bench.tick()
    expected = {
        "v": 1,
        "id": "n-1",
        "kind": "preempt",
        "deadline": notice.deadline,
        "received": notice.received,
        "reason": "taken back",
        "action": "save_and_park",
    }
    assert first.node("notice.json") == second.node("notice.json") == expected


async def test_a_cancelled_notice_is_taken_away(bench: Bench, make_job: Make) -> None:
    job = make_job()
    bench.jobs.set_own([bench.notice()])
    await bench.tick()
    assert bench.jobs.urgent
    bench.jobs.set_own([])
    await bench.tick()
    assert job.node("notice.json") is None
    assert not bench.jobs.urgent


async def test_an_advice_only_asks_for_a_save(bench: Bench, make_job: Make) -> None:
    job = make_job()
    bench.jobs.set_own([bench.notice(0, NoticeKind.ADVISE)])
    await bench.tick()
    content = job.node("notice.json")
    assert content is not None
    assert (content["action"], content["deadline"]) == ("save", None)


async def test_maintenance_that_comes_near_asks_for_more(bench: Bench, make_job: Make) -> None:
    job = make_job()
    bench.jobs.set_own([bench.notice(1000, NoticeKind.MAINTENANCE)])
    await bench.tick()
    assert (job.node("notice.json") or {})["action"] == "save"
    await bench.tick(701)
    assert (job.node("notice.json") or {})["action"] == "save_and_park"


def elsewhere(received: float, name: str = "elsewhere") -> Notice:
    """A notice for another node; processes are real, so its times are too."""
    return Notice(name, NoticeKind.PREEMPT, received + 60, received, "spot-2 goes away")


async def test_a_notice_from_another_node_only_reaches_the_jobs_it_names(
    bench: Bench, make_job: Make, spawn: Spawn, start_of: Start
) -> None:
    named, other = make_job(12), make_job(13)
    began = start_of(spawn(12, step=True).pid)
    spawn(13, step=True)
    await bench.tick()
    bench.jobs.prepare([12, 99], elsewhere(began + 1), cancelled=False)
    await bench.tick()
    assert named.node("notice.json")
    assert other.node("notice.json") is None
    bench.jobs.prepare([12], elsewhere(began + 1), cancelled=True)
    await bench.tick()
    assert named.node("notice.json") is None


async def test_an_attempt_that_had_not_begun_when_the_notice_came_elsewhere_is_not_told(
    bench: Bench, make_job: Make, spawn: Spawn, start_of: Start
) -> None:
    job, ahead = make_job(12, 1), make_job(13, 1)  # the second was made ahead by Epilog
    began = start_of(spawn(12, step=True).pid)
    await bench.tick()
    bench.jobs.prepare([12, 13], elsewhere(began - 5), cancelled=False)
    await bench.tick()
    assert job.node("notice.json") is None
    assert ahead.node("notice.json") is None


async def test_a_restart_neither_repeats_nor_forgets_a_notice(bench: Bench, make_job: Make, spawn: Spawn, start_of: Start) -> None:
    job = make_job()
    began = start_of(spawn(12, step=True).pid)
    await bench.tick()
    own, other = Notice("own", NoticeKind.PREEMPT, began + 120, began, "taken back"), elsewhere(began + 1)
    bench.jobs.set_own([own])
    bench.jobs.prepare([12], other, cancelled=False)
    await bench.tick()
    assert (job.node("notice.json") or {})["id"] == "elsewhere"
    inode = (job.path / "node" / "notice.json").stat().st_ino
    bench.restart()
    bench.jobs.set_own([own])
    await bench.tick()
    assert (job.path / "node" / "notice.json").stat().st_ino == inode
    bench.jobs.prepare([12], other, cancelled=True)
    await bench.tick()
    assert (job.node("notice.json") or {})["id"] == "own"
    bench.restart()
    await bench.tick()  # before the first look at the cloud: what stands in the file holds
    assert (job.node("notice.json") or {})["id"] == "own"
    bench.jobs.set_own([own])
    bench.jobs.set_own([])
    await bench.tick()
    assert job.node("notice.json") is None


async def test_a_directory_that_prolog_still_makes_is_left_alone_and_its_context_enriched_later(bench: Bench, make_job: Make) -> None:
    job = make_job()
    (job.path / "node" / "context.json").rename(job.path / "later")
    bench.jobs.set_own([bench.notice()])
    await bench.tick()
    assert job.node("notice.json") is None
    (job.path / "later").rename(job.path / "node" / "context.json")
    await bench.tick()
    assert job.node("notice.json")
    content = job.node("context.json")
    assert content is not None
    assert (content["zone"], content["nodes"], content["job_id"]) == ("us-east-1a", ["spot-1", "spot-2"], 12)


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_last_words_of_a_job_are_heard_though_epilog_was_quicker(bench: Bench, make_job: Make, restarted: bool) -> None:
    job = make_job()
    await bench.tick()
    job.rank(state="done")
    job.status(state="done", stopped_on_notice=True)
    job.path.rename(job.path.with_name(".gone-12.0"))
    if restarted:
        bench.restart()
    await bench.tick()
    assert [report.stopped_on_notice for report in bench.reports] == [True]
    assert bench.gone == [KEY]
    await bench.tick()
    assert bench.gone == [KEY]


async def test_a_void_context_is_reported_and_left(bench: Bench, make_job: Make, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job()
    (job.path / "node" / "context.json").write_text("{}")
    for _ in range(3):
        await bench.tick()
    assert caplog.text.count("context.json: void") == 1
    assert (job.path / "node" / "context.json").read_text() == "{}"


async def test_a_registered_process_is_woken_once_per_notice(bench: Bench, make_job: Make, spawn: Spawn, start_of: Start) -> None:
    job = make_job()
    inside, outside, unasked = spawn(12), spawn(99), spawn(12)
    for number, process in enumerate((inside, outside, unasked)):
        asked = None if process is unasked else "SIGUSR1"
        job.rank(number, pid=process.pid, started=start_of(process.pid), wake_signal=asked)
    await bench.tick()
    assert inside.poll() is None
    bench.jobs.set_own([bench.notice()])
    await bench.tick()
    assert inside.wait() == -signal.SIGUSR1
    late = spawn(12)
    job.rank(3, pid=late.pid, started=start_of(late.pid), wake_signal=10)
    await bench.tick()
    assert late.wait() == -signal.SIGUSR1
    assert outside.poll() is None
    assert unasked.poll() is None


async def test_changes_are_told_at_once_and_progress_now_and_then(bench: Bench, make_job: Make, spawn: Spawn, start_of: Start) -> None:
    job = make_job()
    process = spawn(12)
    about = {"pid": process.pid, "started": start_of(process.pid)}
    job.rank(**about, state="ready")
    await bench.tick()
    for step in range(5):
        job.rank(**about, step=step, step_s=0.5 + step)
        await bench.tick(0.2)
    assert [(report.state, report.step) for report in bench.reports] == [("ready", 1), ("running", 0)]
    await bench.tick(2)
    assert (bench.reports[-1].step, bench.reports[-1].step_s) == (4, 4.5)
    bench.jobs.set_own([bench.notice()])
    job.rank(**about, state="saving", notice_id="n-1", step=4, save_expected_s=3.5)
    await bench.tick(0.05)
    job.rank(**about, state="parked", notice_id="n-1", step=4, saved_step=4)
    await bench.tick(0.05)
    saving, parked = bench.reports[-2:]
    assert (saving.state, saving.notice_id, saving.save_expected_s, saving.all_ranks_parked) == ("saving", "n-1", 3.5, False)
    assert (parked.state, parked.saved_step, parked.all_ranks_parked, parked.ranks) == ("parked", 4, True, 1)
    assert abs(parked.started - about["started"]) < 2


async def test_a_controller_that_may_have_forgotten_is_told_again(bench: Bench, make_job: Make) -> None:
    make_job().rank()
    await bench.tick()
    count = len(bench.reports)
    await bench.tick()
    assert len(bench.reports) == count
    bench.jobs.resend()
    await bench.tick()
    assert bench.reports[count:] == bench.reports[count - 1 : count]


async def test_a_job_that_registered_nothing_is_reported_by_its_step(bench: Bench, make_job: Make, spawn: Spawn) -> None:
    make_job()
    await bench.tick()
    assert bench.reports == []
    spawn(12, step=True)
    await bench.tick()
    (report,) = bench.reports
    assert (report.state, report.ranks) == ("", 0)
    assert report.started > 0


async def test_a_job_is_gone_when_its_directory_and_its_processes_are(bench: Bench, make_job: Make, spawn: Spawn, start_of: Start) -> None:
    job = make_job()
    step, process = spawn(12, step=True), spawn(12)
    job.rank(pid=process.pid, started=start_of(process.pid))
    await bench.tick()
    shutil.rmtree(job.path)  # Epilog was quicker than the processes
    await bench.tick(5)
    assert bench.gone == []
    for each in (step, process):
        each.kill()
        each.wait()
    await bench.tick()
    assert bench.gone == [KEY]
    await bench.tick()
    assert bench.gone == [KEY]
    assert bench.jobs.reports == {}


async def test_without_an_epilog_it_is_gone_after_a_second_and_comes_back_with_a_process(
    bench: Bench, make_job: Make, spawn: Spawn
) -> None:
    make_job()
    step = spawn(12, step=True)
    await bench.tick()
    step.kill()
    step.wait()
    await bench.tick(0.5)
    await bench.tick(0.9)
    assert bench.gone == []
    await bench.tick(0.2)
    assert bench.gone == [KEY]
    spawn(12, step=True)
    await bench.tick()
    assert KEY in bench.jobs.reports
    assert bench.gone == [KEY]


async def test_a_job_whose_first_step_has_not_begun_is_not_gone(bench: Bench, make_job: Make) -> None:
    make_job()
    for _ in range(4):
        await bench.tick(10)
    assert bench.gone == []


@pytest.mark.parametrize("text", ["{", '{"v":1,"pid":"x"}', '{"v":1}'])
async def test_a_void_file_is_reported_once_and_not_believed(
    bench: Bench, make_job: Make, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    job = make_job()
    job.write("rank.0.json", text)
    for _ in range(3):
        await bench.tick(6)
    assert caplog.text.count("rank.0.json: void") == 1
    assert bench.reports == []
    job.rank()
    await bench.tick(6)
    assert bench.reports[-1].state == "running"
    job.write("rank.0.json", text)
    await bench.tick(6)
    assert caplog.text.count("rank.0.json: void") == 2


async def test_a_file_that_speaks_for_another_rank_is_void(bench: Bench, make_job: Make, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job()
    job.rank(3)
    (job.path / "job" / "rank.3.json").rename(job.path / "job" / "rank.4.json")
    await bench.tick()
    assert "rank.4.json: void: says that it is rank 3" in caplog.text


async def test_a_job_cannot_have_another_jobs_process_woken_or_counted(bench: Bench, make_job: Make, spawn: Spawn, start_of: Start) -> None:
    victim = spawn(13)
    job = make_job(12)
    job.rank(pid=victim.pid, started=start_of(victim.pid), wake_signal="SIGUSR1", state="running")
    job.rank(1, pid=os.getpid(), started=start_of(os.getpid()), wake_signal="SIGUSR1", state="parked", notice_id="n-1")
    bench.jobs.set_own([bench.notice()])
    await bench.tick()
    assert victim.poll() is None
    assert not bench.reports[-1].all_ranks_parked
    assert bench.reports[-1].started == 0


async def test_a_disk_that_takes_nothing_does_not_keep_the_others_from_hearing(
    bench: Bench, make_job: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = make_job(12), make_job(13)
    (broken.path / "node" / ".notice.json.tmp").mkdir()
    bench.jobs.set_own([bench.notice()])
    with caplog.at_level(logging.WARNING):
        await bench.tick()
        await bench.tick()
    assert sound.node("notice.json")
    assert broken.node("notice.json") is None
    assert caplog.text.count("job 12.0: node/: ") == 1
    (broken.path / "node" / ".notice.json.tmp").rmdir()
    await bench.tick()
    assert broken.node("notice.json")
