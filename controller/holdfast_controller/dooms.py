"""Nodes that go away, and the jobs that must leave them: what notices and losses change in the fleet."""

from holdfast_common.health.model import Action, worst
from holdfast_common.notice import Notice, NoticeKind

from holdfast_controller import attempts, index
from holdfast_controller import events as e
from holdfast_controller.records import Doom, Evacuation, JobRecord, Node, PoolMemory
from holdfast_controller.state import STRUCK_S, State

MAX_NOTICES = 64
"""Of one node: no cloud gives so many."""
CRASH_S = 30.0
"""An attempt that failed so shortly before its machine was found sick failed for that: the kernel's word and the crash race."""
LATE_S = 900.0
"""So late an agent's word may come, after an outage; a rule that has held for longer says nothing of jobs that failed long ago."""


def noticed(fleet: State, event: e.NoticeReceived) -> None:
    """Take a notice in, and let the earliest that must be left for count."""
    node = fleet.nodes.get(event.node)
    if node is None or event.notice is None or fleet.given_up(node.instance_id):
        return  # a notice for a machine whose end we have ordered, while Slurm may want the name again, says nothing of its next life
    node.notices[event.notice.id] = Doom(event.notice, event.source, keep_until=event.keep_until)
    if len(node.notices) > MAX_NOTICES:  # what is due last is let go: whatever else was said, the next one to leave for stays
        del node.notices[max(node.notices, key=lambda known: node.notices[known].notice.deadline)]
    _weigh(fleet, node, event.at)
    if event.notice.kind is NoticeKind.HEALTH:
        for job in fleet.jobs.values():
            crashed(fleet, job, event.at)


def health_reported(fleet: State, event: e.HealthReported) -> None:
    """Take in which rules hold on a node's machine; another machine's word says nothing of this one."""
    node = fleet.nodes.get(event.node)
    if node is None or not node.instance_id or node.instance_id != event.instance_id:
        return
    node.findings, node.health_heard = event.findings, event.at
    record, gravest = fleet.instance_of(node), worst(event.findings)
    if record is not None and record.instance.pool and gravest is not None and gravest.action is not Action.NOTE:
        fleet.pools.setdefault(record.instance.pool, PoolMemory()).sick_at = event.at


def crashed(fleet: State, job: JobRecord, at: float) -> None:
    """Have an attempt run again that failed on a machine which was condemned for its health, also where it failed just before that."""
    if not _has_failed(job):
        return
    parts = [part for part in _components(fleet, job) if _has_failed(part)]
    doomed: dict[str, Notice] = {}
    for part in parts:
        for node in (fleet.nodes[name] for name in part.view.nodes if name in fleet.nodes):
            notice = next((doom.notice for doom in node.notices.values() if doom.notice.kind is NoticeKind.HEALTH), None)
            if notice is not None and (part.view.completing or part.view.end_time >= _counts_from(fleet, node, notice, at)):
                doomed[node.name] = notice
    deadlines, ids = {name: notice.deadline for name, notice in doomed.items()}, tuple(notice.id for notice in doomed.values())
    for part in parts if doomed else ():
        part.evacuation = Evacuation(part.view.restarts, part.view.nodes, dict(deadlines), ids, began=at, sick=True)


def _has_failed(job: JobRecord) -> bool:
    """Whether its newest attempt has, and had not to leave before."""
    left = job.evacuation
    return job.view.state in {"FAILED", "NODE_FAIL"} and (left is None or left.attempt != job.view.restarts)


def _counts_from(fleet: State, node: Node, notice: Notice, at: float) -> float:
    """Return from when on failures count: shortly before the rule was found to hold (the agent's word may have waited for a controller).

    Not from before the machine's launch: what ran under the name then, ran on another.
    """
    record = fleet.instance_of(node)
    grave = (finding.since for finding in node.findings if not finding.dry_run and finding.action.rank >= Action.EVACUATE.rank)
    since = max(min((notice.received, *grave)), at - LATE_S)
    return max(since - CRASH_S, record.instance.launched if record is not None else 0.0)


def struck(fleet: State, rule: str, instance_id: str, at: float) -> None:
    """Note that a machine is given up for a rule; what was long ago is forgotten."""
    fleet.struck = {key: then for key, then in fleet.struck.items() if at - then <= STRUCK_S}
    fleet.struck.setdefault(f"{rule} {instance_id}", at)


def withdrawn(fleet: State, event: e.NoticeWithdrawn) -> None:
    """Take a notice back."""
    node = fleet.nodes.get(event.node)
    if node is not None and node.notices.pop(event.notice_id, None) is not None:
        _weigh(fleet, node, event.at)


def ticked(fleet: State, event: e.Ticked) -> None:
    """With time, what was far ahead must be left for."""
    for node in fleet.nodes.values():
        if node.notices:
            _weigh(fleet, node, event.at)


def _weigh(fleet: State, node: Node, at: float) -> None:
    """Let the earliest notice count that must be left for at `at`. A machine that is known to be gone stays so."""
    if node.doom is not None and node.doom.dead:
        return
    pressing = [doom for doom in node.notices.values() if doom.notice.evacuates(at)]
    strongest = min(pressing, key=lambda doom: doom.notice.deadline, default=None)
    if strongest is node.doom:
        return
    node.doom = strongest
    for job in fleet.jobs_on(node.name):
        if strongest is None:
            for part in _components(fleet, job):
                attempts.stay(part, node.name)
        else:
            doom_job(fleet, job, at)


def lose(fleet: State, node: Node, notice_id: str, reason: str, source: str, at: float) -> None:
    """What ran on the node is lost, at this moment."""
    if node.doom is None:
        node.doom = Doom(Notice(notice_id, NoticeKind.PREEMPT, at, at, reason), source=source)
    node.doom.dead = True
    vacate(fleet, node)
    for job in fleet.jobs_on(node.name):
        doom_job(fleet, job, at)


def vacate(fleet: State, node: Node) -> None:
    """No process is left of those that its agent saw: the machine is gone, and nobody says so of each."""
    for job_id in fleet.seen.pop(node.name, index.NO_JOBS):
        fleet.jobs[job_id].present.pop(node.name, None)


def doom_job(fleet: State, job: JobRecord, at: float) -> None:
    """Note the attempt that sits on a doomed node: it must leave, with all its parts."""
    parts = [part for part in _components(fleet, job) if part.view.active and not part.view.completing]
    nodes = (fleet.nodes[name] for part in parts for name in part.view.nodes if name in fleet.nodes)
    doomed = {node.name: node.doom for node in nodes if node.doom is not None}
    for part in parts if doomed else ():
        evacuation = part.evacuation
        if evacuation is None or evacuation.attempt != part.view.restarts:
            evacuation = part.evacuation = Evacuation(part.view.restarts, part.view.nodes, began=at)
        for name, doom in doomed.items():
            evacuation.doomed[name] = doom.notice.deadline
            evacuation.sick = evacuation.sick or doom.notice.kind is NoticeKind.HEALTH
            if doom.notice.id not in evacuation.notice_ids:
                evacuation.notice_ids = (*evacuation.notice_ids, doom.notice.id)


def _components(fleet: State, job: JobRecord) -> list[JobRecord]:
    """Return the job, and the other components of a heterogeneous one: Slurm requeues them together only."""
    leader = job.view.het_job_id
    return [job] if not leader else [other for other in fleet.jobs.values() if other.view.het_job_id == leader]
