"""A controller that the hooks can call, for tests: it records what it was told and answers as it is set to."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import grpc
from holdfast_protos.v1 import hook_pb2
from holdfast_protos.v1.hook_pb2_grpc import HookServiceServicer, add_HookServiceServicer_to_server


@dataclass
class FakeHookService(HookServiceServicer):
    """Every call is in `calls`, in order; `asked` is set by each. `answer` holds all replies back while it is clear (it
    hangs), `gate` those to AwaitNodes.
    """

    calls: list[object] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: "deque[hook_pb2.AwaitNodesReply.Outcome.ValueType]" = field(default_factory=deque)
    """What AwaitNodes answers, one after the other; the last one for ever. READY when empty."""

    server: grpc.aio.Server | None = None
    """What serves it, where `serve` was used."""

    def __post_init__(self) -> None:
        """Answer at once until told otherwise."""
        self.answer.set()
        self.gate.set()

    async def Resume(self, request: hook_pb2.ResumeRequest, context: object) -> hook_pb2.HookReply:  # noqa: N802  # named by the protocol
        """Record the request."""
        return await self._reply(request)

    async def Suspend(self, request: hook_pb2.SuspendRequest, context: object) -> hook_pb2.HookReply:  # noqa: N802  # named by the protocol
        """Record the request."""
        return await self._reply(request)

    async def ResumeFail(self, request: hook_pb2.ResumeFailRequest, context: object) -> hook_pb2.HookReply:  # noqa: N802  # named by the protocol
        """Record the request."""
        return await self._reply(request)

    async def AwaitNodes(self, request: hook_pb2.AwaitNodesRequest, context: object) -> hook_pb2.AwaitNodesReply:  # noqa: N802  # named by the protocol
        """Record the request; answer with the next outcome."""
        await self._reply(request)
        await self.gate.wait()
        outcome = self.outcomes[0] if self.outcomes else hook_pb2.AwaitNodesReply.READY
        if len(self.outcomes) > 1:
            self.outcomes.popleft()
        return hook_pb2.AwaitNodesReply(outcome=outcome)

    async def _reply(self, request: object) -> hook_pb2.HookReply:
        self.calls.append(request)
        self.asked.set()
        await self.answer.wait()
        return hook_pb2.HookReply()


async def serve(service: FakeHookService, socket: str) -> grpc.aio.Server:
    """Start a server for the hooks on a unix socket."""
    server = grpc.aio.server()
    add_HookServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    service.server = server
    return server
