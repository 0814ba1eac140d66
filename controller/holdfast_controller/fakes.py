"""An agent without a node: it speaks to an `AgentHub` of this process through the real messages. For tests and the simulator."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from holdfast_common.clock import Clock
from holdfast_common.notice import Notice, NoticeKind
from holdfast_protos.v1 import agent_pb2 as pb

from holdfast_controller.agents import AgentHub

BEAT_S, URGENT_BEAT_S = 5.0, 1.0
METRICS_PORT = 9465

Prepared = Callable[[tuple[int, ...], Notice, bool], None]


class FakeAgent:
    """Says what it is told to, each word until it is acknowledged, and remembers the name that it was given."""

    def __init__(
        self,
        instance_id: str,
        token: str,
        address: str,
        clock: Clock,
        *,
        on_welcome: Callable[[str], None],
        on_prepare: Prepared,
        boot_id: str = "boot-1",
        heartbeat: Callable[[], pb.Heartbeat] = pb.Heartbeat,
    ) -> None:
        """Begin without a name. `on_welcome` gets the name and has what still holds said again; `on_prepare` gets other nodes' notices."""
        self._heartbeat = heartbeat
        self.instance_id = instance_id
        self.node = ""
        self.refused = ""
        """Why the controller turned it away last."""
        self.released = False
        self.market = ""
        self.hazards: list[tuple[float, float]] = []
        """When it was told which hazard per hour."""
        self.welcome = pb.Welcome()
        """The newest."""
        self.rules: list[str] = []
        """The revisions of the health rules that it was told."""
        self.on_health_order: Callable[[pb.HealthOrder], None] = lambda _: None
        self._token = token
        self._address = address
        self._boot_id = boot_id
        self._clock = clock
        self._on_welcome = on_welcome
        self._on_prepare = on_prepare
        self._outbox: dict[str, pb.AgentMessage] = {}
        self._contact = clock.now()
        self._queue: asyncio.Queue[pb.AgentMessage] | None = None
        self._welcomed = False
        self._numbers = itertools.count(1)
        self._said: set[str] = set()

    def put(self, slot: str, **body: Any) -> None:
        """Say something (`notice=…`, `job_status=…`); a newer word in the same slot takes its place."""
        message = pb.AgentMessage(id=f"m-{next(self._numbers)}", sent_at=self._clock.now(), **body)
        self._outbox[slot] = message
        self._said.add(slot)
        if self._queue is not None and self._welcomed:
            self._queue.put_nowait(message)

    def owes(self, slot: str) -> bool:
        """Whether what it said last in the slot has not been acknowledged."""
        return slot in self._outbox

    def silence_s(self) -> float:
        """Return for how long the controller has owed an answer: 0 while the stream is open and nothing waits."""
        oldest = min((message.sent_at for message in self._outbox.values()), default=self._clock.now())
        return self._clock.now() - (max(oldest, self._contact) if self._welcomed else self._contact)

    async def session(self, hub: AgentHub) -> None:
        """Hold one stream until either side ends it, or the caller cancels (as when the controller dies)."""
        queue = self._queue = asyncio.Queue()
        stream = hub.Connect(self._outgoing(queue), None)
        beats = asyncio.ensure_future(self._beat())
        try:
            async for message in stream:
                self._take(message, queue)
        finally:
            if self._welcomed:
                self._contact = self._clock.now()
            self._queue, self._welcomed = None, False
            beats.cancel()
            await stream.aclose()  # type: ignore[attr-defined]  # an asynchronous generator

    async def _outgoing(self, queue: "asyncio.Queue[pb.AgentMessage]") -> AsyncIterator[pb.AgentMessage]:
        hello = pb.Hello(
            instance_id=self.instance_id,
            boot_id=self._boot_id,
            launch_token=self._token,
            node=self.node,
            address=self._address,
            metrics_port=METRICS_PORT,
        )
        yield pb.AgentMessage(id=f"m-{next(self._numbers)}", sent_at=self._clock.now(), hello=hello)
        while True:
            yield await queue.get()

    async def _beat(self) -> None:
        """As the real agent does: one that waits for its answer is not replaced, and under a notice they come more often."""
        while True:
            urgent = any(slot.startswith("notice:") for slot in self._said)
            await self._clock.sleep(URGENT_BEAT_S if urgent else BEAT_S)
            if "heartbeat" not in self._outbox and self._welcomed:
                self.put("heartbeat", heartbeat=self._heartbeat())

    def _take(self, message: pb.ControllerMessage, queue: "asyncio.Queue[pb.AgentMessage]") -> None:
        kind = message.WhichOneof("body")
        if kind == "ack":
            self._outbox = {slot: sent for slot, sent in self._outbox.items() if sent.id != message.ack.id}
            return
        queue.put_nowait(pb.AgentMessage(ack=pb.Ack(id=message.id), sent_at=self._clock.now()))
        if kind == "welcome":
            self.node = self.node or message.welcome.node
            self.market, self.welcome = message.welcome.market, message.welcome
            self._welcomed, self._contact = True, self._clock.now()
            for waiting in self._outbox.values():
                queue.put_nowait(waiting)
            self._on_welcome(message.welcome.node)
        elif kind == "prepare":
            said = message.prepare.notice
            notice = Notice(said.id, NoticeKind(said.kind), said.deadline, said.received, said.reason)
            self._on_prepare(tuple(message.prepare.job_ids), notice, message.prepare.cancelled)
        elif kind == "hazard":
            self.hazards.append((self._clock.now(), message.hazard.hazard_per_h))
        elif kind == "health_rules":
            self.rules.append(message.health_rules.revision)
        elif kind == "health_order":
            self.on_health_order(message.health_order)
        elif kind == "release":
            self.released = True
        elif kind == "refused":
            self.refused = message.refused.reason
