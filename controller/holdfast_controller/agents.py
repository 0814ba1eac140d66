"""The agents that are connected: their streams, and what they say as events.

A stream is bound to its instance by the first message (`Hello`): munge has proved that root speaks, the launch token of which launch, the
boot id which boot. From then on only what concerns that instance's node is taken from it. Messages are acknowledged after they are durable;
what an agent repeats is taken once.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import structlog
from holdfast_common.clock import Clock
from holdfast_common.errors import AuthError, InputError, Temporary
from holdfast_common.notice import Notice
from holdfast_protos.v1 import agent_pb2, agent_pb2_grpc

from holdfast_controller import risk
from holdfast_controller.events import AgentArrived, AgentLost, AgentRebooted, JobLeftNode
from holdfast_controller.health_rules import HealthRulesStore
from holdfast_controller.health_samples import HealthSamples
from holdfast_controller.plan import Plan
from holdfast_controller.providers.base import Offer
from holdfast_controller.reactor import Reactor
from holdfast_controller.tokens import launch_of
from holdfast_controller.wire import from_hello, notice_message, to_events

ACK_TIMEOUT_S = 2.0
SEEN_IDS = 4096
MAX_ID = 200
MAX_STEPS = 10_000
MAX_QUEUE = 1000
MAX_PROGRESS = 10_000

log = structlog.get_logger()


class Stream:
    """One connected agent."""

    def __init__(self, instance_id: str, boot_id: str) -> None:
        self.instance_id = instance_id
        self.boot_id = boot_id
        self.heard_at = 0.0
        self.queue: asyncio.Queue[agent_pb2.ControllerMessage] = asyncio.Queue(MAX_QUEUE)
        self.over = asyncio.Event()
        self.acks: dict[str, asyncio.Future[int]] = {}
        self.seen: dict[str, None] = {}
        self.told: risk.Told | None = None
        self.welcome: agent_pb2.Welcome | None = None
        """What it was told of its node; None: it has none yet."""

    def put(self, message: agent_pb2.ControllerMessage) -> None:
        """Send the message; an agent that reads nothing loses its stream."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            self.over.set()

    async def next(self) -> agent_pb2.ControllerMessage | None:
        """Return the next message to send, or None when the stream is over."""
        getter, over = asyncio.ensure_future(self.queue.get()), asyncio.ensure_future(self.over.wait())
        try:
            await asyncio.wait({getter, over}, return_when=asyncio.FIRST_COMPLETED)
            return getter.result() if getter.done() else None
        finally:
            getter.cancel()
            over.cancel()

    def first_time(self, message_id: str) -> bool:
        """Whether the message is new."""
        if message_id in self.seen:
            return False
        self.seen[message_id] = None
        if len(self.seen) > SEEN_IDS:
            del self.seen[next(iter(self.seen))]
        return True


