"""What is noted of a job's attempts: that one had to leave, and how long it ran; each once, whoever tells of it first."""

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


def measured(job: JobRecord, attempt: int, ended_after_s: float | None) -> None:
    """Note how long an attempt ran that ended by itself (None: it did not): once, whoever tells of it first. A gap ends the row."""
    if attempt <= job.measured_attempt:
        return
    row = job.short_runs_s[-99:] if attempt == job.measured_attempt + 1 else ()
    job.short_runs_s = () if ended_after_s is None else (*row, ended_after_s)
    job.measured_attempt = attempt
