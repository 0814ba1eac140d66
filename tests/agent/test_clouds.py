"""The whole agent on Google and on Azure, and one that nobody governs any more."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path

import pytest
from holdfast_common.clock import SystemClock
from holdfast_nodeagent.app import Agent
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.fake_clouds import VM_ID, FakeAzure, FakeGoogle, event
from holdfast_nodeagent.fakes import FakeController, FakeJob, FakeMetadata
from holdfast_nodeagent.notices.base import NoticeSource
from holdfast_nodeagent.notices.detect import open_source
from holdfast_nodeagent.processes import Processes
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_slurm.fake import FakeSlurm

Eventually = Callable[[Callable[[], object]], Awaitable[None]]
Make = Callable[..., FakeJob]


class Machine:
    """One instance of a cloud, whose agent can be ended and started again."""

    def __init__(self, run_dir: Path, controller: FakeController, processes: Processes) -> None:
        self.run_dir = run_dir
        self.controller = controller
        self.processes = processes
        self.clock = SystemClock()
        self.slurm = FakeSlurm(self.clock, ["spot-1"])
        self.agent: asyncio.Task[None] | None = None
        self.source: NoticeSource | None = None
        (run_dir / "boot").write_text("boot-1\n")

    def start(self, cloud: str, url: str, **settings: object) -> None:
        base = {"controller": f"127.0.0.1:{self.controller.port}", "cluster": "lab", "run_dir": self.run_dir}
        config = AgentConfig.model_validate({**base, "boot_id_path": self.run_dir / "boot", "poll_s": 0.05, **settings})
        self.source = open_source(cloud, url, self.clock)
        agent = Agent(config, self.clock, self.controller.channel, self.slurm, self.source, self.processes)
        self.agent = asyncio.ensure_future(agent.run())

    async def stop(self) -> None:
        if self.agent is not None and self.source is not None:
            self.agent.cancel()
            await asyncio.gather(self.agent, return_exceptions=True)
            self.source.close()


@pytest.fixture
async def machine(run_dir: Path, controller: FakeController, processes: Processes) -> AsyncIterator[Machine]:
    made = Machine(run_dir, controller, processes)
    yield made
    await made.stop()
    await made.slurm.close()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[FakeMetadata], Awaitable[str]]]:
    async with AsyncExitStack() as stack:

        async def start(service: FakeMetadata) -> str:
            await service.start()
            stack.push_async_callback(service.stop)
            return service.url

        yield start


Serve = Callable[[FakeMetadata], Awaitable[str]]


async def test_a_preemption_on_google_is_told_at_once_and_keeps_its_deadline_over_a_restart(
    machine: Machine, controller: FakeController, serve: Serve, make_job: Make, eventually: Eventually
) -> None:
    google = FakeGoogle()
    google.waits = True
    google.values["attributes/holdfast-notice-s"] = b"90"
    url = await serve(google)
    job = make_job()
    machine.start("gcp", url)
    hello = (await controller.until("hello")).hello
    assert (hello.instance_id, hello.provider, hello.zone) == ("4242424242424242424", "gcp", "us-central1-a")
    await eventually(lambda: google.held >= 2)
    await eventually(lambda: (job.node("context.json") or {}).get("window_s") == 90)
    began = time.time()
    google.set("preempted", b"TRUE")
    notice = (await controller.until("notice")).notice
    assert time.time() - began < 1
    assert (notice.kind, round(notice.deadline - began)) == ("preempt", 90)
    assert (job.node("notice.json") or {})["id"] == notice.id
    await machine.stop()
    await asyncio.sleep(1.1)
    machine.start("gcp", url)
    again = (await controller.until("notice", 2)).notice
    assert again == notice
    google.set("preempted", b"FALSE")
    assert (await controller.until("notice_cancelled")).notice_cancelled.id == notice.id


async def test_an_agent_on_google_ends_at_once(machine: Machine, controller: FakeController, serve: Serve, eventually: Eventually) -> None:
    google = FakeGoogle()
    google.waits = True
    machine.start("gcp", await serve(google))
    await eventually(lambda: google.held >= 2)
    began = time.monotonic()
    await machine.stop()
    assert time.monotonic() - began < 2


async def test_an_eviction_on_azure(machine: Machine, controller: FakeController, serve: Serve, make_job: Make) -> None:
    azure = FakeAzure()
    job = make_job()
    machine.start("azure", await serve(azure))
    assert (await controller.until("hello")).hello.instance_id == VM_ID
    deadline = int(time.time()) + 30
    azure.announce(event("Preempt", NotBefore=formatdate(deadline, usegmt=True)), incarnation=2)
    notice = (await controller.until("notice")).notice
    assert (notice.kind, notice.deadline) == ("preempt", deadline)
    assert (job.node("notice.json") or {})["action"] == "save_and_park"
    azure.announce(incarnation=3)
    assert (await controller.until("notice_cancelled")).notice_cancelled.id == notice.id


async def test_a_node_on_azure_that_is_given_up_lets_maintenance_start_and_no_other_does(
    machine: Machine, controller: FakeController, serve: Serve, eventually: Eventually
) -> None:
    azure = FakeAzure()
    azure.announce(event("Reboot", NotBefore=formatdate(time.time() + 900, usegmt=True)), incarnation=2)
    machine.start("azure", await serve(azure))
    notice = (await controller.until("notice")).notice
    assert notice.kind == "maintenance"
    await eventually(lambda: azure.asked() >= 3)
    assert azure.posted == []  # no job is here, but one may come
    controller.say("r", release=pb.Release(reason="over"))
    await eventually(lambda: azure.posted == [["E-Reboot"]])


async def test_a_node_that_has_lost_controller_and_slurm_shuts_itself_down(
    machine: Machine, controller: FakeController, serve: Serve, eventually: Eventually, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    command = ["sh", "-c", f"echo off >> {said}"]
    conf = tmp_path / "slurm.conf"
    conf.touch()
    machine.start("aws", await serve(FakeMetadata()), orphan_shutdown_s=0.5, shutdown_command=command, slurm_conf=conf)
    await controller.until("heartbeat")
    machine.slurm.unavailable = True
    await asyncio.sleep(0.8)
    assert not said.exists()  # the controller is there
    machine.slurm.unavailable = False
    await controller.stop()
    await asyncio.sleep(0.8)
    assert not said.exists()  # Slurm is there
    machine.slurm.unavailable = True
    await eventually(said.exists)
    await asyncio.sleep(0.3)
    assert said.read_text() == "off\n"


async def test_a_node_whose_controller_waits_for_slurm_does_not_shut_itself_down(
    machine: Machine, controller: FakeController, serve: Serve, eventually: Eventually, tmp_path: Path
) -> None:
    said, conf = tmp_path / "said", tmp_path / "slurm.conf"
    conf.touch()
    controller.welcome = False  # it tells slurmctld the address first, and that is away
    machine.slurm.unavailable = True
    command = ["sh", "-c", f"echo off >> {said}"]
    machine.start("aws", await serve(FakeMetadata()), orphan_shutdown_s=0.6, shutdown_command=command, slurm_conf=conf)
    await controller.until("hello")
    for number in range(10):
        controller.say(f"w{number}", hazard=pb.Hazard(hazard_per_h=0.5))
        await asyncio.sleep(0.15)
    assert not said.exists()
    await eventually(said.exists)


async def test_a_machine_that_has_no_slurm_conf_yet_does_not_take_that_for_slurms_silence(
    machine: Machine, controller: FakeController, serve: Serve, eventually: Eventually, tmp_path: Path
) -> None:
    said, conf = tmp_path / "said", tmp_path / "slurm.conf"
    machine.slurm.unavailable = True
    command = ["sh", "-c", f"echo off >> {said}"]
    machine.start("aws", await serve(FakeMetadata()), orphan_shutdown_s=0.3, shutdown_command=command, slurm_conf=conf)
    await controller.until("heartbeat")
    await controller.stop()
    await asyncio.sleep(1)
    assert not said.exists()
    conf.touch()
    await eventually(said.exists)
