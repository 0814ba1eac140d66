"""The node's clock is set while a job trains: its processes are the same ones, and the job is neither gone nor parked for it."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.fakes import FakeJob
from holdfast_nodeagent.jobdirs import JobDirs, JobKey
from holdfast_nodeagent.jobs import Jobs
from holdfast_nodeagent.processes import Processes, boot_time


class Node:
    """Processes of this machine, as one whose clock is set sees them."""

    set_by = 0.0

    def boot_time(self) -> float:
        return boot_time() + self.set_by


@pytest.mark.parametrize("by_s", [600.0, -600.0])
async def test_its_ranks_are_still_there(
    run_dir: Path, clock: VirtualClock, make_job: Callable[..., FakeJob], spawn: Callable[..., "subprocess.Popen[bytes]"], by_s: float
) -> None:
    node, reports, gone = Node(), list[Report](), list[JobKey]()
    processes = Processes(boot_time=node.boot_time)
    jobs = Jobs(JobDirs(run_dir / "jobs"), processes, clock, lambda context: context, reports.append, gone.append)
    job, ranks = make_job(), [spawn(12), spawn(12)]
    starts = []
    for process in ranks:
        found = processes.get(process.pid)
        assert found is not None
        starts.append(found.started)
    about = [{"pid": process.pid, "started": started} for process, started in zip(ranks, starts, strict=True)]
    for rank, known in enumerate(about):
        job.rank(rank, **known, state="running")
    jobs.tick()
    node.set_by += by_s
    clock.step(by_s)
    notice = Notice("n-1", NoticeKind.PREEMPT, clock.now() + 120, clock.now())
    jobs.set_own([notice])
    job.rank(0, **about[0], state="parked", notice_id="n-1")
    await clock.advance(0.1)
    jobs.tick()
    assert not reports[-1].all_ranks_parked, "the other rank has not saved, and is there"
    job.rank(1, **about[1], state="parked", notice_id="n-1")
    for _ in range(30):
        await clock.advance(0.1)
        jobs.tick()
    assert reports[-1].all_ranks_parked
    assert reports[-1].ranks == 2
    assert gone == []
    for process in ranks:
        process.kill()
        process.wait()
    until = time.monotonic() + 5
    while not gone and time.monotonic() < until:
        await clock.advance(0.5)
        jobs.tick()
    assert gone == [JobKey(12, 0)], "and when they are gone, that is seen at once"
