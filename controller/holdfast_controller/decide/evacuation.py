"""Jobs leave nodes that go away: the shared pure steps, fed from the fleet and turned into commands."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from holdfast_common import evacuation as steps
from holdfast_common.evacuation import JobCase, NodeCase
from holdfast_common.views import NodeView

from holdfast_controller.commands import (
    Command,
    DrainNode,
    PowerDownNode,
    PowerUpNode,
    PrepareJobs,
    RequeueJob,
    SetNodeDown,
    SignalJob,
    StartJob,
    UndrainNode,
    replacement_key,
)
from holdfast_controller.decide import limits, reservation
from holdfast_controller.decide.health import is_drained
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import Evacuation, JobRecord, Node

UNDRAIN_AFTER_S = 5.0
"""A drain of ours without a notice is undone once the node's agent, which repeats its notices, has been there this long."""

UNDRAIN_QUIET_S = 2.0
"""… and nothing about the node has changed so long: a job that comes back within the second in which it left ends FAILED."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield what is due for doomed nodes and the jobs on them, and for jobs that were requeued."""
    cases = {job_id: case_of(job, job.evacuation, fleet) for job_id, job in fleet.jobs.items() if job.evacuation is not None}
    yield from _nodes(fleet, plans, cases, now)
    round_ = _Round(fleet, plans, now) if cases else None
    for job_id, job in fleet.jobs.items():
        if job.evacuation is not None and round_ is not None:
            yield from _job(round_, job, job.evacuation, cases[job_id])
        if job.prepared:
            yield from _untell(fleet, job)
        if job.not_before is not None:
            yield from _backoff(job, job.not_before, now)


def _nodes(fleet: Fleet, plans: Plans, cases: Mapping[int, JobCase], now: float) -> Iterator[Command]:
    leaving: dict[str, list[JobCase]] = defaultdict(list)
    for job_id, case in cases.items():
        evacuation = fleet.jobs[job_id].evacuation
        for name in evacuation.doomed if evacuation is not None else ():
            leaving[name].append(case)
    for node in fleet.nodes.values():
        if node.doom is not None and node.name in plans.by_node:
            # A job that was ending already when the notice came: its epilog is not cut off.
            ending = any(job.view.completing and not _was_requeued(job) for job in fleet.jobs_on(node.name))
            yield from _node(fleet, node, tuple(leaving.get(node.name, ())), ending=ending, now=now)
        elif node.doom is None and node.view is not None and "DRAIN" in node.view.flags and not is_drained(node, plans):
            yield from _undrain(fleet, node, now)


def case_of(job: JobRecord, evacuation: Evacuation, fleet: Fleet) -> JobCase:
    """Return what the shared steps need to know of the job's evacuation."""
    reports = [job.reports[node] for node in evacuation.nodes if node in job.reports]
    reports = [report for report in reports if report.attempt == evacuation.attempt]
    registered = [report for report in reports if report.ranks > 0]
    heard = [report for report in registered if not _unheard(fleet, report.node)]
    parked = bool(heard) and all(report.all_ranks_parked and report.notice_id in evacuation.notice_ids for report in heard)
    dead = False
    for name in evacuation.doomed:
        doom = fleet.nodes[name].doom if name in fleet.nodes else None
        dead = dead or (doom is not None and doom.dead)
    deadline = min(evacuation.doomed.values(), default=evacuation.began)
    if evacuation.sick and job.signal and job.signal_before_s is not None:
        deadline = min(deadline, evacuation.began + job.signal_before_s)  # nobody takes the machine, but the time that it wants is enough
    return JobCase(
        view=job.view,
        attempt=evacuation.attempt,
        nodes=evacuation.nodes,
        doomed=frozenset(name for name in evacuation.doomed if _goes(fleet, name)),
        deadline=deadline,
        dead=dead,
        registered=bool(registered),
        parked=parked,
        saved_step=max((report.saved_step for report in reports if report.saved_step is not None), default=None),
        stopped_on_notice=any(report.stopped_on_notice for report in reports),
        requeued=evacuation.requeued_at is not None,
        signal=job.signal,
        signal_before_s=job.signal_before_s,
        saves=job.saves,
        exit_code=job.exit_code,
        sick=evacuation.sick,
    )


def _unheard(fleet: Fleet, name: str) -> bool:
    """Whether the node's agent is away, so that the cloud had to tell of its end: then it tells us nothing of its processes either.

    They learn of the notice from the ranks elsewhere, or not at all; waiting for their word until the deadline would save nothing more.
    """
    node = fleet.nodes.get(name)
    record = fleet.instance_of(node) if node is not None else None
    by_cloud = node is not None and node.doom is not None and node.doom.source == "cloud"
    return by_cloud and (record is None or not record.connected)


