"""The stream to the controller: Hello first, then whatever there is to say, each message until it is acknowledged.

Controller away: reconnect with growing, jittered pauses. Controller silent on an open stream: the stream is dropped and made anew.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
import grpc.aio
from holdfast_common.clock import Clock
from holdfast_common.errors import HoldfastError
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_protos.v1 import agent_pb2_grpc as pb_grpc

from holdfast_nodeagent.outbox import Outbox

HEARTBEAT_S = 5.0
DEAD_AFTER_S = 15.0
"""A stream on which nothing came, or a message waits for its Ack, this long is dropped. (The Welcome itself may take longer: an instance
that is not bound to a node yet is not welcomed, but its heartbeats are acknowledged.)"""
MAX_SEEN = 1024

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Whoever acts on what the controller says. Called once per message id; must not block."""

    def hello(self) -> pb.Hello:
        """Return the Hello for a new stream."""

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """The controller knows us; everything that still holds is to be said again."""

    def on_prepare(self, prepare: pb.Prepare) -> None:
        """Jobs here have another node that goes away."""

    def on_release(self, release: pb.Release) -> None:
        """The node is given up."""

    def on_hazard(self, hazard: pb.Hazard) -> None:
        """The pool's risk has changed."""

    def on_health_rules(self, rules: pb.HealthRules) -> None:
        """Judge this node's health by these rules."""

    def on_health_order(self, order: pb.HealthOrder) -> None:
        """Look at this node's health now, or forget a finding."""

    def on_sent(self, sent_at: float) -> None:
        """A message has come that the controller sent at this moment of its clock, Unix seconds; of each one that says so."""

    def heartbeat(self) -> pb.Heartbeat:
        """Return what a heartbeat says of this node."""


