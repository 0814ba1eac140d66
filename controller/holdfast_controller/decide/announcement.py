"""Each start of a job is written into its AdminComment: for people, and for Slurm itself.

A start by the backfill scheduler is not saved to slurmctld's state until something else happens to the job (measured on 22.05.8: not within
14 s): a slurmctld that is killed then starts the running job a second time. Any update of the job makes it save at once.
"""

from collections.abc import Iterator

from holdfast_controller.commands import Command, TellJob
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import JobRecord


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield one announcement for each attempt that runs on nodes of ours."""
    for job in fleet.jobs.values():
        view = job.view
        if view.state != "RUNNING" or view.completing or plans.by_node.keys().isdisjoint(view.nodes):
            continue
        key = f"tell:{view.key}:{view.restarts}"
        if fleet.may_issue(key, now):  # asked here already: the text of each running job, each time, would be most of what deciding costs
            why = f"job {view.key} began its attempt {view.restarts}"
            yield TellJob(key, why, view.key, view.job_id, _text(fleet, job), view.restarts)


def _text(fleet: Fleet, job: JobRecord) -> str:
    view = job.view
    pools = {record.instance.pool for name in view.nodes if name in fleet.nodes and (record := fleet.instance_of(fleet.nodes[name]))}
    where = f" in {', '.join(sorted(pools))}" if pools else ""
    return f"attempt {view.restarts} on {', '.join(view.nodes)}{where}; interrupted {job.interruptions} time(s)"
