"""A real training process with `import holdfast`, and the real watcher of jobs: both ends of the job protocol meet."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.jobfiles import RankFile, StatusFile, parse
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.fakes import FakeJob
from holdfast_nodeagent.jobdirs import JobDirs, JobKey
from holdfast_nodeagent.jobs import Jobs
from holdfast_nodeagent.processes import Processes

TRAINING = """
import time, holdfast
class Counter:
    n = 0
    def state_dict(self): return {"n": self.n}
    def load_state_dict(self, state): self.n = state["n"]
counter = Counter()
for step in holdfast.Run(counter, every_steps=1_000_000).steps(1_000_000):
    counter.n += 1
    time.sleep(0.005)
"""


def start_training(job: FakeJob, folder: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "HOLDFAST_JOB_DIR": str(job.path), "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "0"}
    env |= {"HOLDFAST_CHECKPOINT_DIR": str(folder / "checkpoints")}
    return subprocess.Popen([sys.executable, "-c", TRAINING], env=env, cwd=folder)


@pytest.mark.timeout(120)  # an interpreter that may have to share its core
async def test_a_training_process_is_told_wakes_saves_parks_and_is_ended(
    run_dir: Path, make_job: Callable[..., FakeJob], processes: Processes, eventually: Callable[..., Awaitable[None]], tmp_path: Path
) -> None:
    job = make_job()
    reports: list[Report] = []
    gone: list[JobKey] = []
    clock = SystemClock()
    jobs = Jobs(JobDirs(run_dir / "jobs"), processes, clock, lambda context: context, reports.append, gone.append)
    training = start_training(job, tmp_path)

    def saw(holds: Callable[[Report], bool]) -> bool:
        jobs.tick()
        return any(holds(report) for report in reports)

    try:
        await eventually(lambda: saw(lambda report: report.state == "running" and report.step > 3))
        assert reports[-1].started > 0
        now = clock.now()
        jobs.set_own([Notice("preempt-1", NoticeKind.PREEMPT, now + 60, now, "taken back")])
        await eventually(lambda: saw(lambda report: report.all_ranks_parked))
        parked = reports[-1]
        assert (parked.state, parked.notice_id, parked.ranks) == ("parked", "preempt-1", 1)
        assert parked.saved_step == parked.step > 3
        assert training.poll() is None
        training.send_signal(signal.SIGTERM)
        training.wait()
        await eventually(lambda: jobs.tick() or gone)
        rank = parse(RankFile, (job.path / "job" / "rank.0.json").read_bytes())
        status = parse(StatusFile, (job.path / "job" / "status.json").read_bytes())
        assert (rank.wake_signal, status.attempt, status.saved_step) == (signal.SIGUSR1, 0, parked.saved_step)
    finally:
        training.kill()
        training.wait()
