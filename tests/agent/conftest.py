"""Fixtures of the agent's tests: a hostile metadata server, job directories, stand-ins for slurmstepd, a controller on loopback."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_nodeagent.fakes import FakeController, FakeJob, FakeMetadata
from holdfast_nodeagent.jobdirs import JobDirs
from holdfast_nodeagent.processes import Processes


@pytest.fixture
async def metadata() -> AsyncIterator[FakeMetadata]:
    server = FakeMetadata()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    JobDirs(path / "jobs").prepare()
    return path


@pytest.fixture
def make_job(run_dir: Path) -> Callable[..., FakeJob]:
    """What Prolog does."""

    def make(job_id: int = 12, attempt: int = 0) -> FakeJob:
        return FakeJob.create(run_dir, job_id, attempt)

    return make


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process of the job, by default below a stand-in for its slurmstepd; it ends by any signal, as `sleep` does."""
    started: list[subprocess.Popen[bytes]] = []
    stepd = tmp_path / "slurmstepd"
    shutil.copy("/bin/sleep", stepd)

    def start(job_id: int | None = 12, *, step: bool = False, environment: int | None = None) -> subprocess.Popen[bytes]:
        env = {"PATH": os.environ["PATH"]}
        if step:
            process = subprocess.Popen([f"slurmstepd: [{job_id}.batch]", "30"], executable=stepd, env=env)
        else:
            said = environment if environment is not None else job_id
            process = subprocess.Popen(["sleep", "30"], env=env if said is None else {**env, "SLURM_JOB_ID": str(said)})
        started.append(process)
        while not Path(f"/proc/{process.pid}/environ").read_bytes():  # execve is still at work
            os.sched_yield()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait, in real time, until something is so; the test's own time-out is the limit."""

    async def wait(holds: Callable[[], object]) -> None:
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)

    return wait


class OurProcesses(Processes):
    """The children of this test alone: other tests' slurmd and steps run on the same machine."""

    def _pids(self) -> list[int]:
        found = (self.get(pid) for pid in super()._pids())
        return [process.pid for process in found if process is not None and process.parent == os.getpid()]


@pytest.fixture
def processes() -> Processes:
    return OurProcesses()


@pytest.fixture
def start_of(processes: Processes) -> Callable[[int], float]:
    def look(pid: int) -> float:
        process = processes.get(pid)
        assert process is not None
        return process.started

    return look


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    server = FakeController()
    await server.start()
    yield server
    await server.stop()
