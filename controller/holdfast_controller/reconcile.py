"""Looking at Slurm and at the clouds, again and again, and telling the reactor what is new. Level-triggered: hooks and notices only make a
look come sooner. A look that fails, or is not whole, says nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from holdfast_common.clock import Clock
from holdfast_common.views import JobView, NodeView
from holdfast_slurm.client import Slurm

from holdfast_controller.events import (
    CloudListed,
    Event,
    InstanceChanged,
    JobChanged,
    JobForgotten,
    MachineMissing,
    NodeChanged,
    NodesRequested,
    Ticked,
)
from holdfast_controller.fleet import Fleet
from holdfast_controller.providers.base import Instance, PartialAnswerError, Provider
from holdfast_controller.reactor import Reactor
from holdfast_controller.records import Node
from holdfast_controller.watcher import Watcher

UNASKED_S = 3.0
"""A node that Slurm powers up and that no hook has asked for is taken as requested after this long: the hook was lost."""
QUEUED = frozenset({"", "None", "Priority", "Resources"})
"""Reasons between which a job changes while it stands in the queue: it waits its turn."""
MISSING_S = 20.0
"""A node without an instance that Slurm gets no answer from for this long has lost its machine (Slurm itself waits for SlurmdTimeout)."""
VANISHED_S, VANISHED_LOOKS = 120.0, 3
"""An instance that whole lists have left out for this long, this often, and whose agent is not there, is gone."""


class SlurmWatcher(Watcher):
    """Looks at nodes and jobs."""

    complaint = "slurmctld gives no answer: nothing is concluded from that"

    def __init__(self, slurm: Slurm, reactor: Reactor, clock: Clock, *, busy_s: float, idle_s: float) -> None:
        super().__init__("slurm", clock, busy_s=busy_s, idle_s=idle_s)
        self._slurm = slurm
        self._reactor = reactor
        self._unasked: dict[str, float] = {}
        self._missing: dict[str, float] = {}
        self._waiting = 0

    def hurry(self, change: int) -> None:
        """Look often while somebody waits for it: +1 when one begins to wait, -1 when it ends."""
        self._waiting += change
        if change > 0:
            self.nudge()

    def busy(self) -> bool:
        """Whether a gate waits, or something is under way."""
        return self._waiting > 0 or self._reactor.fleet.busy()

    async def look(self) -> None:
        """Look once. Raises `SlurmUnavailable`."""
        at = self._clock.now()
        fleet = self._reactor.fleet
        steps = fleet.clock_steps
        nodes, jobs = await asyncio.gather(self._slurm.nodes(), self._slurm.jobs())
        if fleet.clock_steps != steps:
            return  # it began at a moment of another reckoning
        fleet.looked(at, after_outage=self._failing)
        news = [*node_news(fleet, nodes, at), *job_news(fleet, jobs, at), *self._unasked_for(fleet, nodes, jobs, at)]
        news += self._machines_missing(fleet, nodes, at)
        for event in news[:-1]:
            self._reactor.post(event)
        self._reactor.deciding = True
        # Also without news: a gate or a decision may have waited for a look that is newer than something else.
        await self._reactor.record(news[-1] if news else Ticked(at))

    def _machines_missing(self, fleet: Fleet, nodes: tuple[NodeView, ...], at: float) -> list[Event]:
        """Return the nodes whose machines are gone: after the loss of the journal nobody knows which instance they had."""
        silent = [view for view in nodes if "NOT_RESPONDING" in view.flags and view.name in fleet.nodes]
        lost = [view for view in silent if _machineless(fleet, fleet.nodes[view.name], view)] if fleet.cloud_listed else []
        now = self._clock.monotonic()
        self._missing = {view.name: self._missing.get(view.name, now) for view in lost}
        return [MachineMissing(at, view.name, view.address) for view in lost if now >= self._missing[view.name] + MISSING_S]

    def _unasked_for(self, fleet: Fleet, nodes: tuple[NodeView, ...], jobs: tuple[JobView, ...], at: float) -> list[Event]:
        """Return requests whose hook was lost."""
        lost = {view.name for view in nodes if view.name in fleet.nodes and _unserved(fleet.nodes[view.name], view)}
        now = self._clock.monotonic()
        self._unasked = {name: self._unasked.get(name, now) for name in lost}
        due = sorted(name for name, since in self._unasked.items() if now >= since + UNASKED_S)
        if not due or (fleet.fresh and not fleet.cloud_listed):
            return []
        events: list[Event] = []
        for job in [job for job in jobs if job.active and set(job.nodes) & set(due)]:
            names = tuple(name for name in job.nodes if name in due)
            events.append(NodesRequested(at, names, job.job_id, "reconcile", job.nodes))
            due = [name for name in due if name not in names]
        return [*events, *((NodesRequested(at, tuple(due), 0, "reconcile"),) if due else ())]


def _machineless(fleet: Fleet, node: Node, view: NodeView) -> bool:
    """Whether Slurm holds the node for up, and no instance that we know has its address, which we had set."""
    if node.instance_id or node.doom is not None or node.wanted_since is not None or view.address in {"", view.name}:
        return False
    up = view.state in {"IDLE", "ALLOCATED", "MIXED"} and not any(flag.startswith("POWER") for flag in view.flags)
    return up and not any(record.alive and record.instance.address == view.address for record in fleet.instances.values())


def _unserved(node: Node, view: NodeView) -> bool:
    powering_up = bool(view.flags & {"POWERING_UP", "POWER_UP"}) and not view.flags & {"POWERING_DOWN", "POWER_DOWN"}
    return powering_up and node.wanted_since is None and not node.instance_id and node.power_down_at is None


def node_news(fleet: Fleet, views: tuple[NodeView, ...], at: float) -> list[Event]:
    """Return what changed of managed nodes since the fleet last heard; the time of the look is noted for the others."""
    news: list[Event] = []
    for view in views:
        node = fleet.nodes.get(view.name)
        if node is None:
            continue
        settled = node.wanted_since is not None and at > node.wanted_since and (view.up or view.powered_down)
        stale = view.powered_down and (node.power_down_at is not None or node.doom is not None)
        if view != node.view or settled or stale:
            news.append(NodeChanged(at, view))
        else:
            node.viewed_at = at
    return news


def job_news(fleet: Fleet, views: tuple[JobView, ...], at: float) -> list[Event]:
    """Return what changed of jobs that are, or were, on managed nodes, or wait for a partition of ours."""
    partitions = {name for node in fleet.nodes.values() if node.view for name in node.view.partitions}
    news: list[Event] = []
    listed = set()
    for view in views:
        listed.add(view.job_id)
        known = fleet.jobs.get(view.job_id)
        ours = known is not None or not partitions.isdisjoint(view.partition.split(",")) or any(name in fleet.nodes for name in view.nodes)
        if not ours:
            continue
        if known is None or steady(known.view) != steady(view):
            news.append(JobChanged(at, view))
        else:
            known.view = view  # a sample: nothing that a decision or a person asks the journal for
    news += [JobForgotten(at, job_id) for job_id in fleet.jobs if job_id not in listed]
    return news


def steady(view: JobView) -> JobView:
    """Return the view without what merely drifts: slurmctld guesses a waiting job's start and weighs its priority anew all the time.

    That a priority is 0 (held) is no drift; nor are the times of a job that runs or has ended.
    """
    priority = min(view.priority, 1)
    if view.state != "PENDING":
        return replace(view, priority=priority)
    reason = "" if view.reason in QUEUED else view.reason
    return replace(view, priority=priority, start_time=0.0, end_time=0.0, reason=reason)


class CloudWatcher(Watcher):
    """Looks at one cloud's instances."""

    complaint = "a cloud gives no whole list: nothing is concluded from that"

    def __init__(self, provider: Provider, reactor: Reactor, clock: Clock, *, busy_s: float, idle_s: float) -> None:
        super().__init__(provider.name, clock, busy_s=busy_s, idle_s=idle_s)
        self._provider = provider
        self._reactor = reactor
        self.listed = False
        self._missing: dict[str, tuple[float, int]] = {}

    def busy(self) -> bool:
        """Whether something is under way, or an instance has no name yet."""
        fleet = self._reactor.fleet
        return fleet.busy() or any(not record.node for record in fleet.instances.values() if record.alive)

    async def look(self) -> None:
        """Look once. Raises `ProviderError`; what some regions said is believed, and nothing is concluded from what they left out."""
        try:
            instances = await self._provider.instances()
        except PartialAnswerError as partial:
            self._tell(instance_news(self._reactor.fleet, partial.instances, self._clock.now()))
            raise
        at = self._clock.now()  # not before: the clock may be set while one waits for the answer
        self._tell([*instance_news(self._reactor.fleet, instances, at), *self._vanished(instances, at)])
        self.listed = True

    def _tell(self, news: list[Event]) -> None:
        for event in news:
            self._reactor.post(event)

    def _up(self, name: str) -> bool:
        node = self._reactor.fleet.nodes.get(name)
        return node is not None and node.view is not None and node.view.up

    def _vanished(self, instances: tuple[Instance, ...], at: float) -> list[Event]:
        """Return instances that no list has named for so long that a lag cannot be the reason."""
        listed = {instance.instance_id for instance in instances}
        records = {
            iid: record
            for iid, record in self._reactor.fleet.instances.items()
            if record.gone_at is None
            and not record.connected
            and iid not in listed
            and not self._up(record.node)
            and record.instance.pool.startswith(f"{self._provider.name}/")
        }
        now = self._clock.monotonic()
        self._missing = {iid: self._missing.get(iid, (now, 0)) for iid in records}
        for iid, (since, looks) in self._missing.items():
            self._missing[iid] = (since, looks + 1)
        lost = [iid for iid, (since, looks) in self._missing.items() if now >= since + VANISHED_S and looks >= VANISHED_LOOKS]
        return [InstanceChanged(at, replace(records[iid].instance, state="gone", state_reason="no list names it any more")) for iid in lost]


def instance_news(fleet: Fleet, instances: tuple[Instance, ...], at: float) -> list[Event]:
    """Return what changed. An instance that is missing from a list is unknown (lists lag), and only "terminated" is gone."""
    news: list[Event] = []
    for instance in instances:
        record = fleet.instances.get(instance.instance_id)
        if record is None and instance.state == "gone":
            continue
        if record is None or record.instance != instance:
            news.append(InstanceChanged(at, instance))
    return news


async def watch_first_listing(watchers: Mapping[str, CloudWatcher], reactor: Reactor, clock: Clock) -> None:
    """Say once when every cloud has been listed."""
    while not all(watcher.listed for watcher in watchers.values()):
        await clock.sleep(0.1)
    reactor.post(CloudListed(clock.now()))
