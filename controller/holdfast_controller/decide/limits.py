"""When a requeued job is not started again: it was interrupted too often, or ends by itself within seconds each time; it is held, and told
why. And the ways in which Slurm itself leaves a requeued job stuck: undone where that is possible, named where it is not.
"""

from collections.abc import Iterator
from itertools import takewhile

from holdfast_controller.commands import Command, HoldJob, ReleaseJob, TellJob
from holdfast_controller.plan import Plan
from holdfast_controller.records import JobRecord


def why_held(job: JobRecord, plan: Plan) -> str:
    """Return why the job is not to be started again; empty where it is. Attempts that never began count against no limit."""
    most = plan.max_attempts if job.requeues is None else min(plan.max_attempts, job.requeues)
    if job.interruptions > most:
        return f"job {job.view.key} was interrupted {job.interruptions} times, and {most} are allowed: release it to try again"
    short = len(list(takewhile(lambda ran_s: ran_s < plan.crash_loop_s, reversed(job.short_runs_s))))
    if short >= plan.crash_loop_count:
        last = f"{job.short_runs_s[-1]:.0f} s"
        return f"job {job.view.key} ended by itself {short} times in a row, the last time after {last}: release it to try again"
    return ""


def hold(job: JobRecord, why: str) -> Iterator[Command]:
    """Yield the hold of a pending job."""
    view = job.view
    if view.pending and view.priority > 0:
        yield HoldJob(f"hold_job:{view.key}:{view.restarts}", why, view.key, view.job_id, view.restarts)


def unstick(job: JobRecord) -> Iterator[Command]:
    """Yield what helps a requeued job that Slurm will not start by itself."""
    view = job.view
    reason = view.reason.lower().replace("_", " ")
    if not view.pending or view.priority > 0:
        return
    if reason.startswith("launch failed"):
        why = f"Slurm held job {view.key} because a launch failed, which was its node's fault"
        yield ReleaseJob(f"release_job:{view.key}:{view.restarts}", why, view.key, view.job_id, view.restarts)
    elif reason == "badconstraints":
        # Not curable on 22.05 by release or NumNodes (measured); it comes of GresTypes beside --exclusive on nodes without GPUs.
        text = "requeued, but Slurm says BadConstraints: submit it again; on 22.05 set no GresTypes where CPU-only nodes share the cluster"
        yield TellJob(f"stuck:{view.key}:{view.restarts}", f"job {view.key} cannot start again", view.key, view.job_id, text)