class StreamEndedError(HoldfastError):
    """The stream is over; `retry_s` is the pause that the controller asked for, None: the usual one."""

    def __init__(self, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_s = retry_s


def pause_s(failures: int, urgent: bool, draw: float) -> float:
    """Return the pause before connection attempt `failures` + 1; `draw` is uniform in 0..1. While a notice is in force, at most 0.5 s."""
    longest = 0.5 if urgent else 15.0
    return min(longest, 0.2 * 2.0 ** min(failures, 10)) * (0.5 + 0.5 * draw)


class Link:
    """One node's connection. `open_channel` makes a grpc.aio channel; `urgent` says whether a notice is in force."""

    def __init__(
        self,
        open_channel: Callable[[], Any],
        listener: Listener,
        outbox: Outbox,
        clock: Clock,
        urgent: Callable[[], bool],
        patience_s: float,
    ) -> None:
        self._open_channel = open_channel
        self._listener = listener
        self._outbox = outbox
        self._clock = clock
        self._urgent = urgent
        self._patience_s = patience_s
        self._wake = asyncio.Event()
        self._acks: list[str] = []
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._heartbeat_s = HEARTBEAT_S
        self._beat_at = 0.0
        self._draw = random.SystemRandom().random
        self._epoch = 0
        self._failures = 0
        self._fault = ""
        self._contact = self._heard = self._word_at = clock.monotonic()
        self.welcomed = False

    def put(self, slot: str, message: pb.AgentMessage) -> None:
        """Say something; it is repeated until acknowledged, or replaced by a newer word in the same slot."""
        self._outbox.put(slot, message, self._clock.now())
        self._wake.set()

    def drop(self, slot: str) -> None:
        """Take back what waits in a slot."""
        self._outbox.drop(slot)

    def silence_s(self) -> float:
        """Return for how long the controller has owed us an answer: 0 while the stream is open and nothing waits."""
        now = self._clock.monotonic()
        if not self.welcomed:
            return now - self._contact
        oldest = self._outbox.oldest_sent()
        return 0.0 if oldest is None else now - oldest

    def unheard_s(self) -> float:
        """Return for how long the controller has owed us an answer and said nothing at all.

        One that acknowledges or refuses, but does not welcome us (slurmctld is away, say), lives and governs this machine all the same.
        """
        return min(self.silence_s(), self._clock.monotonic() - self._word_at)

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        while True:
            try:
                await self._session()
                ended = StreamEndedError("the controller closed the stream")
            except StreamEndedError as error:
                ended = error
            except grpc.RpcError as error:
                details = f"{error.code().name}: {error.details() or ''}"[:300]
                ended = StreamEndedError(details, 0.0 if error.code() is grpc.StatusCode.ABORTED and self.welcomed else None)
            except HoldfastError as error:
                ended = StreamEndedError(f"{type(error).__name__}: {error}")
            except Exception as error:
                log.exception("fault in the stream")
                ended = StreamEndedError(f"{type(error).__name__}: {error}")
            _end_if_cancelled()
            self._contact = self._clock.monotonic() - self.silence_s()
            self.welcomed = False
            self._report(str(ended))
            pause = pause_s(self._failures, self._urgent(), self._draw()) if ended.retry_s is None else ended.retry_s
            self._failures += 1
            await self._clock.sleep(pause)

    def _report(self, fault: str) -> None:
        """Log a fault when it changes: a controller that is away for hours makes one line."""
        if fault != self._fault:
            self._fault = fault
            log.warning("no controller: %s", fault)

    async def _session(self) -> None:
        channel = self._open_channel()
        self._heard = self._clock.monotonic()
        try:
            call = pb_grpc.AgentServiceStub(channel).Connect(self._outgoing(self._epoch))
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch())
                await self._incoming(call)
                watch.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._epoch += 1
            self._wake.set()
            await channel.close()

    async def _outgoing(self, epoch: int) -> AsyncIterator[pb.AgentMessage]:
        """Yield what is to be sent on this stream: Hello, then Acks and heartbeats, and once welcomed what waits. Ends with its epoch."""
        self._acks.clear()
        self._outbox.reopened()
        hello = pb.AgentMessage(id="hello", sent_at=self._clock.now(), hello=self._listener.hello())
        yield hello
        self._beat_at = self._clock.monotonic() + self._beat_s()
        while epoch == self._epoch:
            self._wake.clear()
            while self._acks:
                yield pb.AgentMessage(ack=pb.Ack(id=self._acks.pop(0)), sent_at=self._clock.now())
            if self._clock.monotonic() >= self._beat_at:
                self._beat_at = self._clock.monotonic() + self._beat_s()
                if not self._outbox.waiting("heartbeat"):
                    self.put("heartbeat", pb.AgentMessage(heartbeat=self._listener.heartbeat()))
            for entry in self._outbox.unsent():
                if self.welcomed or entry.slot == "heartbeat":
                    entry.first_sent = self._clock.monotonic()
                    yield entry.message
            await self._wait(max(0.05, self._beat_at - self._clock.monotonic()))

    def _beat_s(self) -> float:
        return min(self._heartbeat_s, self._patience_s / 2) if self._urgent() else self._heartbeat_s

    async def _wait(self, longest_s: float) -> None:
        """Wait until there is something to send, or for that long."""
        sleeper = asyncio.ensure_future(self._clock.sleep(longest_s))
        waker = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({sleeper, waker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            waker.cancel()

    async def _watch(self) -> None:
        """End a stream whose other end says nothing any more."""
        while True:
            await self._clock.sleep(0.5)
            oldest = self._outbox.oldest_sent()
            if self._clock.monotonic() - (self._heard if oldest is None else oldest) > max(DEAD_AFTER_S, 3 * self._heartbeat_s):
                raise StreamEndedError("the controller is silent")

    async def _incoming(self, call: Any) -> None:
        async for message in call:
            self._heard = self._word_at = self._clock.monotonic()
            if message.sent_at > 0:
                self._listener.on_sent(message.sent_at)
            kind = message.WhichOneof("body")
            if kind == "ack":
                self._outbox.acknowledge(message.ack.id)
                continue
            if kind is None:
                continue  # a newer controller's message: not for us
            if not message.id:
                log.warning("the controller sent %s without an id", kind)
                continue
            if self._first_time(message.id):
                self._handle(kind, message)
            self._acks.append(message.id)
            self._wake.set()

    def _first_time(self, message_id: str) -> bool:
        if message_id in self._seen:
            return False
        self._seen[message_id] = None
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return True

    def _handle(self, kind: str, message: pb.ControllerMessage) -> None:
        if kind == "welcome":
            self._welcome(message.welcome)
        elif kind == "refused":
            refused = message.refused
            raise StreamEndedError(f"refused: {refused.reason[:200]}", None if refused.retry else 30.0)
        elif kind == "prepare":
            self._listener.on_prepare(message.prepare)
        elif kind == "release":
            self._listener.on_release(message.release)
        elif kind == "hazard":
            self._listener.on_hazard(message.hazard)
        elif kind == "health_rules":
            self._listener.on_health_rules(message.health_rules)
        elif kind == "health_order":
            self._listener.on_health_order(message.health_order)

    def _welcome(self, welcome: pb.Welcome) -> None:
        self.welcomed = True
        self._failures = 0
        self._fault = ""
        if 0.1 <= welcome.heartbeat_s <= 60:
            self._heartbeat_s = welcome.heartbeat_s
        self._beat_at = self._clock.monotonic()
        log.info("welcomed as node %s of cluster %s", welcome.node, welcome.cluster)
        self._listener.on_welcome(welcome)
        self._wake.set()


def _end_if_cancelled() -> None:
    """Raise CancelledError where our task was cancelled and the stream ended by something else in that moment, as grpc.aio has it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group.exceptions[0]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
