"""When a requeued job is not started again: it was interrupted too often, or ends by itself within seconds each time; it is held, and told
why.
"""

from collections.abc import Iterator
from itertools import takewhile

from holdfast_controller.commands import Command, HoldJob
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
