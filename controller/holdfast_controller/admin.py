"""`AdminService`: what the CLI asks and orders, over the unix socket. No logic of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError, HoldfastError, Temporary
from holdfast_common.notice import Notice, NoticeKind
from holdfast_protos.v1 import admin_pb2

from holdfast_controller import __version__, commands
from holdfast_controller.agents import AgentHub
from holdfast_controller.describe import job_phase, job_sentence, node_phase, node_sentence
from holdfast_controller.events import NoticeReceived, PolicySet
from holdfast_controller.fleet import Fleet
from holdfast_controller.health_admin import HealthCalls
from holdfast_controller.history import FINISHED, history_of
from holdfast_controller.journal import Journal
from holdfast_controller.journal_reader import Entry
from holdfast_controller.market import MarketWatcher
from holdfast_controller.policies import PolicyStore
from holdfast_controller.pools import offer_info, pool_infos
from holdfast_controller.reactor import Reactor
from holdfast_controller.records import JobRecord, Node

MAX_POLICY_BYTES = 1_000_000
MAX_NOTICE_S = 86_400.0
MAX_EVENTS = 10_000
PAGE = 1000
HISTORY = 40


class AdminService(HealthCalls):
    """Read-only but for SetPolicy, SetHealthRules, ResolveHealth, Interrupt and Reconfigure."""

    def __init__(
        self,
        reactor: Reactor,
        hub: AgentHub,
        policies: PolicyStore,
        journal: Journal,
        clock: Clock,
        *,
        market: MarketWatcher,
        cluster: str,
        reconfigure: Callable[[], Awaitable[int]],
    ) -> None:
        self._reactor = reactor
        self._hub = hub
        self._policies = policies
        self._journal = journal
        self._clock = clock
        self._market = market
        self._cluster = cluster
        self._reconfigure = reconfigure
        self._started = clock.now()

    @property
    def _fleet(self) -> Fleet:
        return self._reactor.fleet

    async def Ping(self, request: admin_pb2.PingRequest, context: Any) -> admin_pb2.PingReply:  # noqa: N802
        """Say who is here."""
        return admin_pb2.PingReply(
            version=__version__,
            cluster=self._cluster,
            started=self._started,
            reconciled=self._reactor.deciding and self._fleet.cloud_listed,
        )

    async def ListNodes(self, request: admin_pb2.ListNodesRequest, context: Any) -> admin_pb2.ListNodesReply:  # noqa: N802
        """List managed nodes."""
        wanted = set(request.names)
        unknown = sorted(wanted - self._fleet.nodes.keys())
        if unknown:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast does not manage node {unknown[0]}")
        nodes = [self._node(node) for node in self._fleet.nodes.values() if not wanted or node.name in wanted]
        return admin_pb2.ListNodesReply(nodes=nodes)

    def _node(self, node: Node) -> admin_pb2.NodeInfo:
        record, view = self._fleet.instance_of(node), node.view
        return admin_pb2.NodeInfo(
            name=node.name,
            slurm_state="+".join([view.state, *sorted(view.flags)]) if view is not None else "unknown",
            phase=node_phase(self._fleet, node),
            instance_id=node.instance_id,
            pool=record.instance.pool if record is not None else "",
            market=record.instance.pool.rpartition("/")[2] if record is not None else "",
            launched=record.instance.launched if record is not None else 0.0,
            price_usd_h=record.price_usd_h or 0.0 if record is not None else 0.0,
            agent_connected=record is not None and record.connected,
            job_ids=[job.view.job_id for job in self._fleet.jobs_on(node.name)],
            notice_deadline=node.doom.notice.deadline if node.doom is not None else 0.0,
            reason=node_sentence(self._fleet, self._policies.plans(), node, self._clock.now()),
        )

    async def ListJobs(self, request: admin_pb2.ListJobsRequest, context: Any) -> admin_pb2.ListJobsReply:  # noqa: N802
        """List jobs of managed partitions. An array's own id names all its tasks."""
        wanted, seen, jobs = set(request.ids), set(), []
        for job in self._fleet.jobs.values():
            names = {job.view.key, str(job.view.job_id), job.view.key.partition("_")[0]}
            if not wanted or wanted & names:
                seen |= names
                jobs.append(job)
        if wanted - seen:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast knows no job {min(wanted - seen)}")
        return admin_pb2.ListJobsReply(jobs=[self._job(job) for job in jobs])

    def _job(self, job: JobRecord) -> admin_pb2.JobInfo:
        view = job.view
        said = self._hub.progress.get(view.job_id)
        if said is not None and said.attempt != view.restarts:
            said = None
        saved = [report.saved_step for report in job.reports.values() if report.saved_step is not None]
        return admin_pb2.JobInfo(
            job_id=view.job_id,
            key=view.key,
            state=view.state + ("+COMPLETING" if view.completing else ""),
            partition=view.partition,
            user=view.user,
            nodes=view.nodes,
            attempt=view.restarts,
            step=said.step if said is not None else -1,
            saved_step=max([*saved, said.saved_step if said is not None else -1], default=-1),
            phase=job_phase(job),
            interruptions=job.interruptions,
            reason=job_sentence(self._fleet, self._policies.plans(), job, self._clock.now()),
        )

    async def Events(self, request: admin_pb2.EventsRequest, context: Any) -> AsyncIterator[admin_pb2.Event]:  # noqa: N802
        """Stream the journal: the newest `limit` entries, or those after `after_seq`; with `follow`, what comes after them as well."""
        ref = f"node:{request.node}" if request.node else f"job:{request.job_id}" if request.job_id else ""
        after = request.after_seq
        await context.send_initial_metadata(())  # at once, so that a follower knows that it is connected
        try:
            if after:
                newest = await self._journal.read(newest=1)
                if after > max((entry.seq for entry in newest), default=0):
                    await context.abort(grpc.StatusCode.OUT_OF_RANGE, f"the journal has no event {after} yet: it was begun anew")
            else:
                for entry in await self._journal.read(0, ref, newest=min(request.limit or 100, MAX_EVENTS)):
                    yield event_message(entry)
                    after = entry.seq
                if not request.follow:
                    return
            async for entry in self._after(after, ref, follow=request.follow):
                yield event_message(entry)
        except Temporary as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _after(self, after: int, ref: str, *, follow: bool) -> AsyncIterator[Entry]:
        """Yield entries in order. Each part of the journal is searched once, however seldom `ref` comes up in it."""
        while True:
            changed = asyncio.ensure_future(self._reactor.changed())
            try:
                known = self._reactor.seq
                entries = await self._journal.read(after, ref, limit=PAGE)
                for entry in entries:
                    yield entry
                    after = entry.seq
                if len(entries) == PAGE:
                    continue
                if not follow:
                    return
                after = max(after, known)
                while self._reactor.seq <= after:
                    await changed
                    changed = asyncio.ensure_future(self._reactor.changed())
            finally:
                changed.cancel()

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Any) -> admin_pb2.ExplainReply:  # noqa: N802
        """Say why a node or a job is as it is, with its history."""
        now, plans = self._clock.now(), self._policies.plans()
        if bool(request.node) == bool(request.job_id):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "name a node or a job")
        if request.node:
            node = self._fleet.nodes.get(request.node)
            if node is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast does not manage node {request.node}")
                raise AssertionError
            summary, ref = node_sentence(self._fleet, plans, node, now), f"node:{request.node}"
        else:
            job = self._fleet.jobs.get(request.job_id)
            ref = f"job:{request.job_id}"
            summary = job_sentence(self._fleet, plans, job, now) if job is not None else ""
        try:
            history = await history_of(self._journal, ref, HISTORY)
        except Temporary as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            raise
        if not summary and not history:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast knows no job {request.job_id}")
        summary = summary or f"job {request.job_id} is over, and Slurm has forgotten it."
        return admin_pb2.ExplainReply(summary=summary, history=[event_message(line.entry, line.outcome) for line in history])

    async def GetPolicy(self, request: admin_pb2.GetPolicyRequest, context: Any) -> admin_pb2.PolicyReply:  # noqa: N802
        """Return the policy in force."""
        return admin_pb2.PolicyReply(toml=self._policies.text, revision=self._policies.revision)

    async def SetPolicy(self, request: admin_pb2.SetPolicyRequest, context: Any) -> admin_pb2.PolicyReply:  # noqa: N802
        """Check a policy, or put it in force. Faults come back in the reply, and then nothing has changed.

        Aborts with ABORTED where the policy in force is not the one that was read.
        """
        current = self._policies.revision
        if len(request.toml) > MAX_POLICY_BYTES:
            return admin_pb2.PolicyReply(revision=current, faults=[f"longer than {MAX_POLICY_BYTES} bytes"])
        if request.expected_revision and request.expected_revision != current:
            fault = f"the policy changed meanwhile: it is at revision {current}, not {request.expected_revision[:40]}"
            await context.abort(grpc.StatusCode.ABORTED, fault)
        try:
            revision = self._policies.check(request.toml)
            if not request.check_only:
                self._policies.set(request.toml, self._fleet)
                self._hub.tell_policy()
                await self._reactor.record(PolicySet(self._clock.now(), revision))
        except ConfigError as error:
            return admin_pb2.PolicyReply(toml=request.toml, revision=current, faults=error.faults)
        except OSError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"the policy file cannot be written: {error}")
            raise
        return admin_pb2.PolicyReply(toml=request.toml, revision=revision)

    async def Interrupt(self, request: admin_pb2.InterruptRequest, context: Any) -> admin_pb2.InterruptReply:  # noqa: N802
        """Evacuate a node as if the cloud had given notice."""
        node = self._fleet.nodes.get(request.node)
        if node is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Holdfast does not manage node {request.node}")
            raise AssertionError
        if node.view is None or not node.view.up or node.doom is not None:
            sentence = node_sentence(self._fleet, self._policies.plans(), node, self._clock.now())
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"only a node that is up can be interrupted: {sentence}")
        if not 0 <= request.notice_s <= MAX_NOTICE_S:  # NaN neither
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"notice_s must be 0 to {MAX_NOTICE_S:.0f} seconds")
        now, window_s = self._clock.now(), request.notice_s
        reason = "".join(char for char in request.reason[:200] if char.isprintable()) or "an admin wants the node"
        notice = Notice(f"admin-{node.name}-{now:.3f}", NoticeKind.DRAIN, now + window_s, now, reason)
        await self._reactor.record(NoticeReceived(now, node.name, notice, "admin"))
        return admin_pb2.InterruptReply(notice_id=notice.id)

    async def Reconfigure(self, request: admin_pb2.ReconfigureRequest, context: Any) -> admin_pb2.ReconfigureReply:  # noqa: N802
        """Have Slurm read its configuration again, with no gate waiting."""
        try:
            return admin_pb2.ReconfigureReply(gates_released=await self._reconfigure())
        except HoldfastError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"Slurm did not reconfigure: {error}"[:1000])
            raise

    async def ListPools(self, request: admin_pb2.ListPoolsRequest, context: Any) -> admin_pb2.ListPoolsReply:  # noqa: N802
        """List the policy's pools; `live` asks the clouds first, within the time that the caller has."""
        faults = await self._market.look(scores=True) if request.live else []
        infos = list(pool_infos(self._fleet, self._policies, self._clock.now()))
        wanted = set(request.names)
        unknown = sorted(wanted - {name for info in infos for name in (info.name, info.full_name)})
        if unknown:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the policy has no pool {unknown[0][:200]}")
        pools = [info for info in infos if not wanted or wanted & {info.name, info.full_name}]
        return admin_pb2.ListPoolsReply(pools=pools, faults=faults)

    async def ListOffers(self, request: admin_pb2.ListOffersRequest, context: Any) -> admin_pb2.ListOffersReply:  # noqa: N802
        """Ask the clouds which instance types with GPUs they sell."""
        offers, faults = await self._market.offers()
        return admin_pb2.ListOffersReply(offers=[offer_info(offer) for offer in offers], faults=faults)


def event_message(entry: Entry, outcome: str = "") -> admin_pb2.Event:
    """Return the entry as it goes over the wire; an outcome that is an entry of its own is its own outcome."""
    return admin_pb2.Event(
        seq=entry.seq,
        at=entry.at,
        kind=entry.kind,
        command=hasattr(commands, entry.kind),
        text=entry.text,
        body_json=entry.body,
        outcome=entry.text if entry.kind == FINISHED else outcome,
    )
