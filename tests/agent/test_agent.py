"""The whole agent against a metadata server, a controller, a Slurm in memory, and real processes."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast.jobdir import ContextFile
from holdfast_common.clock import SystemClock
from holdfast_common.errors import ConfigError
from holdfast_nodeagent.app import Agent, allowed_uids
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.fakes import FakeController, FakeJob, FakeMetadata
from holdfast_nodeagent.notices.aws import AwsMetadata
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_nodeagent.processes import Process, Processes
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_slurm.fake import FakeSettings, FakeSlurm

Make = Callable[..., FakeJob]
Spawn = Callable[..., subprocess.Popen[bytes]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


def in_s(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Machine:
    """One instance, whose agent can be ended and started again."""

    def __init__(self, run_dir: Path, metadata: FakeMetadata, controller: FakeController, processes: Processes) -> None:
        self.clock = SystemClock()
        self.slurm = FakeSlurm(self.clock, ["spot-1", "spot-2"], FakeSettings(power_s=0.02, schedule_s=0.02, gate_s=0.02, epilog_s=0.02))
        self.run_dir = run_dir
        self.metadata = metadata
        self.controller = controller
        self.processes = processes
        self.settings: dict[str, object] = {"poll_s": 0.05, "patience_s": 0.3}
        self.agent: asyncio.Task[None] | None = None

    def start(self) -> None:
        boot_id = self.run_dir / "boot_id"
        boot_id.write_text("boot-1\n")
        config = AgentConfig.model_validate(
            {
                "controller": f"127.0.0.1:{self.controller.port}",
                "cluster": "lab",
                "run_dir": self.run_dir,
                "boot_id_path": boot_id,
                "metadata_url": self.metadata.url,
                **self.settings,
            }
        )
        self.http = MetadataHttp(self.metadata.url)
        source = AwsMetadata(self.http, self.clock)
        agent = Agent(config, self.clock, self.controller.channel, self.slurm, source, self.processes)
        self.agent = asyncio.ensure_future(agent.run())

    async def stop(self) -> None:
        if self.agent is not None:
            self.agent.cancel()
            await asyncio.gather(self.agent, return_exceptions=True)
            self.http.close()
            self.agent = None


@pytest.fixture
async def machine(run_dir: Path, metadata: FakeMetadata, controller: FakeController, processes: Processes) -> AsyncIterator[Machine]:
    made = Machine(run_dir, metadata, controller, processes)
    yield made
    await made.stop()
    await made.slurm.close()


async def test_from_notice_to_parked(
    machine: Machine,
    controller: FakeController,
    metadata: FakeMetadata,
    make_job: Make,
    spawn: Spawn,
    start_of: Callable[[int], float],
    eventually: Eventually,
) -> None:
    machine.start()
    hello = (await controller.until("hello")).hello
    assert (hello.instance_id, hello.launch_token, hello.node, hello.zone) == ("i-0abc", "secret", "", "us-east-1a")
    job, process = make_job(), spawn(12)
    about = {"pid": process.pid, "started": start_of(process.pid), "wake_signal": 10}
    job.rank(**about)
    await controller.until("job_status")
    metadata.notice(in_s(120))
    notice = (await controller.until("notice")).notice
    assert (notice.kind, notice.acted) == ("preempt", False)
    assert 118 <= notice.deadline - notice.received <= 121
    assert (job.node("notice.json") or {})["id"] == notice.id
    assert process.wait() == -signal.SIGUSR1
    waiter = spawn(12)
    about = {"pid": waiter.pid, "started": start_of(waiter.pid)}
    job.rank(**about, state="parked", notice_id=notice.id, saved_step=9)
    await eventually(lambda: controller.received[-1].job_status.all_ranks_parked)
    status = controller.received[-1].job_status
    assert (status.state, status.notice_id, status.saved_step) == ("parked", notice.id, 9)
    metadata.notice(None)
    assert (await controller.until("notice_cancelled")).notice_cancelled.id == notice.id
    assert job.node("notice.json") is None
    assert machine.slurm.calls == []


async def test_a_restart_in_the_middle_of_a_notice(
    machine: Machine, controller: FakeController, metadata: FakeMetadata, make_job: Make
) -> None:
    job = make_job()
    machine.start()
    metadata.notice(in_s(120))
    first = (await controller.until("notice")).notice
    inode = (job.path / "node" / "notice.json").stat().st_ino
    await machine.stop()
    later = make_job(13)
    machine.start()
    second = (await controller.until("notice", 2)).notice
    assert second == first
    assert (await controller.until("hello", 2)).hello.node == "spot-1"
    assert (job.path / "node" / "notice.json").stat().st_ino == inode
    assert (later.node("notice.json") or {})["id"] == first.id
    await machine.stop()
    metadata.notice(None)  # cancelled while no agent looked
    machine.start()
    assert (await controller.until("notice_cancelled")).notice_cancelled.id == first.id
    assert job.node("notice.json") is None


async def test_how_often_the_node_is_lost_reaches_the_jobs_library_and_outlives_a_restart(
    machine: Machine, controller: FakeController, make_job: Make, eventually: Eventually
) -> None:
    job = make_job()
    context = ContextFile(job.path / "node" / "context.json", pytest.fail)

    def hazard() -> float | None:
        found = context.poll()
        return None if found is None else found.hazard_per_h

    machine.start()
    await controller.until("heartbeat")
    await eventually(lambda: (found := context.poll()) is not None and found.market == "spot")
    assert hazard() is None
    controller.say("h1", hazard=pb.Hazard(hazard_per_h=0.2))
    await eventually(lambda: hazard() == 0.2)
    controller.say("h2", hazard=pb.Hazard(hazard_per_h=1.25))
    await eventually(lambda: hazard() == 1.25)
    later = make_job(13)
    await eventually(lambda: (later.node("context.json") or {}).get("hazard_per_h") == 1.25)
    await machine.stop()
    machine.start()
    await controller.until("hello", 2)
    newest = make_job(14)
    await eventually(lambda: (newest.node("context.json") or {}).get("market") == "spot")
    assert (newest.node("context.json") or {})["hazard_per_h"] is None, "the agent has forgotten it"
    assert hazard() == 1.25, "a job keeps what it was told"
    controller.say("h3", hazard=pb.Hazard(hazard_per_h=0.5))
    await eventually(lambda: hazard() == (newest.node("context.json") or {})["hazard_per_h"] == 0.5)
    found = context.poll()
    assert found is not None
    assert (found.nodes, found.window_s) == (("spot-1", "spot-2"), 120.0)


async def test_a_restart_without_the_metadata_service(machine: Machine, controller: FakeController, metadata: FakeMetadata) -> None:
    machine.start()
    await controller.until("heartbeat")
    await machine.stop()
    assert (machine.run_dir / "agent.json").stat().st_mode & 0o777 == 0o600
    metadata.values.clear()
    machine.start()
    hello = (await controller.until("hello", 2)).hello
    assert (hello.instance_id, hello.node, hello.launch_token) == ("i-0abc", "spot-1", "secret")


async def test_what_was_remembered_does_not_outlive_a_boot(machine: Machine, controller: FakeController) -> None:
    machine.start()
    await controller.until("heartbeat")
    await machine.stop()
    text = (machine.run_dir / "agent.json").read_text()
    (machine.run_dir / "agent.json").write_text(text.replace("boot-1", "boot-0"))
    machine.start()
    assert (await controller.until("hello", 2)).hello.node == ""


async def test_without_a_controller_the_agent_acts_and_says_so_later(
    machine: Machine,
    controller: FakeController,
    metadata: FakeMetadata,
    make_job: Make,
    spawn: Spawn,
    start_of: Callable[[int], float],
    eventually: Eventually,
) -> None:
    machine.slurm.submit()
    await eventually(lambda: machine.slurm.fake_node("spot-1").power == "resuming")
    machine.slurm.node_booted("spot-1")
    await eventually(lambda: machine.slurm.fake_job("1").state == "RUNNING")
    machine.start()
    await controller.until("heartbeat")
    await controller.stop()
    job, process = make_job(1), spawn(1)
    metadata.notice(in_s(120))
    await eventually(lambda: job.node("notice.json"))
    notice_id = (job.node("notice.json") or {})["id"]
    job.rank(pid=process.pid, started=start_of(process.pid), state="parked", notice_id=notice_id, saved_step=9)
    await eventually(lambda: machine.slurm.fake_job("1").restarts == 1)
    process.kill()
    process.wait()
    await eventually(lambda: machine.slurm.fake_node("spot-1").power != "on")
    await controller.start()
    back = (await controller.until("notice")).notice
    assert (back.id, back.acted) == (notice_id, True)
    assert (await controller.until("job_status")).job_status.job_id == 1
    assert [method for _, method, _ in machine.slurm.calls].count("requeue") == 1


async def test_another_nodes_notice_and_the_release(
    machine: Machine, controller: FakeController, make_job: Make, spawn: Spawn, eventually: Eventually, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    machine.settings |= {"release_command": ["sh", "-c", f"echo once >> {released}"]}
    job, step = make_job(), spawn(12, step=True)
    machine.start()
    await controller.until("job_status")
    now = time.time()
    notice = pb.Notice(id="n-9", kind="preempt", deadline=now + 60, received=now, reason="spot-2 goes away")
    controller.say("p", prepare=pb.Prepare(job_ids=[12], notice=notice))
    await eventually(lambda: job.node("notice.json"))
    controller.say("odd", prepare=pb.Prepare(job_ids=[12], notice=pb.Notice(id="n-8", kind="dance")))
    controller.say("c", prepare=pb.Prepare(job_ids=[12], notice=notice, cancelled=True))
    await eventually(lambda: job.node("notice.json") is None)
    controller.say("r", release=pb.Release(reason="over"))
    await controller.until("heartbeat", 2)
    assert not released.exists()
    step.kill()
    step.wait()
    await eventually(released.exists)
    await machine.stop()
    machine.start()
    await controller.until("hello", 2)
    await eventually(lambda: released.read_text() == "once\nonce\n")  # stopping what is stopped is harmless, forgetting to is not


async def test_slurmd_is_started_once_and_outlives_the_agent(
    machine: Machine, controller: FakeController, eventually: Eventually, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    script = tmp_path / "start"
    script.write_text(f'#!/bin/sh\necho "$1 $SLURM_CONF" >> {starts}\nexec sleep 30\n')
    script.chmod(0o755)
    machine.settings |= {"slurmd_command": [str(script), "{node}"], "slurm_conf": "/etc/lab.conf"}

    class Named(Processes):
        def running(self, name: str) -> bool:
            assert name == "slurmd"
            return starts.exists()

    machine.processes = Named()
    machine.start()
    await eventually(lambda: starts.exists() and starts.read_text())
    (pid,) = [process.pid for process in children() if process.name == "sleep"]
    try:
        assert os.getsid(pid) == pid
        await controller.until("heartbeat")
        await machine.stop()
        os.kill(pid, 0)
        machine.start()
        await controller.until("heartbeat", 2)
        assert starts.read_text() == "spot-1 /etc/lab.conf\n"
    finally:
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: os.waitpid(pid, os.WNOHANG)[0])


def children() -> list[Process]:
    found = (Processes().get(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return [process for process in found if process is not None and process.parent == os.getpid()]


async def test_an_instance_of_another_cluster_is_not_run(machine: Machine) -> None:
    machine.settings |= {"cluster": "other"}
    machine.start()
    assert machine.agent is not None
    with pytest.raises(ConfigError, match="launched for lab"):
        await machine.agent


def test_whom_the_agent_believes() -> None:
    assert allowed_uids("root") == {0}
    with pytest.raises(ConfigError, match="no user 'nobody-here'"):
        allowed_uids("nobody-here")
