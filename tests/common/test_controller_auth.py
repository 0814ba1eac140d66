"""The controller's own services on real gRPC servers and a real munged: who speaks for which node, and bodies that make no sense."""

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from holdfast_common.auth import MungeAuthenticator
from holdfast_common.channel import controller_channel, new_server, serve_unix
from holdfast_common.clock import SystemClock
from holdfast_common.munge import Munge
from holdfast_common.rpc_auth import ServerAuth, client_interceptors
from holdfast_common.views import NodeView
from holdfast_controller import events as e
from holdfast_controller.agents import AgentHub
from holdfast_controller.commands import Command
from holdfast_controller.fleet import Fleet
from holdfast_controller.hooks import HookService
from holdfast_controller.journal import Journal
from holdfast_controller.plan import Plans
from holdfast_controller.providers.base import Instance
from holdfast_controller.reactor import Reactor
from holdfast_controller.reconcile import SlurmWatcher
from holdfast_controller.tokens import make_token
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_protos.v1 import agent_pb2_grpc, hook_pb2, hook_pb2_grpc
from holdfast_slurm.fake import FakeSettings, FakeSlurm

SECRET = secrets.token_bytes(32)
POOL = "fake/r1/a/g1/spot"


class Nothing:
    """Effects that do nothing."""

    async def run(self, command: Command, *, resumed: bool) -> tuple[e.Event, ...]:
        return (e.CommandFinished(time.time(), 0, command.key),)


class Controller:
    """Two nodes, n1 held by i-1 and n2 by i-2, of one launch each."""

    reactor: Reactor
    address: str
    socket: Path

    def __init__(self, authenticator: MungeAuthenticator) -> None:
        self.authenticator = authenticator

    @property
    def fleet(self) -> Fleet:
        return self.reactor.fleet

    async def kinds(self) -> list[str]:
        """What the journal holds."""
        return [entry.kind for entry in await self.reactor.journal.read() if entry.kind != "NodeChanged"]

    @contextlib.asynccontextmanager
    async def stream(self, instance: str, launch: str, boot: str = "b", node: str = "") -> AsyncIterator[Any]:
        """An agent's stream whose Hello has been sent."""
        roomy = client_interceptors(self.authenticator)  # agent_channel's own limit would keep a large message here
        async with grpc.aio.insecure_channel(self.address, interceptors=roomy) as channel:
            call = agent_pb2_grpc.AgentServiceStub(channel).Connect()
            token = make_token(SECRET, launch) if launch else "L1.forged"
            await call.write(pb.AgentMessage(id="hello", hello=pb.Hello(instance_id=instance, boot_id=boot, launch_token=token, node=node)))
            yield call
            call.cancel()


async def answered(call: Any) -> Any:
    """Return the next message but for the health rules, which every agent that is admitted is told."""
    async with asyncio.timeout(5):
        while (message := await call.read()) is not grpc.aio.EOF and message.WhichOneof("body") == "health_rules":
            pass
        return message


@pytest.fixture
async def controller(tmp_path: Path, munge_socket: str) -> AsyncIterator[Controller]:
    clock = SystemClock()
    authenticator = MungeAuthenticator(Munge(munge_socket), clock, frozenset({0}))
    found = Controller(authenticator)
    journal = Journal(tmp_path / "j")
    fleet = await journal.open()
    fleet.manage(frozenset({"n1", "n2"}))
    found.reactor = Reactor(journal, fleet, Plans, Nothing(), clock)
    loop = asyncio.create_task(found.reactor.run())
    slurm = FakeSlurm(clock, ["n1", "n2"], FakeSettings())
    watcher = SlurmWatcher(slurm, found.reactor, clock, busy_s=1.0, idle_s=1.0)
    hub = AgentHub(found.reactor, SECRET, "lab", clock, lost_s=20.0, on_lost=lambda: None, on_left=lambda: None)
    tcp, local = new_server([ServerAuth(authenticator)]), new_server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(hub, tcp)
    hook_pb2_grpc.add_HookServiceServicer_to_server(HookService(found.reactor, watcher, clock), local)
    found.address = f"127.0.0.1:{tcp.add_insecure_port('127.0.0.1:0')}"
    found.socket = tmp_path / "s" / "c.sock"
    await tcp.start()
    unix = await serve_unix(local, found.socket, "")
    for number in (1, 2):
        instance = Instance(f"i-{number}", f"L{number}", POOL, "running", launched=clock.now())
        await found.reactor.record(e.InstanceChanged(clock.now(), instance))
        fleet.instances[f"i-{number}"].node = f"n{number}"
        fleet.nodes[f"n{number}"].instance_id = f"i-{number}"
        await found.reactor.record(e.NodeChanged(clock.now(), NodeView(f"n{number}", "IDLE", frozenset({"CLOUD"}))))
    yield found
    await tcp.stop(0.05)
    await local.stop(0.05)
    unix.close()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    await slurm.close()
    await journal.close()
    authenticator.close()


async def refused(controller: Controller, **hello: str) -> bool:
    async with controller.stream(**hello) as call:
        reply = await answered(call)
        return bool(reply.WhichOneof("body") == "refused" and not reply.refused.retry)


