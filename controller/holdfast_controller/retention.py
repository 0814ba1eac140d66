"""What the fleet may forget: deeds of long ago that limit nothing any more, machines that are gone, launches that have none left."""

from holdfast_controller.commands import Command, JobCommand
from holdfast_controller.state import State

KEEP_S = 3600.0
ATTEMPTS_COUNT = 3
"""Of a job that Slurm knows, what was done once in its newest attempt, and in so many before, is remembered for ever: rows are counted."""


def forget(fleet: State, now: float) -> None:
    """Drop commands that ended long ago, instances that are long gone, and launches that have none left."""
    before = now - KEEP_S
    old = [key for key, record in fleet.commands.items() if record.state != "open" and record.done_at < before]
    for key in old:
        if not _still_counts(fleet, fleet.commands[key].issued.command):
            del fleet.commands[key]
    for job_id in [job_id for job_id, command in fleet.put_off.items() if command.until < before]:
        del fleet.put_off[job_id]
    for key in [key for key, report in fleet.early.items() if report.at < before]:
        del fleet.early[key]  # of a job that no look has ever shown
    for iid in [iid for iid, record in fleet.instances.items() if record.gone_at is not None and record.gone_at < before]:
        del fleet.instances[iid]
    for iid in [iid for iid, record in fleet.instances.items() if not record.instance.pool and not record.connected]:
        if fleet.instances[iid].first_seen < before:
            del fleet.instances[iid]  # an agent that no cloud ever named
    for launch_id, launch in list(fleet.launches.items()):
        if launch.ended and launch.at < before and not any(iid in fleet.instances for iid in launch.instances):
            del fleet.launches[launch_id]


def _still_counts(fleet: State, command: Command) -> bool:
    """Whether the record limits what is done for a job: it is not sent its signal again, nor held again once it was released."""
    job = fleet.jobs.get(command.job_id) if isinstance(command, JobCommand) else None
    attempt = command.once_in() if isinstance(command, JobCommand) else None
    return job is not None and attempt is not None and attempt >= job.view.restarts - ATTEMPTS_COUNT
