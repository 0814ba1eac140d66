"""How an attempt of a job ends, and what that says: pure, for `Fleet.apply`."""

from holdfast_controller.records import JobRecord


def ends_on_our_signal(job: JobRecord) -> bool:
    """Whether the attempt that we signalled has ended as it declared that it would."""
    view = job.view
    ended = job.signalled == view.restarts and view.state == "FAILED" and not view.completing
    return ended and job.exit_code is not None and view.exit_code == job.exit_code


def stay(job: JobRecord, node: str) -> None:
    """The node stays after all. A job that has ended, or is ending, because of the notice still is to run again."""
    evacuation, view = job.evacuation, job.view
    if evacuation is None or evacuation.requeued_at is not None or node not in evacuation.doomed:
        return
    reports = [report for report in job.reports.values() if report.attempt == evacuation.attempt]
    if view.completing or not view.active or any(report.stopped_on_notice and report.state == "done" for report in reports):
        return
    del evacuation.doomed[node]
    if not evacuation.doomed:
        job.evacuation = None


def interrupted(job: JobRecord, attempt: int, at: float, *, began: bool) -> None:
    """Count the end of an attempt that had to leave: once, whoever tells of it first; one whose batch step had not begun counts nothing."""
    evacuation = job.evacuation
    if evacuation is not None and attempt <= evacuation.attempt:
        if attempt < evacuation.attempt or evacuation.requeued_at is not None:
            return
        evacuation.requeued_at = at
    job.interruptions += began
