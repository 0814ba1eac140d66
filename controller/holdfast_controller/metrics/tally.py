"""Counts what happens, event by event: notices, evacuations, launches, faults. Pure: time comes with the events.

It begins with each start of the controller, and what the journal's replay brings is taken for counted.
"""

from collections.abc import Callable
from typing import Any

from holdfast_common.evacuation import REASON_PREFIX
from holdfast_common.health.model import Action, worst
from holdfast_common.notice import NoticeKind

from holdfast_controller import commands as c
from holdfast_controller import events as e
from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.goodput import OTHER, Goodput
from holdfast_controller.metrics.leaving import CAUSES, Leavings
from holdfast_controller.metrics.remembered import Remembered
from holdfast_controller.records import Node

INTENTIONAL_S = 600.0
"""For so long after its machine's end a node is still said to be down on purpose: Prometheus may look that late."""


class Tally:
    """One listener of the reactor."""

    def __init__(self, counts: Counts, goodput: Goodput) -> None:
        self._counts = counts
        self._leavings = Leavings(counts, goodput)
        self._notices: Remembered[str, None] = Remembered()
        """`NODE NOTICE`"""
        self._warned: Remembered[str, None] = Remembered()
        """Instances whose end was announced."""
        self._taken: Remembered[str, None] = Remembered()
        """Instances that a cloud has taken."""
        self._sick: Remembered[str, None] = Remembered()
        """Instances that were given up for their health."""
        self._ended: Remembered[str, float] = Remembered()
        """Node → when its machine ended or was given up, until it has another."""
        for name in ("gpu_seconds_lost", "steps_lost"):
            for cause in (*CAUSES, OTHER):
                counts.begin(name, cause)
        for kind in ("useful", "lost", "checkpoint"):
            counts.begin("job_gpu_seconds", kind)
        self._handlers: dict[type[e.Event], Callable[[Any, Fleet], None]] = {
            e.NoticeReceived: self._noticed,
            e.NoticeWithdrawn: self._withdrawn,
            e.JobReported: self._reported,
            e.JobRequeued: self._requeued,
            e.JobChanged: self._job_changed,
            e.JobForgotten: self._forgotten,
            e.InstanceChanged: self._instance_changed,
            e.MachineMissing: self._missing,
            e.LaunchEnded: self._launched,
            e.CommandIssued: self._issued,
            e.ClockStepped: self._clock_stepped,
        }

    def begin(self, fleet: Fleet) -> None:
        """Take what the fleet knows at the controller's start for counted: agents and clouds say most of it again."""
        for node in fleet.nodes.values():
            for doom in node.notices.values():
                self._notices.note(f"{node.name} {doom.notice.id}", None)
                self._warn(node, doom.notice.kind)
                if doom.notice.kind is NoticeKind.HEALTH and node.instance_id:
                    self._sick.note(node.instance_id, None)
        for record in fleet.instances.values():
            if record.instance.reclaimed:
                self._taken.note(record.instance.instance_id, None)
            if not record.alive:
                self._end(fleet, record.node, record.instance.instance_id, record.gone_at or record.ending_since or 0.0)
        self._leavings.begin(fleet)

    def take(self, event: e.Event, fleet: Fleet) -> None:
        """Take in an event that the fleet has taken in."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, fleet)

    def down_on_purpose(self, now: float) -> frozenset[str]:
        """Return the nodes whose machines ended lately, or were given up, and that have no other yet."""
        return frozenset(name for name, at in self._ended.items() if now - at <= INTENTIONAL_S)

    # -- notices and what follows -----------------------------------------------------------------------------------------------

    def _noticed(self, event: e.NoticeReceived, fleet: Fleet) -> None:
        notice, node = event.notice, fleet.nodes.get(event.node)
        if notice is None or node is None:
            return
        if self._notices.note(f"{event.node} {notice.id}", None):
            record = fleet.instance_of(node)
            provider = record.instance.pool.partition("/")[0] if record is not None else ""
            self._counts.add("preemption_notices", 1, provider, str(notice.kind))
            if notice.kind is NoticeKind.PREEMPT:
                self._counts.observe("preemption_lead_seconds", notice.deadline - notice.received, provider)
        self._warn(node, notice.kind)
        self._look(fleet, event.node)

    def _warn(self, node: Node, kind: NoticeKind) -> None:
        if kind is NoticeKind.PREEMPT and node.instance_id:
            self._warned.note(node.instance_id, None)

    def _look(self, fleet: Fleet, node: str) -> None:
        for job in fleet.jobs_on(node):
            self._leavings.look(job, fleet)

    def _withdrawn(self, event: e.NoticeWithdrawn, fleet: Fleet) -> None:
        for job in fleet.jobs_on(event.node):
            if job.evacuation is None:
                self._leavings.over(job.view.job_id, "withdrawn")

    def _reported(self, event: e.JobReported, fleet: Fleet) -> None:
        job = fleet.jobs.get(event.job_id)
        if job is not None:
            self._leavings.reported(job, fleet, event.at)

    def _requeued(self, event: e.JobRequeued, fleet: Fleet) -> None:
        job = fleet.jobs.get(event.job_id)
        if job is not None:
            self._leavings.requeued(job, event.attempt, fleet, event.at)

    def _job_changed(self, event: e.JobChanged, fleet: Fleet) -> None:
        job = fleet.jobs.get(event.view.job_id)
        if job is not None:
            self._leavings.changed(job, fleet, event.at)

    def _forgotten(self, event: e.JobForgotten, fleet: Fleet) -> None:
        self._leavings.over(event.job_id, "ended")

    # -- machines ---------------------------------------------------------------------------------------------------------------

    def _instance_changed(self, event: e.InstanceChanged, fleet: Fleet) -> None:
        instance_id = event.instance.instance_id
        record = fleet.instances.get(instance_id)
        if record is None or record.alive:
            return
        self._end(fleet, record.node, instance_id, event.at)
        expected = instance_id in self._warned or fleet.given_up(instance_id)
        if event.instance.reclaimed and self._taken.note(instance_id, None) and not expected:
            self._counts.add("preemption_unnoticed", 1, event.instance.pool.partition("/")[0])
        self._look(fleet, record.node)

    def _missing(self, event: e.MachineMissing, fleet: Fleet) -> None:
        self._end(fleet, event.node, "", event.at)
        self._look(fleet, event.node)

    def _end(self, fleet: Fleet, name: str, instance_id: str, at: float) -> None:
        """Note that a node's machine has ended, unless it has another already."""
        node = fleet.nodes.get(name)
        if node is not None and node.instance_id in {"", instance_id}:
            self._ended.note(name, max(at, self._ended.get(name, at)))

    def _launched(self, event: e.LaunchEnded, fleet: Fleet) -> None:
        for instance in event.instances:
            pool = instance.pool or event.pool
            self._counts.add("launches", 1, pool, pool.rpartition("/")[2])
        for fault in event.faults:
            self._counts.add("launch_faults", 1, fault.pool or event.pool, str(fault.kind))

    def _issued(self, event: e.CommandIssued, fleet: Fleet) -> None:
        command = event.command
        node = fleet.nodes.get(command.node) if isinstance(command, c.NodeCommand | c.TerminateInstance) else None
        if node is None:
            return
        if isinstance(command, c.BindInstance):
            self._ended.pop(node.name, None)
        elif isinstance(command, c.PowerDownNode | c.TerminateInstance):
            self._end(fleet, node.name, command.instance_id, event.at)
        if _is_for_health(command, node) and self._sick.note(node.instance_id, None):
            gravest = worst(node.findings)
            self._counts.add("machines_replaced_for_health", 1, gravest.rule if gravest is not None else "")

    def _clock_stepped(self, event: e.ClockStepped, fleet: Fleet) -> None:
        self._leavings.shift(event.by_s)
        for name in self._ended:
            self._ended[name] += event.by_s


def reason_class(reason: str) -> tuple[str, str]:
    """Return of what sort a drain's reason is, and who owns it: our own words, or others'."""
    if not reason.startswith(REASON_PREFIX):
        return ("other", "other")
    word = reason.removeprefix(REASON_PREFIX).strip().partition(":")[0].partition(" ")[0]
    return (word if word in set(NoticeKind) else "other", "holdfast")


def _is_for_health(command: c.Command, node: Node) -> bool:
    """Whether a machine is given up for its health: with jobs on it, empty, or (it boots, and a rule holds) before it had any."""
    if isinstance(command, c.TerminateInstance):
        gravest = worst(node.findings)
        boots = node.wanted_since is not None and node.instance_id == command.instance_id
        return boots and gravest is not None and gravest.action is not Action.NOTE
    return isinstance(command, c.CondemnNode) or (isinstance(command, c.PowerDownNode) and command.key.endswith(":health"))