class AgentHub(agent_pb2_grpc.AgentServiceServicer):
    """Serves `AgentService` and is what the effects call (`effects.Agents`)."""

    def __init__(
        self,
        reactor: Reactor,
        secret: bytes,
        cluster: str,
        clock: Clock,
        *,
        lost_s: float,
        heartbeat_s: float = 5.0,
        on_lost: Callable[[], None],
        on_left: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._secret = secret
        self._cluster = cluster
        self._clock = clock
        self._lost_s = lost_s
        self._heartbeat_s = heartbeat_s
        self._on_lost = on_lost
        self._on_left = on_left
        self.hazard: Callable[[str], float | None] = lambda _: None
        """Gives the expected losses of an instance per hour, None where that is not known."""
        self.plan: Callable[[str], Plan | None] = lambda _: None
        """Gives the plan of a node, None where it has none."""
        self.offer: Callable[[str], Offer | None] = lambda _: None
        """Gives what the cloud says of an instance's type, None where that is not known."""
        self.rules = HealthRulesStore()
        """By which agents judge their nodes' health."""
        self.health = HealthSamples()
        self._streams: dict[str, Stream] = {}
        self._ids = itertools.count(1)
        self._born = f"{clock.now():.3f}"
        self.progress: dict[int, agent_pb2.JobStatus] = {}
        """Job id → newest status: a sample for people, never a ground for a decision."""

    def connected(self, instance_id: str) -> bool:
        """Whether the agent of the instance is here."""
        return instance_id in self._streams

    # -- what the effects call --------------------------------------------------------------------------------------------------

    async def welcome(self, instance_id: str, node: str) -> None:
        """Tell the agent its node's name, and what the policy says of the node."""
        known, stream = self._welcome(instance_id, node), self._streams.get(instance_id)
        if stream is not None:
            stream.welcome = known
        await self._send(instance_id, welcome=known)

    def _welcome(self, instance_id: str, node: str) -> agent_pb2.Welcome:
        market = risk.market(self._reactor.fleet, instance_id) or ""
        known = agent_pb2.Welcome(node=node, cluster=self._cluster, market=market, heartbeat_s=self._heartbeat_s)
        plan = self.plan(node)
        if plan is not None:
            known.gpus, known.gpu_model = self._gpus(instance_id, plan)
            known.deep_check_level, known.health_noted = plan.health.deep_check_level, not plan.health.act
        return known

    def _gpus(self, instance_id: str, plan: Plan) -> tuple[int, str]:
        """Return how many GPUs the machine should have, and of which model.

        What its cloud says of its type counts first: a machine that was bought under another policy has what it has.
        """
        offer = self.offer(instance_id)
        if offer is None or not plan.shape.misfit(offer):
            return plan.shape.gpus or (offer.gpus if offer is not None else 0), plan.shape.gpu_model
        return offer.gpus, ""

    def tell_policy(self) -> None:
        """Tell agents what another policy says of their nodes, where that is something else: a wrong one may hold them up."""
        for stream in self._streams.values():
            known = self._welcome(stream.instance_id, stream.welcome.node) if stream.welcome is not None else None
            if known is not None and known != stream.welcome:
                stream.welcome = known
                stream.put(self._message(welcome=known))

    async def prepare(self, instance_id: str, job_ids: tuple[int, ...], notice: Notice, *, cancelled: bool) -> None:
        """Have the agent tell its jobs of a notice."""
        await self._send(instance_id, prepare=agent_pb2.Prepare(job_ids=job_ids, notice=notice_message(notice), cancelled=cancelled))

    async def turn_away(self, instance_id: str, reason: str) -> None:
        """Tell the agent that it is not wanted, and end its stream."""
        await self._send(instance_id, refused=agent_pb2.Refused(reason=reason, retry=True))

    async def release(self, instance_id: str, reason: str) -> None:
        """Tell the agent that its node is given up."""
        await self._send(instance_id, release=agent_pb2.Release(reason=reason))

    async def order_health(self, instance_id: str, order: agent_pb2.HealthOrder) -> int:
        """Have the agent check its node's health now, or forget findings; return how many words of health had been heard by then."""
        return await self._send(instance_id, health_order=order)

    def tell_health_rules(self) -> None:
        """Tell every agent that is here the rules; the others are told when they come."""
        for stream in self._streams.values():
            self._tell_rules(stream)

    def _tell_rules(self, stream: Stream) -> None:
        """Nobody waits for the answer, as with hazards."""
        rules = agent_pb2.HealthRules(toml=self.rules.text, revision=self.rules.revision)
        stream.put(self._message(health_rules=rules))

    async def _send(self, instance_id: str, **body: Any) -> int:
        stream = self._streams.get(instance_id)
        if stream is None:
            raise Temporary(f"the agent of instance {instance_id} is not connected")
        message = self._message(**body)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stream.acks[message.id] = done
        try:
            stream.put(message)
            async with asyncio.timeout(ACK_TIMEOUT_S):
                return await done
        except TimeoutError as error:
            raise Temporary(f"the agent of instance {instance_id} did not acknowledge within {ACK_TIMEOUT_S:.0f} s") from error
        finally:
            stream.acks.pop(message.id, None)

    def _message(self, **body: Any) -> agent_pb2.ControllerMessage:
        return agent_pb2.ControllerMessage(id=f"{self._born}-{next(self._ids)}", sent_at=self._clock.now(), **body)

    def _ack(self, message_id: str) -> agent_pb2.ControllerMessage:
        """The agent compares our clock with its own by `sent_at`."""
        return agent_pb2.ControllerMessage(ack=agent_pb2.Ack(id=message_id), sent_at=self._clock.now())

    # -- the stream -------------------------------------------------------------------------------------------------------------

    async def Connect(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterator[agent_pb2.AgentMessage], context: Any
    ) -> AsyncIterator[agent_pb2.ControllerMessage]:
        """Serve one agent until either side ends it."""
        first = await anext(aiter(request_iterator), None)
        try:
            arrived = self._admit(first)
            if isinstance(arrived, AgentRebooted):
                await self._reactor.record(arrived)
                raise AuthError(str(arrived))
        except (AuthError, InputError) as error:
            log.warning("an agent was refused", reason=str(error))
            yield agent_pb2.ControllerMessage(id="refused", refused=agent_pb2.Refused(reason="not one of ours", retry=False))
            return
        assert first is not None
        stream = Stream(arrived.instance_id, arrived.boot_id)
        stream.heard_at = self._clock.monotonic()
        old = self._streams.get(arrived.instance_id)
        self._streams[arrived.instance_id] = stream
        if old is not None:
            old.over.set()
        reader = asyncio.ensure_future(self._read(stream, request_iterator))
        try:
            await self._reactor.record(arrived)
            yield self._ack(first.id)
            self._tell_hazards({stream.instance_id: stream})
            self._tell_rules(stream)
            while (message := await stream.next()) is not None:
                yield message
        finally:
            reader.cancel()
            if self._streams.get(arrived.instance_id) is stream:
                del self._streams[arrived.instance_id]
                self._reactor.post(AgentLost(self._clock.now(), arrived.instance_id))
                self._on_lost()

    def _admit(self, first: agent_pb2.AgentMessage | None) -> AgentArrived | AgentRebooted:
        """Return the arrival, or that the machine has been rebooted: it is then given up. Raises AuthError, InputError.

        A launch token is good for one boot. Who shows it with another boot id gets no name and speaks for no node; the most that one can
        do who has got hold of it, and of root's munge credential, is to have that machine given up, while its own agent is not here.
        """
        if first is None or first.WhichOneof("body") != "hello":
            raise InputError("the first message is not a Hello")
        arrived = from_hello(first.hello, launch_of(self._secret, first.hello.launch_token), self._clock.now())
        record = self._reactor.fleet.instances.get(arrived.instance_id)
        if record is None:
            return arrived
        if record.instance.pool and record.instance.launch_id != arrived.launch_id:
            raise AuthError(f"instance {arrived.instance_id} shows the token of another launch")
        if record.agent is not None and record.agent.boot_id != arrived.boot_id:
            if record.rebooted or arrived.instance_id in self._streams or record.agent.launch_id != arrived.launch_id:
                raise AuthError(f"instance {arrived.instance_id} was bound to another boot: its launch token was used before")
            return AgentRebooted(arrived.at, arrived.instance_id, arrived.boot_id)
        if record.rebooted:
            raise AuthError(f"instance {arrived.instance_id} was rebooted, and is given up")
        return arrived

    async def _read(self, stream: Stream, messages: AsyncIterator[agent_pb2.AgentMessage]) -> None:
        try:
            async for message in messages:
                stream.heard_at = self._clock.monotonic()
                if len(message.id) > MAX_ID:
                    log.warning("an agent's message id is too long: its stream is ended", instance=stream.instance_id)
                    return
                if message.WhichOneof("body") == "ack":
                    done = stream.acks.get(message.ack.id)
                    if done is not None and not done.done():
                        done.set_result(self.health.heard)
                    continue
                await self._take(stream, message)
        finally:
            stream.over.set()

    async def _take(self, stream: Stream, message: agent_pb2.AgentMessage) -> None:
        record = self._reactor.fleet.instances.get(stream.instance_id)
        name = record.node if record is not None else ""
        # An instance that gave its name up speaks for it no longer.
        node = name if self._reactor.fleet.holder(name) == stream.instance_id else ""
        body = message.WhichOneof("body")
        if body == "heartbeat":
            beat = message.heartbeat
            known = beat.steps_known and len(beat.step_jobs) <= MAX_STEPS
            self._reactor.fleet.heard_steps(stream.instance_id, beat.step_jobs if known else None, self._clock.now())
        if node and body != "heartbeat" and stream.first_time(message.id):
            if body == "job_status":
                self._note(message.job_status)
            try:
                for event in to_events(message, node, self._reactor.fleet, self._clock.now()):
                    await self._reactor.record(event)
                    if isinstance(event, JobLeftNode):
                        self._on_left()  # Slurm is about to say the same, and the next steps wait for its word
                if body == "health":  # last: who has waited for it finds what follows from it, too
                    self.health.note(stream.instance_id, message.health, self._clock.now())
            except InputError as error:
                log.warning("a message of an agent was dropped", instance=stream.instance_id, reason=str(error))
        stream.put(self._ack(message.id))

    def _note(self, status: agent_pb2.JobStatus) -> None:
        """Of a job on several nodes, one on which nothing has registered yet does not hide what another says of the same attempt."""
        known = self.progress.pop(status.job_id, None)
        hides = known is not None and known.attempt == status.attempt and known.ranks > 0 and status.ranks == 0
        self.progress[status.job_id] = known if known is not None and hides else status
        if len(self.progress) > MAX_PROGRESS:
            del self.progress[next(iter(self.progress))]

    def _tell_hazards(self, streams: Mapping[str, Stream]) -> None:
        """Nobody waits for the answer: what is lost with its stream is told on the next."""
        now = self._clock.monotonic()
        told = {instance_id: stream.told for instance_id, stream in streams.items()}
        for instance_id, hazard_per_h in risk.due(told, self.hazard, now):
            streams[instance_id].told = risk.Told(hazard_per_h, now)
            streams[instance_id].put(self._message(hazard=agent_pb2.Hazard(hazard_per_h=hazard_per_h)))

    async def watch_hazards(self) -> None:
        """Tell agents how often their nodes are lost, when that changes, for ever."""
        while True:
            await self._clock.sleep(risk.LOOK_S)
            self._tell_hazards(self._streams)

    async def watch(self) -> None:
        """End the streams of agents that have fallen silent, and forget what those of machines said that are gone, for ever."""
        while True:
            await self._clock.sleep(self._lost_s / 4)
            self.health.forget(self._is_gone)
            for stream in list(self._streams.values()):
                if self._clock.monotonic() > stream.heard_at + self._lost_s:
                    stream.over.set()

    def _is_gone(self, instance_id: str) -> bool:
        record = self._reactor.fleet.instances.get(instance_id)
        return record is None or not record.alive
