"""Nodes are kept for a job that must leave while others wait for nodes: by a reservation that only this job uses.

Without it the next in line takes the survivors within the second in which a requeued job is not eligible yet, and the replacement that
is being bought. Measured on 22.05.8: a running job can be given a reservation and keeps it over its requeue; jobs in reservations come
before all others in the queue; with FLEX the job may take other nodes as well, whichever are free first; a running job can be taken out
of it again. The reservation holds the names that go away, too: where no other name is free, the job gets its own back once they are
powered down. (Our own DRAIN with a RESUME in time does not do: for up to 2 s the node does not respond, and the backfill scheduler starts
the next in line.)
"""

from collections.abc import Iterator, Mapping

from holdfast_common.evacuation import reservation_of

from holdfast_controller.commands import Command, ReserveNodes, UnreserveNodes
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.records import Evacuation, JobRecord

PATIENCE_S = 1.0
"""For so long a requeue waits for the reservation, which takes two calls of scontrol; a slurmctld that is slower has other troubles."""
_NOBODY: set[int] = set()
RIVAL_SOON_S = 60.0
"""A job that is not eligible within this time takes no nodes away."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield the end of reservations that are not needed any more."""
    for job in fleet.jobs.values():
        view = job.view
        used = view.reservation == reservation_of(view.job_id) and (view.active or view.state == "PENDING")
        if used or job.reserved:
            why = _why_not_needed(plans, job, now) if used else _why_left_over(fleet, job)
            if why:
                yield UnreserveNodes(f"unreserve:{view.key}:{view.restarts}:{view.state}", why, view.key, view.job_id)


def kept(fleet: Fleet, plans: Plans, job: JobRecord, evacuation: Evacuation, waiting: Mapping[str, set[int]]) -> ReserveNodes | None:
    """Return the reservation that an attempt which must leave needs, if others wait for nodes."""
    nodes, view = _nodes(fleet, plans, job, evacuation, waiting), job.view
    if not nodes:
        return None
    why = f"{', '.join(nodes)} are kept for job {view.key}, which must leave {', '.join(evacuation.doomed)}: others wait for nodes"
    key = f"reserve:{view.key}:{evacuation.attempt}:{','.join(nodes)}"
    return ReserveNodes(key, why, view.key, view.job_id, evacuation.attempt, nodes)


def under_way(fleet: Fleet, command: ReserveNodes, now: float) -> bool:
    """Whether the reservation is being made, or is about to be: the requeue comes after it."""
    record = fleet.commands.get(command.key)
    if record is None:
        return True
    again = record.state == "failed" and record.tries == 1
    return (record.state == "open" and now < record.issued.at + PATIENCE_S) or (again and now < record.retry_at + PATIENCE_S)


def rivals(fleet: Fleet, now: float) -> dict[str, set[int]]:
    """Return the jobs that wait for nodes, or will within a minute, by partition."""
    found: dict[str, set[int]] = {}
    for job in fleet.jobs.values():
        view = job.view
        if view.pending and view.priority > 0 and view.reason != "Dependency" and view.eligible_time <= now + RIVAL_SOON_S:
            for partition in view.partition.split(","):  # it asks for any of several
                found.setdefault(partition, set()).add(view.job_id)
    return found


def _nodes(fleet: Fleet, plans: Plans, job: JobRecord, evacuation: Evacuation, waiting: Mapping[str, set[int]]) -> tuple[str, ...]:
    """Return the nodes to keep for a job that is about to be requeued; empty: none."""
    view = job.view
    if view.restarts != evacuation.attempt or not view.active or view.completing:
        return ()
    if not view.batch or not view.requeue or view.het_job_id or view.reservation not in {"", reservation_of(view.job_id)}:
        return ()
    plan = _plan_of(plans, evacuation.nodes)
    if plan is None or plan.keep_nodes_s <= 0:
        return ()
    partitions = {name for node in evacuation.nodes if node in fleet.nodes for name in _partitions(fleet, node)}
    if not any(waiting.get(name, _NOBODY) - {view.job_id} for name in partitions):
        return ()
    bought = fleet.bought_for(view.key, evacuation.attempt, len(evacuation.doomed))
    return tuple(dict.fromkeys((*evacuation.nodes, *bought)))


def _partitions(fleet: Fleet, node: str) -> tuple[str, ...]:
    view = fleet.nodes[node].view
    return view.partitions if view is not None else ()


def _plan_of(plans: Plans, nodes: tuple[str, ...]) -> Plan | None:
    return next((plans.by_node[name] for name in nodes if name in plans.by_node), None)


def _leaves(job: JobRecord) -> bool:
    return job.evacuation is not None and job.evacuation.attempt == job.view.restarts and job.view.active


def _why_left_over(fleet: Fleet, job: JobRecord) -> str:
    """Return why a reservation is to end that was ordered for the job and that the job does not use: its making was cut off halfway."""
    record = fleet.commands.get(job.reserved)
    if _leaves(job) or job.view.completing or (record is not None and record.state == "open"):
        return ""
    return f"job {job.view.key} does not use its reservation"


def _why_not_needed(plans: Plans, job: JobRecord, now: float) -> str:
    """Return why nodes need not be kept for the job any longer; empty while they must be."""
    view = job.view
    if view.completing or view.state == "CONFIGURING":
        return ""  # it has not come to its nodes yet, or not left them
    if view.active:
        return "" if _leaves(job) else f"job {view.key} has its nodes"
    partitions = view.partition.split(",")
    plan = next((plan for plan in plans.by_node.values() if plan.partition in partitions), Plan("", "", ()))
    if view.priority == 0:
        return f"job {view.key} is held"
    if now >= view.submit_time + plan.keep_nodes_s:  # a requeue is a new submission
        return f"job {view.key} has not come to run within {plan.keep_nodes_s:.0f} s: its nodes are others' now"
    return ""
