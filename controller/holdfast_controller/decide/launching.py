"""Jobs that Slurm says it launched, and that never ran. Each is run again, behind proof that nothing of it ran, and at most twice in a row.

A job can be RUNNING by slurmctld's word while no node was ever told of it: measured on 26.05, where a `scontrol reconfigure` ends a
PrologSlurmctld and takes that for success. And a job that comes back to a node within the second in which it left it ends FAILED at once
(`Job credential revoked`, measured on 22.05, 24.11 and 26.05): our own restarts wait that second out, a StartTime that somebody else sets
may not.

And the ways in which Slurm itself leaves a requeued job stuck: undone where that is possible, named where it is not.
"""

from collections.abc import Iterator

from holdfast_common import evacuation as steps

from holdfast_controller.commands import Command, ReleaseJob, RequeueJob, StartJob, TellJob
from holdfast_controller.fleet import BEATS_GAP_S, Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import JobRecord

MOST_IN_A_ROW = 2
"""So often in a row is a job that never ran run again. Then something else is wrong, and it is left to people."""
CLOCKS_DIFFER_S = 2.0
"""slurmctld's times are whole seconds."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield requeues, and what spares those jobs Slurm's delay of two minutes."""
    partitions = {plan.partition for plan in plans.by_node.values()}
    for job in fleet.jobs.values():
        view = job.view
        if view.state == "RUNNING":
            yield from _silent(fleet, plans, job, now)
        elif view.state == "FAILED":
            yield from _revoked(fleet, plans, job)
        elif view.pending and view.priority == 0 and view.restarts and view.partition in partitions:
            yield from _stuck(fleet, job)
        elif view.pending and (_tries(fleet, job, view.restarts) or f"release_job:{view.key}:{view.restarts}" in fleet.commands):
            for step in steps.expedite(view, now, delay_s=1):
                yield StartJob(step.key, step.reason, step.job, view.job_id, step.restarts, step.delay_s)


def _silent(fleet: Fleet, plans: Plans, job: JobRecord, now: float) -> Iterator[Command]:
    """Yield the requeue of a job that runs by Slurm's word only."""
    view = job.view
    plan = plans.by_node.get(view.nodes[0]) if view.nodes else None
    if plan is None or plan.never_launched_s <= 0 or not _may_be_silent(fleet, job):
        return
    since = _unseen_since(fleet, job, now)
    # Judged by a look at Slurm that is as late: it may have ended long before we hear of it.
    if since is None or fleet.looked_at < since + plan.never_launched_s:
        return
    why = f"Slurm has job {view.key} RUNNING, and for {plan.never_launched_s:.0f} s no agent has seen a process of it"
    yield from _again(fleet, job, why, ended=False)


def _may_be_silent(fleet: Fleet, job: JobRecord) -> bool:
    """Whether its silence would mean something: a Prolog that runs, an idle salloc and later parts of a het job need no process."""
    view = job.view
    leads = view.het_job_id in {0, view.job_id}
    means = view.batch and view.requeue and leads and not view.completing and view.reason != "Prolog"
    return means and not _was_seen(fleet, job)


def _was_seen(fleet: Fleet, job: JobRecord) -> bool:
    """Whether any agent ever saw a process of this attempt."""
    attempt = job.view.restarts
    return (
        fleet.stepped.get(job.view.job_id) == attempt
        or any(report.attempt == attempt for report in job.reports.values())
        or attempt in job.present.values()
    )


def _unseen_since(fleet: Fleet, job: JobRecord, now: float) -> float | None:
    """Return since when the agents of all its nodes are here and see none of its processes; None where that is not certain."""
    # Its Prolog may have run until Slurm's word on it last changed: its processes come only then.
    view, since = job.view, max(job.view.start_time, job.changed_at, fleet.steady_since)
    if not view.start_time:
        return None
    for name in view.nodes:
        record = fleet.instance_of(fleet.nodes[name]) if name in fleet.nodes else None
        if record is None or record.agent is None or not record.connected:
            return None
        beats = fleet.steps.get(record.instance.instance_id)
        if beats is None or now > beats.at + BEATS_GAP_S or beats.jobs.get(view.job_id, 0.0) > view.start_time - CLOCKS_DIFFER_S:
            return None
        since = max(since, beats.since)
    return since


def _revoked(fleet: Fleet, plans: Plans, job: JobRecord) -> Iterator[Command]:
    """Yield the requeue of a job that was launched on a node in the second in which it had left it: Slurm ended it with code 1."""
    view, before = job.view, job.view.restarts - 1
    at_once = int(view.submit_time) == int(view.start_time) == int(view.end_time) > 0  # a requeue sets SubmitTime, when the job has left
    if before < 0 or not at_once or view.completing or (view.exit_code, view.exit_signal) != (1, 0) or not (view.batch and view.requeue):
        return
    left = any(name in job.reports and job.reports[name].attempt == before for name in view.nodes)
    if left and not _was_seen(fleet, job) and any(name in plans.by_node for name in view.nodes):
        yield from _again(fleet, job, f"job {view.key} was started on a node in the second in which it left it, and never ran", ended=True)


def _stuck(fleet: Fleet, job: JobRecord) -> Iterator[Command]:
    """Yield what helps a requeued job that Slurm holds."""
    view = job.view
    reason = view.reason.lower().replace("_", " ")
    if reason.startswith("launch failed") and _in_a_row(fleet, "release_job", view.key, view.restarts) < MOST_IN_A_ROW:
        why = f"Slurm held job {view.key} because a launch failed, which was its node's fault"
        yield ReleaseJob(f"release_job:{view.key}:{view.restarts}", why, view.key, view.job_id, view.restarts)
    elif reason.startswith("launch failed"):
        text = f"its launch failed {MOST_IN_A_ROW + 1} times in a row, and Slurm holds it: see why its nodes were drained, then release it"
        yield TellJob(f"stuck:{view.key}:{view.restarts}", f"job {view.key} is held: {text}", view.key, view.job_id, text, view.restarts)
    elif reason == "badconstraints":
        # Not curable on 22.05 by release or NumNodes (measured); it comes of GresTypes beside --exclusive on nodes without GPUs.
        text = "requeued, but Slurm says BadConstraints: submit it again; on 22.05 set no GresTypes where CPU-only nodes share the cluster"
        yield TellJob(f"stuck:{view.key}:{view.restarts}", f"job {view.key} was {text}", view.key, view.job_id, text, view.restarts)


def _again(fleet: Fleet, job: JobRecord, why: str, *, ended: bool) -> Iterator[Command]:
    view = job.view
    if _tries(fleet, job, view.restarts) < MOST_IN_A_ROW:
        # The key of the evacuation's own step: it is the same deed.
        yield RequeueJob(f"requeue:{view.key}:{view.restarts}", why, view.key, view.job_id, view.restarts, ended, began=False)


def _tries(fleet: Fleet, job: JobRecord, attempt: int) -> int:
    """Return how many attempts in a row, just before this one, were requeued because they never ran."""
    return _in_a_row(fleet, "requeue", job.view.key, attempt)


def _in_a_row(fleet: Fleet, deed: str, job: str, attempt: int) -> int:
    """Count the attempts just before this one for which the deed was done; of requeues those of attempts that never ran."""
    count = 0
    while count <= MOST_IN_A_ROW:
        record = fleet.commands.get(f"{deed}:{job}:{attempt - 1 - count}")
        command = record.issued.command if record is not None else None
        if command is None or (isinstance(command, RequeueJob) and command.began):
            return count
        count += 1
    return count
