"""A controller's admin side on a real unix socket, over a real journal and reactor, and the CLI as a process."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.channel import controller_channel, new_server, serve_unix
from holdfast_common.clock import SystemClock
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView, NodeView
from holdfast_controller import events as e
from holdfast_controller.admin import AdminService
from holdfast_controller.agents import AgentHub
from holdfast_controller.commands import Command
from holdfast_controller.hooks import HookService
from holdfast_controller.journal import Journal
from holdfast_controller.market import MarketWatcher
from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers.base import Instance, Market, Pool
from holdfast_controller.providers.fake import FakePool, FakeProvider
from holdfast_controller.reactor import Reactor
from holdfast_controller.reconcile import SlurmWatcher
from holdfast_protos.v1 import admin_pb2_grpc, hook_pb2_grpc
from holdfast_slurm.fake import FakeSlurm

MAIN = "import sys; from holdfast.cli import main; sys.exit(main())"
POOL = "fake/r1/r1a/g1/spot"
POLICY = """\
# the lab's policy
version = 1

[pools.a]
provider = "fake"
region = "r1"
zone = "r1a"
instance_type = "g1"
market = "spot"

[node_groups.gpu]
nodes = "spot-[1-3]"

[partitions.spot]
node_groups = ["gpu"]
pools = ["a"]
"""


class DoneAtOnce:
    """Effects that succeed and change nothing."""

    async def run(self, command: Command, *, resumed: bool) -> tuple[e.Event, ...]:
        return (e.CommandFinished(time.time(), 0, command.key),)


@dataclass(frozen=True)
class Result:
    """What a run of the CLI left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        assert self.out.count("\n") == 1, f"one line of JSON: {self.out!r} {self.err!r}"
        return json.loads(self.out)


class Stage:
    """The controller, which can be stopped and started on the same journal and socket."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "c.sock"
        self.policy = directory / "policy.toml"
        self.policy.write_text(POLICY)
        self.now = time.time() - 100.0
        self._children: list[asyncio.subprocess.Process] = []
        self.cloud = FakeProvider(SystemClock(), [FakePool(Pool(POOL, "fake", "r1", "r1a", "g1", Market.SPOT), 10, 2.5, 9.0)])
        self.slurm = FakeSlurm(SystemClock(), ["spot-1", "spot-2", "spot-3"])

    async def start(self) -> None:
        clock = SystemClock()
        self.journal = Journal(self.directory / "journal")
        self.fleet = await self.journal.open()
        self.policies = PolicyStore(self.policy)
        self.policies.manage(self.fleet)
        self.reactor = Reactor(self.journal, self.fleet, self.policies.plans, DoneAtOnce(), clock)
        self.hub = AgentHub(self.reactor, b"secret", "lab", clock, lost_s=20.0, on_lost=lambda: None, on_left=lambda: None)
        self._loop = asyncio.create_task(self.reactor.run())
        self._server = new_server()
        hooks = HookService(self.reactor, SlurmWatcher(self.slurm, self.reactor, clock, busy_s=1.0, idle_s=1.0), clock)
        hook_pb2_grpc.add_HookServiceServicer_to_server(hooks, self._server)
        admin = AdminService(
            self.reactor,
            self.hub,
            self.policies,
            self.journal,
            clock,
            market=MarketWatcher({"fake": self.cloud}, self.policies, clock),
            cluster="lab",
            reconfigure=lambda: hooks.reconfigure(self.slurm),
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        self._unix = await serve_unix(self._server, self.socket, "")
        self._channel = controller_channel(self.socket)
        self.stub: Any = admin_pb2_grpc.AdminServiceStub(self._channel)
        self.hooks: Any = hook_pb2_grpc.HookServiceStub(self._channel)

    async def stop(self) -> None:
        await self._channel.close()
        await self._server.stop(0.05)
        self._unix.close()
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self.journal.close()

    async def record(self, *events: e.Event) -> None:
        for event in events:
            await self.reactor.record(event)

    async def node(self, name: str, state: str, *flags: str, reason: str = "") -> None:
        self.now += 0.1
        await self.record(e.NodeChanged(self.now, NodeView(name, state, frozenset(flags), reason)))

    async def job(self, job_id: int, state: str, *nodes: str, **more: Any) -> None:
        self.now += 0.1
        view = JobView(job_id, str(job_id), state, nodes=nodes, partition="spot", user="ann", priority=1)
        await self.record(e.JobChanged(self.now, replace(view, **more)))

    async def notice(self, node: str, deadline: float) -> None:
        self.now += 0.1
        notice = Notice(f"n-{node}", NoticeKind.PREEMPT, deadline, self.now, "spot interruption")
        await self.record(e.NoticeReceived(self.now, node, notice))

    async def up(self, name: str, instance_id: str) -> None:
        """A node whose instance runs and whose agent is here."""
        instance = Instance(instance_id, f"launch-{name}", POOL, "running", "10.0.0.1", launched=self.now)
        await self.record(e.InstanceChanged(self.now, instance), e.AgentArrived(self.now, instance_id, "b", f"launch-{name}", "10.0.0.1"))
        self.fleet.instances[instance_id].node = name
        self.fleet.instances[instance_id].price_usd_h = 3.5
        self.fleet.nodes[name].instance_id = instance_id
        await self.node(name, "ALLOCATED", "CLOUD")

    # -- the CLI ----------------------------------------------------------------------------------------------------------------

    async def spawn(
        self, *arguments: str, env: dict[str, str] | None = None, program: str = MAIN, **more: Any
    ) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        streams = {"stdin": asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **more}
        environment = {"PATH": os.environ["PATH"], "HOLDFAST_SOCKET": str(self.socket), "TZ": "UTC", **(env or {})}
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *arguments, env=environment, **streams)
        self._children.append(child)
        return child

    async def cli(self, *arguments: str, text: str | None = None, **more: Any) -> Result:
        """Run the `holdfast` command to its end."""
        if text is not None:
            more["stdin"] = asyncio.subprocess.PIPE
        child = await self.spawn(*arguments, **more)
        out, err = await child.communicate(text.encode() if text is not None else None)
        assert b"Traceback" not in err, err.decode()
        assert child.returncode is not None
        return Result(child.returncode, out.decode(), err.decode())

    async def interrupted(self, child: asyncio.subprocess.Process) -> int:
        """Send Ctrl-C and return the exit code."""
        child.send_signal(signal.SIGINT)
        return await child.wait()

    async def reap(self) -> None:
        for child in self._children:
            if child.returncode is None:
                child.kill()
                await child.wait()
            child._transport.close()  # type: ignore[attr-defined]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a socket's path, and open to every user, so that only the socket's own rights keep anyone out."""
    found = Path(tempfile.mkdtemp(prefix="hfc", dir="/tmp"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture
async def stage(directory: Path) -> AsyncIterator[Stage]:
    stage = Stage(directory)
    await stage.start()
    try:
        yield stage
    finally:
        await stage.reap()
        await stage.stop()
