"""The whole agent: real NVML process over the fake library, kernel log in a file, a controller on loopback, in real time."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.clock import SystemClock
from holdfast_nodeagent.app import Agent
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.fakes import FakeController, FakeMetadata
from holdfast_nodeagent.health import admission
from holdfast_nodeagent.jobdirs import JobDirs
from holdfast_nodeagent.notices.aws import AwsMetadata
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_nodeagent.processes import Processes
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_sandbox.nvml.gpus import FakeGpus
from holdfast_sandbox.nvml.kernel_log import append, xid_line
from holdfast_sandbox.nvml.library import build
from holdfast_slurm.fake import FakeSlurm

Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Slurmd(Processes):
    """Sees a slurmd once the start command has been run."""

    def __init__(self, started: Path) -> None:
        super().__init__()
        self.started = started

    def running(self, name: str) -> bool:
        assert name == "slurmd"
        return self.started.exists()


class Machine:
    """One node with GPUs of the fake library's."""

    def __init__(self, tmp_path: Path, library: Path, metadata: FakeMetadata, controller: FakeController) -> None:
        self.run_dir = tmp_path / "run"
        JobDirs(self.run_dir / "jobs").prepare()
        (tmp_path / "boot").write_text("boot-1\n")
        self.gpus = FakeGpus(tmp_path / "gpus")
        self.gpus.install("h100x1")
        self.kernel_log = tmp_path / "kmsg"
        self.kernel_log.touch()
        self.started = tmp_path / "slurmd-started"
        self.controller = controller
        self.settings: dict[str, object] = {
            "controller": f"127.0.0.1:{controller.port}",
            "cluster": "lab",
            "run_dir": self.run_dir,
            "boot_id_path": tmp_path / "boot",
            "nvml_library": str(library),
            "kernel_log": self.kernel_log,
            "watched_paths": [str(tmp_path)],
            "slurmd_command": ["touch", str(self.started)],
        }
        self.http = MetadataHttp(metadata.url)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        clock = SystemClock()
        source = AwsMetadata(self.http, clock)
        config = AgentConfig.model_validate(self.settings)
        agent = Agent(config, clock, self.controller.channel, FakeSlurm(clock, ["spot-1"]), source, Slurmd(self.started))
        self.task = asyncio.ensure_future(agent.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    def health(self) -> pb.Health:
        return next((each.health for each in reversed(self.controller.received) if each.WhichOneof("body") == "health"), pb.Health())


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.getbasetemp().parent / "nvml-library")


@pytest.fixture
async def metadata() -> AsyncIterator[FakeMetadata]:
    server = FakeMetadata()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    server = FakeController()
    server.welcome = False
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def machine(
    tmp_path: Path, library: Path, metadata: FakeMetadata, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Machine]:
    made = Machine(tmp_path, library, metadata, controller)
    monkeypatch.setenv("HOLDFAST_FAKE_NVML", str(made.gpus.state_file))
    yield made
    await made.stop()
    made.http.close()


async def welcomed(machine: Machine, **welcome: Any) -> None:
    hellos = machine.controller.streams + 1
    machine.start()
    await machine.controller.until("hello", hellos)
    machine.controller.say("w", welcome=pb.Welcome(node="spot-1", heartbeat_s=0.3, **{"gpus": 1, "gpu_model": "H100", **welcome}))


@pytest.fixture
def eventually() -> Eventually:
    async def wait(holds: Callable[[], object]) -> None:
        while not holds():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.005)

    return wait


async def test_an_xid_reaches_the_controller_once_and_outlives_the_agent(machine: Machine, eventually: Eventually) -> None:
    await welcomed(machine)
    await eventually(machine.started.exists)
    await eventually(lambda: machine.health().quick_check == "passed")
    assert machine.health().driver
    assert (machine.run_dir / "health").read_text().startswith("ok ")
    assert stat.S_IMODE(os.stat(machine.run_dir / "health").st_mode) == 0o644
    began = time.monotonic()
    append(machine.kernel_log, xid_line(machine.gpus.pci(0), 79))
    machine.gpus.xid(0, 79)
    await eventually(lambda: machine.health().findings)
    assert time.monotonic() - began < 1.0
    found = [(finding.rule, finding.gpu, finding.action, finding.strikes) for finding in machine.health().findings]
    assert {gpu for _, gpu, _, _ in found} == {machine.gpus.uuid(0)}
    assert {action for _, _, action, _ in found} & {"evacuate", "replace"}
    assert (machine.run_dir / "health").read_text().startswith("sick ")
    await machine.stop()
    await welcomed(machine)
    await machine.controller.until("heartbeat", 2)
    await eventually(lambda: machine.health().ready)
    assert [(finding.rule, finding.gpu, finding.action, finding.strikes) for finding in machine.health().findings] == found


@pytest.mark.parametrize("source", ["the kernel's log", "NVML"])
async def test_each_source_alone_reaches_the_controller_within_a_second(machine: Machine, source: str, eventually: Eventually) -> None:
    await welcomed(machine)
    await eventually(lambda: machine.health().quick_check == "passed")
    began = time.monotonic()
    if source == "NVML":
        machine.gpus.xid(0, 79)
    else:
        append(machine.kernel_log, xid_line(machine.gpus.pci(0), 79))
    await eventually(lambda: machine.health().findings)
    assert time.monotonic() - began < 1.0
    assert [(each.rule, each.gpu) for each in machine.health().findings] == [("xid-79", machine.gpus.uuid(0))]


async def test_slurmd_waits_for_a_sick_gpu_to_be_resolved(
    machine: Machine, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "RETRY_S", 0.3)
    append(machine.kernel_log, xid_line(machine.gpus.pci(0), 79))
    await welcomed(machine)
    await eventually(lambda: machine.health().quick_check)
    assert "79" in machine.health().quick_check
    assert not machine.started.exists()
    assert machine.health().findings
    machine.controller.say("o", health_order=pb.HealthOrder(resolve_rule="*"))
    await eventually(lambda: not machine.health().findings)
    await eventually(machine.started.exists)


async def test_a_node_that_lacks_gpus_gets_no_slurmd(machine: Machine, eventually: Eventually) -> None:
    await welcomed(machine, gpus=8)
    await eventually(lambda: machine.health().quick_check)
    assert machine.health().quick_check.startswith("gpus-missing: ")
    assert not machine.started.exists()


async def test_a_node_that_is_given_up_meanwhile_is_let_go_at_once(machine: Machine, tmp_path: Path, eventually: Eventually) -> None:
    machine.settings["release_command"] = ["touch", str(tmp_path / "released")]
    await welcomed(machine, gpus=8)
    await eventually(lambda: machine.health().quick_check)
    machine.controller.say("r", release=pb.Release(reason="health"))
    await eventually((tmp_path / "released").exists)
    assert not machine.started.exists()


async def test_after_the_agents_restart_a_running_slurmd_is_let_be(machine: Machine, eventually: Eventually) -> None:
    machine.started.touch()
    append(machine.kernel_log, xid_line(machine.gpus.pci(0), 79))
    await welcomed(machine)
    await eventually(lambda: machine.health().findings and machine.health().ready)
    assert machine.health().quick_check == ""


async def test_a_machine_without_gpus_is_not_kept_waiting(machine: Machine, eventually: Eventually) -> None:
    machine.settings["nvml_library"] = ""
    began = time.monotonic()
    await welcomed(machine, gpus=0, gpu_model="")
    await eventually(machine.started.exists)
    assert time.monotonic() - began < 2.0
    await eventually(lambda: machine.health().quick_check == "passed")
