"""Counts what happens, event by event: notices, evacuations, launches, faults. Pure: time comes with the events.

It begins at the controller's start with nothing, and the events of the journal's replay are not shown to it: nothing counts twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast_common.evacuation import REASON_PREFIX
from holdfast_common.health.model import worst
from holdfast_common.notice import NoticeKind

from holdfast_controller import commands as c
from holdfast_controller import events as e
from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.goodput import Goodput, gpus_of
from holdfast_controller.plan import Plans
from holdfast_controller.records import JobRecord

MOST_REMEMBERED = 20_000
INTENTIONAL_S = 600.0
"""For so long after its machine's end a node is still said to be down on purpose: Prometheus may look that late."""
LOSS = "loss"
"""The cause of what nobody announced."""


@dataclass(slots=True)
class Leaving:
    """An attempt that must leave."""

    attempt: int
    since: float
    deadline: float
    cause: str
    saved: bool = False
    requeued_at: float | None = None
    resumed: bool = False


class Tally:
    """One listener of the reactor."""

    def __init__(self, counts: Counts, goodput: Goodput, plans: Callable[[], Plans]) -> None:
        self._counts = counts
        self._goodput = goodput
        self._plans = plans
        self._notices: dict[str, None] = {}
        self._leaving: dict[int, Leaving] = {}
        self._lost: dict[str, None] = {}
        self.ended: dict[str, float] = {}
        """Node → when its machine ended or was given up last."""
        self._handlers: dict[type[e.Event], Callable[[Any, Fleet], None]] = {
            e.NoticeReceived: self._noticed,
            e.JobReported: self._reported,
            e.JobRequeued: self._requeued,
            e.JobChanged: self._job_changed,
            e.InstanceChanged: self._instance_changed,
            e.MachineMissing: self._missing,
            e.LaunchEnded: self._launched,
            e.CommandIssued: self._issued,
        }

    def take(self, event: e.Event, fleet: Fleet) -> None:
        """Take in an event that the fleet has taken in."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, fleet)

    def down_on_purpose(self, now: float) -> frozenset[str]:
        """Return the nodes whose machines ended lately, or were given up."""
        return frozenset(name for name, at in self.ended.items() if now - at <= INTENTIONAL_S)

    # -- notices and what follows -----------------------------------------------------------------------------------------------

    def _noticed(self, event: e.NoticeReceived, fleet: Fleet) -> None:
        notice = event.notice
        if notice is None or event.node not in fleet.nodes:
            return
        key = f"{event.node} {notice.id}"
        if key not in self._notices:
            _remember(self._notices, key)
            provider = _provider(fleet, event.node)
            self._counts.add("preemption_notices", 1, provider, str(notice.kind))
            if notice.kind is NoticeKind.PREEMPT:
                self._counts.observe("preemption_lead_seconds", notice.deadline - notice.received, provider)
        for job in fleet.jobs_on(event.node):
            self._leave(job, fleet, event.at)

    def _leave(self, job: JobRecord, fleet: Fleet, at: float) -> Leaving | None:
        """Note that the attempt must leave, if it must."""
        evacuation = job.evacuation
        if evacuation is None:
            return None
        known = self._leaving.get(job.view.job_id)
        if known is None or known.attempt != evacuation.attempt:
            deadline = min(evacuation.doomed.values(), default=at)
            known = Leaving(evacuation.attempt, evacuation.began or at, deadline, _cause(job, fleet))
            self._leaving.pop(job.view.job_id, None)
            self._leaving[job.view.job_id] = known
            if len(self._leaving) > MOST_REMEMBERED:
                del self._leaving[next(iter(self._leaving))]
        return known

    def _reported(self, event: e.JobReported, fleet: Fleet) -> None:
        leaving = self._leaving.get(event.job_id)
        if leaving is None or leaving.attempt != event.attempt or leaving.saved or leaving.requeued_at is not None:
            return
        if event.notice_id and event.state in {"saved", "parked"}:
            leaving.saved = True
            self._counts.observe("checkpoint_duration_seconds", event.at - leaving.since, leaving.cause)

    def _requeued(self, event: e.JobRequeued, fleet: Fleet) -> None:
        job = fleet.jobs.get(event.job_id)
        if job is not None:
            self._left(job, event.attempt, event.at, fleet)

    def _left(self, job: JobRecord, attempt: int, at: float, fleet: Fleet) -> None:
        leaving = self._leave(job, fleet, at)
        if leaving is None or leaving.attempt != attempt or leaving.requeued_at is not None:
            return
        leaving.requeued_at = at
        late = at > leaving.deadline and leaving.cause != LOSS
        outcome = "deadline_missed" if late else "saved" if leaving.saved else "unsaved"
        self._counts.add("evacuations", 1, leaving.cause, outcome)
        self._counts.add("requeues", 1, leaving.cause)
        self._counts.observe("requeue_duration_seconds", at - leaving.since, leaving.cause)
        self._goodput.requeued(job.view.job_id, attempt, gpus_of(job, self._plans()), leaving.cause)

    def _job_changed(self, event: e.JobChanged, fleet: Fleet) -> None:
        view, job = event.view, fleet.jobs.get(event.view.job_id)
        if job is None:
            return
        leaving = self._leave(job, fleet, event.at)
        if leaving is None or view.restarts <= leaving.attempt:
            return
        self._left(job, leaving.attempt, event.at, fleet)  # by its agent or by Slurm
        if view.state == "RUNNING" and leaving.requeued_at is not None and not leaving.resumed:
            leaving.resumed = True
            self._counts.observe("resume_duration_seconds", event.at - leaving.requeued_at, leaving.cause)

    # -- machines ---------------------------------------------------------------------------------------------------------------

    def _instance_changed(self, event: e.InstanceChanged, fleet: Fleet) -> None:
        record = fleet.instances.get(event.instance.instance_id)
        if record is None or record.alive:
            return
        if record.node:
            _remember_at(self.ended, record.node, event.at)
        node = fleet.nodes.get(record.node)
        warned = node is not None and any(doom.notice.kind is NoticeKind.PREEMPT for doom in node.notices.values())
        if event.instance.reclaimed and not warned and event.instance.instance_id not in self._lost:
            _remember(self._lost, event.instance.instance_id)
            self._counts.add("preemption_unnoticed", 1, event.instance.pool.partition("/")[0])
        for job in fleet.jobs_on(record.node):
            self._leave(job, fleet, event.at)

    def _missing(self, event: e.MachineMissing, fleet: Fleet) -> None:
        _remember_at(self.ended, event.node, event.at)
        for job in fleet.jobs_on(event.node):
            self._leave(job, fleet, event.at)

    def _launched(self, event: e.LaunchEnded, fleet: Fleet) -> None:
        for instance in event.instances:
            pool = instance.pool or event.pool
            self._counts.add("launches", 1, pool, pool.rpartition("/")[2])
        for fault in event.faults:
            self._counts.add("launch_faults", 1, fault.pool or event.pool, str(fault.kind))

    def _issued(self, event: e.CommandIssued, fleet: Fleet) -> None:
        command = event.command
        if isinstance(command, c.PowerDownNode | c.TerminateInstance) and command.node:
            _remember_at(self.ended, command.node, event.at)
        sick = isinstance(command, c.CondemnNode) or (isinstance(command, c.PowerDownNode) and command.key.endswith(":health"))
        if isinstance(command, c.NodeCommand) and sick and command.node in fleet.nodes:
            gravest = worst(fleet.nodes[command.node].findings)
            self._counts.add("machines_replaced_for_health", 1, gravest.rule if gravest is not None else "")


def reason_class(reason: str) -> tuple[str, str]:
    """Return of what sort a drain's reason is, and who owns it: our own words, or others'."""
    if not reason.startswith(REASON_PREFIX):
        return ("other", "other")
    word = reason.removeprefix(REASON_PREFIX).strip().partition(":")[0].partition(" ")[0]
    return (word if word in set(NoticeKind) else "other", "holdfast")


def _cause(job: JobRecord, fleet: Fleet) -> str:
    """Return why an attempt must leave: the kind of the notice that counts first, or that nobody gave one."""
    assert job.evacuation is not None
    dooms = [fleet.nodes[name].doom for name in job.evacuation.doomed if name in fleet.nodes]
    notices = [doom.notice for doom in dooms if doom is not None and not _is_loss(doom.notice.id)]
    if job.evacuation.sick:
        return str(NoticeKind.HEALTH)
    return str(min(notices, key=lambda notice: notice.deadline).kind) if notices else LOSS


def _is_loss(notice_id: str) -> bool:
    return notice_id.startswith(("gone-", "missing-", "rebooted-"))


def _provider(fleet: Fleet, name: str) -> str:
    record = fleet.instance_of(fleet.nodes[name])
    return record.instance.pool.partition("/")[0] if record is not None else ""


def _remember(seen: dict[str, None], key: str) -> None:
    seen[key] = None
    if len(seen) > MOST_REMEMBERED:
        del seen[next(iter(seen))]


def _remember_at(seen: dict[str, float], key: str, at: float) -> None:
    seen.pop(key, None)
    seen[key] = at
    if len(seen) > MOST_REMEMBERED:
        del seen[next(iter(seen))]