def _goes(fleet: Fleet, name: str) -> bool:
    """Whether the doomed node still is one: a notice that is withdrawn after the requeue leaves a node that may be used again."""
    node = fleet.nodes.get(name)
    if node is None or node.doom is not None or node.view is None:
        return True
    return bool(node.view.flags & {"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN", "POWERING_UP"})


def _node(fleet: Fleet, node: Node, jobs: tuple[JobCase, ...], *, ending: bool, now: float) -> Iterator[Command]:
    """Yield what is due for a doomed node. `ending`: Slurm has a job there that ends by itself."""
    assert node.doom is not None
    record = fleet.instance_of(node)
    case = NodeCase(
        view=node.view or NodeView(node.name, "UNKNOWN"),
        notice=node.doom.notice,
        instance_id=node.instance_id,
        dead=node.doom.dead,
        jobs=jobs,
        occupied=not node.doom.dead and (ending or (node.name in fleet.seen and record is not None and record.connected)),
        power_down_at=node.power_down_at,
        keep_until=node.doom.keep_until,
    )
    for step in steps.node_steps(case, now):
        if isinstance(step, steps.Drain):
            yield _drain(fleet, node, step)
        elif isinstance(step, steps.PowerDown):
            yield PowerDownNode(step.key, step.reason, node.name, step.instance_id, step.if_empty)
        elif isinstance(step, steps.SetDown):
            yield SetNodeDown(step.key, step.reason, node.name)


def _was_requeued(job: JobRecord) -> bool:
    return job.evacuation is not None and job.evacuation.requeued_at is not None


class _Round:
    """What the evacuations of one round of decisions look up together."""

    def __init__(self, fleet: Fleet, plans: Plans, now: float) -> None:
        self.fleet, self.plans, self.now = fleet, plans, now
        self.waiting = reservation.rivals(fleet, now)
        self._spares: dict[str, _Spares] = {}
        self._buyers: dict[str, int] | None = None

    def buyer(self, node: str) -> int | None:
        """Return the job for whose sake the doomed node is replaced: of those that shared it, and fit on one again, the oldest."""
        if self._buyers is None:
            self._buyers = {}
            for job_id, job in self.fleet.jobs.items():
                stays = job.view.batch and job.view.requeue and (job.view.active or job.view.state == "PENDING")
                for name in job.evacuation.doomed if stays and job.evacuation is not None else ():
                    if self._leaves_for(job.evacuation, name):
                        self._buyers[name] = min(job_id, self._buyers.get(name, job_id))
        return self._buyers.get(node)

    def _leaves_for(self, evacuation: Evacuation | None, node: str) -> bool:
        doom = self.fleet.nodes[node].doom if node in self.fleet.nodes else None
        return doom is not None and evacuation is not None and doom.notice.id in evacuation.notice_ids

    def spares(self, group: str) -> "_Spares":
        if group not in self._spares:
            self._spares[group] = _Spares(self.fleet, self.plans, group)
        return self._spares[group]


def _job(round_: _Round, job: JobRecord, evacuation: Evacuation, case: JobCase) -> Iterator[Command]:
    fleet, plans, now = round_.fleet, round_.plans, round_.now
    plan = next((plans.by_node[name] for name in evacuation.doomed if name in plans.by_node), None)
    if plan is None:
        return
    if job.auto and not job.signal:
        case = replace(case, signal=plan.signal)
    held = limits.why_held(job, plan)
    if job.view.restarts > evacuation.attempt:
        yield from limits.hold(job, held) if held else ()
    kept = reservation.kept(fleet, plans, job, evacuation, round_.waiting)
    if kept is not None:
        yield kept
    if job.view.restarts == evacuation.attempt and job.view.active:
        yield from _tell(fleet, job, evacuation)
        yield from _replace(round_.spares(plan.group), case, [name for name in evacuation.doomed if round_.buyer(name) == job.view.job_id])
    in_time = now < steps.requeue_at(case, plan.limits)
    # Without its reservation the job's nodes would go to the next in line: it comes first, as long as there is time.
    first = kept is not None and reservation.under_way(fleet, kept, now) and (case.dead or in_time)
    first = first or (in_time and any(_takes_jobs(fleet, name) for name in case.doomed))
    for step in steps.job_steps(case, now, plan.limits):
        if isinstance(step, steps.Signal):
            yield SignalJob(step.key, step.reason, step.job, job.view.job_id, step.attempt, step.signal)
        elif isinstance(step, steps.Requeue) and not first:
            yield RequeueJob(step.key, step.reason, step.job, job.view.job_id, step.attempt, step.ended)
        elif isinstance(step, steps.StartAfter) and job.not_before is None and not held:
            yield StartJob(step.key, step.reason, step.job, job.view.job_id, step.restarts, step.delay_s)


