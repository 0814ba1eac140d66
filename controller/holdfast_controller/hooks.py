"""Slurm's hooks, served over the unix socket. They hint; the truth is what the next look at Slurm says."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from holdfast_common.clock import Clock
from holdfast_common.errors import InputError
from holdfast_common.views import NodeView
from holdfast_protos.v1 import hook_pb2, hook_pb2_grpc
from holdfast_slurm.client import Slurm

from holdfast_controller.events import Event
from holdfast_controller.fleet import Fleet
from holdfast_controller.reactor import Reactor
from holdfast_controller.reconcile import SlurmWatcher
from holdfast_controller.wire import node_names, released, requested, resume_failed

SHORTEST_S = 0.001
"""A timer may fire a rounding error early."""
MAX_GATES = 32
"""Jobs that wait at PrologSlurmctld at a time; the rest take Slurm's own tick (24.11 hangs on a reconfigure with 100)."""
MAX_WAIT_S = 60.0
LEAVES_S = 0.5
"""What a gate needs from our answer to the end of its process, and slurmctld to see that."""
STARTS_S = 1.0
"""What a gate needs to its next question, from its start (it imports gRPC: 0.2 to 0.5 s) or our last answer: until then none is counted."""

log = structlog.get_logger()
Outcome = hook_pb2.AwaitNodesReply.Outcome


class HookService(hook_pb2_grpc.HookServiceServicer):
    """Each call is durable before it is answered, but for AwaitNodes, which changes nothing."""

    def __init__(self, reactor: Reactor, watcher: SlurmWatcher, clock: Clock) -> None:
        self._reactor = reactor
        self._watcher = watcher
        self._clock = clock
        self._gates = 0
        self._reconfiguring = 0
        self._closed = asyncio.Event()

    async def Resume(self, request: hook_pb2.ResumeRequest, context: Any) -> hook_pb2.HookReply:  # noqa: N802
        """ResumeProgram: nodes are wanted."""
        return await self._record(lambda: requested(request, self._reactor.fleet.nodes, self._clock.now()), context)

    async def Suspend(self, request: hook_pb2.SuspendRequest, context: Any) -> hook_pb2.HookReply:  # noqa: N802
        """SuspendProgram: a hint that nodes are given back."""
        return await self._record(lambda: released(request, self._reactor.fleet.nodes, self._clock.now()), context)

    async def ResumeFail(self, request: hook_pb2.ResumeFailRequest, context: Any) -> hook_pb2.HookReply:  # noqa: N802
        """ResumeFailProgram: nodes did not register in time."""
        return await self._record(lambda: resume_failed(request, self._reactor.fleet.nodes, self._clock.now()), context)

    async def _record(self, make: Callable[[], list[Event]], context: Any) -> hook_pb2.HookReply:
        try:
            events = make()
        except InputError as error:
            log.warning("a hook's call was dropped", reason=str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        # All are taken in before the first await: a hook that stops waiting (its deadline is half a second) takes none of them back.
        for event in events[:-1]:
            self._reactor.post(event)
        if events:
            await self._reactor.record(events[-1])
        self._watcher.nudge()
        return hook_pb2.HookReply()

    async def AwaitNodes(self, request: hook_pb2.AwaitNodesRequest, context: Any) -> hook_pb2.AwaitNodesReply:  # noqa: N802
        """Answer when the job's nodes are up, or it is clear that they will not be, or `wait_s` is over."""
        try:
            names = node_names(list(request.nodes))
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        if math.isnan(request.wait_s):  # it would neither pass nor be waited for
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "wait_s must be a number of seconds")
        if not any(name in self._reactor.fleet.nodes for name in names):
            return hook_pb2.AwaitNodesReply(outcome=Outcome.NOT_OURS)
        if self._gates >= MAX_GATES or self._reconfiguring:
            return hook_pb2.AwaitNodesReply(outcome=Outcome.BUSY)
        since = self._clock.now()
        self._gates += 1
        self._watcher.hurry(+1)
        try:
            outcome = await self._wait(request.job_id, names, min(request.wait_s, MAX_WAIT_S))
        finally:
            self._gates -= 1
            self._watcher.hurry(-1)
        log.info("a gate was answered", job=request.job_id, answer=Outcome.Name(outcome), waited_s=round(self._clock.now() - since, 3))
        return hook_pb2.AwaitNodesReply(outcome=outcome)

    async def _wait(self, job_id: int, names: tuple[str, ...], wait_s: float) -> "hook_pb2.AwaitNodesReply.Outcome.ValueType":
        fleet = self._reactor.fleet
        since, steps, ends = self._clock.now(), fleet.clock_steps, self._clock.monotonic() + wait_s
        while True:
            if fleet.clock_steps != steps:  # looks are dated by another reckoning now
                since, steps = self._clock.now(), fleet.clock_steps
            outcome = judge(fleet, job_id, names, since)
            left_s = ends - self._clock.monotonic()
            if outcome != Outcome.WAIT or left_s < SHORTEST_S:
                return outcome
            if self._reconfiguring:
                return Outcome.BUSY
            changed, closed = asyncio.ensure_future(self._reactor.changed()), asyncio.ensure_future(self._closed.wait())
            try:
                await asyncio.wait({changed, closed}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                closed.cancel()

    async def reconfigure(self, slurm: Slurm) -> int:
        """Send every waiting gate away, let none wait meanwhile, and have Slurm read its configuration again. Return how many waited.

        A slurmctld that reconfigures kills waiting gates, on 26.05 without ever launching the job (measured). A job whose gate was
        sent away starts at slurmctld's own look, up to half a minute after its nodes are up. Raises SlurmUnavailable, SlurmRefused.
        """
        waiting = self._gates
        self._reconfiguring += 1
        self._closed.set()
        try:
            await self._clock.sleep(STARTS_S)
            while self._gates:
                await self._clock.sleep(0.02)
            await self._clock.sleep(LEAVES_S)
            await slurm.reconfigure()
        finally:
            self._reconfiguring -= 1
            if not self._reconfiguring:
                self._closed.clear()
        return waiting


def judge(fleet: Fleet, job_id: int, names: tuple[str, ...], since: float) -> "hook_pb2.AwaitNodesReply.Outcome.ValueType":
    """Say how a gate stands, by looks at Slurm that began after it did (`since`): READY only where every managed node is positively up."""
    nodes = [fleet.nodes[name] for name in names if name in fleet.nodes]
    job = fleet.jobs.get(job_id)
    fresh = [node for node in nodes if node.view is not None and node.viewed_at > since]
    views = [node.view for node in fresh if node.view is not None]
    if len(fresh) == len(nodes) and all(view.up for view in views):
        return Outcome.READY
    lost = any(_lost(view) for view in views)
    over = bool(fresh) and job is not None and not job.view.active
    return Outcome.GONE if lost or over else Outcome.WAIT


def _lost(view: NodeView) -> bool:
    # Not POWERED_DOWN: so the node still reads in the second between the allocation and slurmctld's call of ResumeProgram.
    return view.state in {"DOWN", "FAIL", "ERROR"} or bool(view.flags & {"POWERING_DOWN", "POWER_DOWN", "FAIL"})