async def test_a_token_is_good_for_its_launch_and_an_instance_for_its_first_boot(controller: Controller) -> None:
    assert await refused(controller, instance="i-1", launch="")
    assert await refused(controller, instance="i-1", launch="L2"), "the token of another launch"
    assert await refused(controller, instance="i 1\n", launch="L1")
    async with controller.stream("i-1", "L1") as first:
        assert (await answered(first)).ack.id == "hello"
        assert await refused(controller, instance="i-1", launch="L1", boot="another"), "a second machine with the same token"
        assert controller.fleet.instances["i-1"].connected, "the first one is not thrown out for it"
    assert (await controller.kinds()).count("AgentArrived") == 1


def words() -> Iterator[pb.AgentMessage]:
    """Messages that say nothing that could be true."""
    now = time.time()
    for deadline in (math.nan, math.inf, -math.inf, now + 1e9):
        yield pb.AgentMessage(notice=pb.Notice(id="x", kind="preempt", deadline=deadline, received=now))
    yield pb.AgentMessage(notice=pb.Notice(id="x", kind="apocalypse", deadline=now))
    yield pb.AgentMessage(notice=pb.Notice(id="", kind="preempt", deadline=now))
    yield pb.AgentMessage(notice=pb.Notice(id="a b\n|node:n2|", kind="preempt", deadline=now))
    yield pb.AgentMessage(notice=pb.Notice(id="y" * 5000, kind="preempt", deadline=now))
    yield pb.AgentMessage(notice_cancelled=pb.NoticeCancelled(id="\x1b[2J"))
    yield pb.AgentMessage(job_status=pb.JobStatus(job_id=7, state="exploded"))
    yield pb.AgentMessage(job_status=pb.JobStatus(job_id=7, state="running", ranks=4_000_000_000))
    yield pb.AgentMessage(job_status=pb.JobStatus(job_id=7, notice_id="z" * 999))
    yield pb.AgentMessage()


async def test_what_cannot_be_true_is_dropped_and_answered_and_the_stream_goes_on(controller: Controller) -> None:
    async with controller.stream("i-1", "L1", node="n2") as call:  # it says that it was n2, which is another's
        await answered(call)
        for number, message in enumerate(words()):
            message.id = f"m{number}"
            await call.write(message)
            assert (await answered(call)).ack.id == f"m{number}"
        assert await controller.kinds() == ["InstanceChanged", "InstanceChanged", "AgentArrived"]
        good = pb.Notice(id="real", kind="preempt", deadline=time.time() + 30, received=time.time())
        for _ in range(2):  # a repeated message counts once
            await call.write(pb.AgentMessage(id="same", notice=good))
            await answered(call)
    assert (await controller.kinds()).count("NoticeReceived") == 1
    assert controller.fleet.nodes["n1"].notices.keys() == {"real"}
    assert not controller.fleet.nodes["n2"].notices, "a stream speaks for the node of its instance, whatever its Hello said"


async def test_an_oversized_message_ends_its_own_stream_only(controller: Controller) -> None:
    async with controller.stream("i-1", "L1") as large, controller.stream("i-2", "L2") as small:
        await answered(large)
        assert (await large.read()).health_rules.toml
        await answered(small)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await large.write(pb.AgentMessage(id="x", notice_cancelled=pb.NoticeCancelled(id="x" * (5 << 20))))
        async with asyncio.timeout(5):
            assert await large.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}
        await small.write(pb.AgentMessage(id="h", heartbeat=pb.Heartbeat()))
        assert (await answered(small)).ack.id == "h"
    assert not any(node.notices for node in controller.fleet.nodes.values())


async def test_hooks_that_say_what_cannot_be_change_nothing(controller: Controller) -> None:
    names = [f"x{number}" for number in range(20_000)]
    jobs = [hook_pb2.ResumeJob(job_id=number + 1, nodes=[names[number]]) for number in range(20_000)]
    async with controller_channel(controller.socket) as channel:
        hooks = hook_pb2_grpc.HookServiceStub(channel)
        bad: list[tuple[Any, Any]] = [
            (hooks.Resume, hook_pb2.ResumeRequest(nodes=["n1", "a b"])),
            (hooks.Resume, hook_pb2.ResumeRequest(nodes=["n1"], jobs=[hook_pb2.ResumeJob(job_id=1, nodes=["n1\n"])])),
            (hooks.Suspend, hook_pb2.SuspendRequest(nodes=["n[1-2]"])),
            (hooks.ResumeFail, hook_pb2.ResumeFailRequest(nodes=["", "n1"])),
            (hooks.AwaitNodes, hook_pb2.AwaitNodesRequest(job_id=1, nodes=["n1"], wait_s=math.nan)),
            (hooks.AwaitNodes, hook_pb2.AwaitNodesRequest(job_id=1, nodes=["../n1"], wait_s=1)),
        ]
        for call, request in bad:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # Nodes of somebody else's, in a call of the largest size: not noted, and quick.
        began = time.process_time()
        await hooks.Resume(hook_pb2.ResumeRequest(nodes=names, jobs=jobs), timeout=20)
        assert time.process_time() - began < 2
        await hooks.Suspend(hook_pb2.SuspendRequest(nodes=names), timeout=20)
        assert await controller.kinds() == ["InstanceChanged", "InstanceChanged"]
        await hooks.Resume(hook_pb2.ResumeRequest(nodes=["n1", "x1"]), timeout=5)
    assert await controller.kinds() == ["InstanceChanged", "InstanceChanged", "NodesRequested"]