def _takes_jobs(fleet: Fleet, name: str) -> bool:
    """Whether the doomed node lives and its drain does not hold: the job would be started on it again.

    `scontrol` may fail for the drain and not for the requeue, and a slurmctld that is killed forgets a drain (both seen on 22.05.8).
    """
    node = fleet.nodes.get(name)
    if node is None or node.doom is None or node.doom.dead or node.view is None:
        return False
    if node.view.powered_down or node.view.flags & {"DRAIN", "POWERING_DOWN", "POWER_DOWN"}:
        return False
    return not _drains(fleet, node, steps.drain_key(name, node.instance_id, node.doom.notice))


def _drains(fleet: Fleet, node: Node, key: str) -> bool:
    """Whether the drain was done, and no look that began after it shows the node without."""
    done = max(
        (record.done_at for each in (key, _again(key)) if (record := fleet.commands.get(each)) and record.state == "ok"), default=None
    )
    return done is not None and node.viewed_at <= done


def _again(key: str) -> str:
    return f"{key}:again"


def _drain(fleet: Fleet, node: Node, step: steps.Drain) -> DrainNode:
    """Return the command; one that Slurm has forgotten is not waited for as long as one that may still show."""
    done = fleet.commands.get(step.key)
    forgotten = done is not None and done.state == "ok" and not _drains(fleet, node, step.key)
    return DrainNode(_again(step.key) if forgotten else step.key, step.reason, node.name)


def _tell(fleet: Fleet, job: JobRecord, evacuation: Evacuation) -> Iterator[Command]:
    """Have the agents of the job's other nodes, and of a node whose agent did not bring the notice itself, tell the job."""
    for doomed in evacuation.doomed:
        doom = fleet.nodes[doomed].doom if doomed in fleet.nodes else None
        if doom is None or doom.dead:
            continue
        for name in evacuation.nodes:
            record = fleet.instance_of(fleet.nodes[name]) if name in fleet.nodes else None
            if record is None or not record.connected or (name == doomed and doom.source == "agent"):
                continue
            key = f"prepare:{name}:{job.view.job_id}:{evacuation.attempt}:{doom.notice.id}:{record.arrivals}"
            why = f"job {job.view.key} must save: {doomed} goes away"
            # An agent tells only attempts that had begun when the notice was received; a maintenance may have been known for days.
            notice = replace(doom.notice, received=max(doom.notice.received, evacuation.began))
            yield PrepareJobs(key, why, name, record.instance.instance_id, (job.view.job_id,), notice)


def _untell(fleet: Fleet, job: JobRecord) -> Iterator[Command]:
    """A notice that was withdrawn is taken back from the nodes that were told of it for another's sake: the job trains on at once."""
    if not job.view.active or job.view.completing:
        return
    # Not only its own nodes: a heterogeneous job leaves for those of its other components, too.
    names = {*job.view.nodes, *(job.evacuation.doomed if job.evacuation is not None else ())}
    dooms = (fleet.nodes[name].doom for name in names if name in fleet.nodes)
    in_force = {doom.notice.id for doom in dooms if doom is not None}
    for told in job.prepared.values():
        node = fleet.nodes.get(told.node)
        record = fleet.instance_of(node) if node is not None else None
        if told.notice is None or told.notice.id in in_force or record is None or not record.connected:
            continue
        key = f"unprepare:{told.node}:{job.view.job_id}:{job.view.restarts}:{told.notice.id}:{record.arrivals}"
        why = f"job {job.view.key} may train on: the notice was withdrawn"
        yield PrepareJobs(key, why, told.node, record.instance.instance_id, (job.view.job_id,), told.notice, cancelled=True)


def _replace(spares: "_Spares", case: JobCase, missing: list[str]) -> Iterator[Command]:
    """While the job still saves, or leaves a machine that is gone, buy what it will miss, unless idle nodes of its group would do.

    Where Slurm then gives the job another name, what is being bought serves that one (`resume`): it is a second or two ahead.
    """
    job = case.view
    if not job.batch or not job.requeue or job.completing:
        return
    had = min(spares.idle, len(missing))
    spares.idle -= had
    # Named by the place that it fills: in the second until Slurm shows that it powers up, no other is bought for it.
    open_places = [key for slot in range(had, len(missing)) if not spares.is_ordered(key := replacement_key(job.key, case.attempt, slot))]
    for key, node in zip(open_places, spares.to_buy, strict=False):
        why = f"job {job.key} will need a node in the place of {', '.join(sorted(missing))}"
        yield PowerUpNode(key, why, node.name, job.job_id)


class _Spares:
    """What one node group has for jobs that must leave, in one round of decisions: each node serves one of them."""

    def __init__(self, fleet: Fleet, plans: Plans, group: str) -> None:
        self._commands = fleet.commands
        peers = [fleet.nodes[name] for name, plan in plans.by_node.items() if plan.group == group and name in fleet.nodes]
        stay = [node for node in peers if node.doom is None]
        self.idle = sum(_spare(fleet, node) for node in stay)
        # Slurm prefers names that have never had a machine, even to one with a past that boots already (measured on 22.05.8).
        self.to_buy = iter(sorted((node for node in stay if _can_buy(node)), key=_has_booted))

    def is_ordered(self, key: str) -> bool:
        """Whether the place has its node: no other waits for it in vain."""
        record = self._commands.get(key)
        return record is not None and record.state in {"open", "ok"}


def _has_booted(node: Node) -> bool:
    return node.view is not None and node.view.boot_time is not None


def _spare(fleet: Fleet, node: Node) -> bool:
    """Whether the node is idle and up, or being bought without a job."""
    if node.wanted_since is not None:
        return node.wanted_by == 0 and not _awaited(fleet, node)
    view = node.view
    if view is None or view.state != "IDLE" or view.flags & {"DRAIN", "RESERVED"} or node.name in fleet.held or _awaited(fleet, node):
        return False
    return view.up or bool(view.flags & {"POWER_UP", "POWERING_UP"})


def _awaited(fleet: Fleet, node: Node) -> bool:
    """Whether it was bought ahead for a job that has not come to run again."""
    job = fleet.jobs.get(node.meant_for)
    if job is None or job.evacuation is None:
        return False
    return job.view.state in {"PENDING", "CONFIGURING"} or (job.view.active and job.evacuation.attempt == job.view.restarts)


def _can_buy(node: Node) -> bool:
    view = node.view
    return (
        view is not None
        and view.powered_down
        and view.state == "IDLE"
        and "DRAIN" not in view.flags
        and node.wanted_since is None
        and node.power_down_at is None
        and not node.instance_id
    )


def _undrain(fleet: Fleet, node: Node, now: float) -> Iterator[Command]:
    view, record = node.view, fleet.instance_of(node)
    if view is None or "DRAIN" not in view.flags or not view.reason.startswith(steps.REASON_PREFIX) or node.power_down_at is not None:
        return
    if view.powered_down:
        yield UndrainNode(f"undrain:{node.name}:off", f"{node.name} was drained when it was on its way out already", node.name)
    if record is None or record.agent is None or not record.connected:
        return
    leaving = any(flag.startswith("POWER") for flag in view.flags) or "COMPLETING" in view.flags
    if not leaving and now >= max(record.agent.at + UNDRAIN_AFTER_S, node.changed_at + UNDRAIN_QUIET_S):
        key = f"undrain:{node.name}:{record.instance.instance_id}:{record.arrivals}"
        yield UndrainNode(key, f"{node.name} was drained for a notice that is no more", node.name)


def _known_delay(job: JobRecord) -> bool:
    """Whether the job waits for Slurm's own delay or for one of ours, however far ahead that lies since the clock was set back."""
    view = job.view
    ours = job.begins_at is not None and abs(view.eligible_time - job.begins_at) <= steps.ELIGIBLE_SOON_S
    return ours or view.eligible_time <= view.submit_time + steps.LONGEST_DELAY_S


def _backoff(job: JobRecord, until: float, now: float) -> Iterator[Command]:
    """A job that no pool would serve waits its backoff, and not Slurm's two minutes."""
    view = job.view
    if not view.pending or view.priority == 0:
        return
    if view.eligible_time > max(until, now) + steps.LONGEST_DELAY_S and not _known_delay(job):
        return  # somebody has put it off for longer
    delay_s = max(1, round(until - now))
    if abs(view.eligible_time - (now + delay_s)) <= steps.ELIGIBLE_SOON_S or view.eligible_time <= now:
        return
    key = f"backoff:{view.key}:{view.restarts}:{until:.0f}"
    yield StartJob(key, job.waits_for, view.key, view.job_id, view.restarts, delay_s)
