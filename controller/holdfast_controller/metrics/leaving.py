"""Counts the attempts of jobs that must leave: what came of each, how long it took, and what it cost. Pure: time comes with the events.

Of a heterogeneous job the leader is counted, since Slurm requeues all its parts together; what each part lost is counted for each.
"""

from dataclasses import dataclass

from holdfast_common.notice import NoticeKind

from holdfast_controller.decide.evacuation import case_of
from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.goodput import Goodput
from holdfast_controller.metrics.remembered import Remembered
from holdfast_controller.records import Evacuation, JobRecord

LOSS = "loss"
"""The cause of what nobody announced."""
CAUSES = (*(str(kind) for kind in NoticeKind if kind is not NoticeKind.ADVISE), LOSS)
OUTCOMES = ("saved", "deadline_missed", "unsaved", "ended", "withdrawn")


@dataclass(slots=True)
class _Attempt:
    """One that must leave."""

    attempt: int
    cause: str
    leads: bool
    """Not a part of a heterogeneous job, or its leader."""
    saved: bool = False
    requeued_at: float | None = None
    resumed: bool = False


class Leavings:
    """Adds to `evacuations`, `requeues` and the durations, and has the goodput count what is lost."""

    def __init__(self, counts: Counts, goodput: Goodput) -> None:
        self._counts = counts
        self._goodput = goodput
        self._known: Remembered[int, _Attempt] = Remembered()
        for cause in CAUSES:
            counts.begin("requeues", cause)
            for outcome in OUTCOMES if cause != LOSS else ("unsaved", "ended"):
                counts.begin("evacuations", cause, outcome)

    def begin(self, fleet: Fleet) -> None:
        """Take what the fleet knows at the controller's start for counted."""
        for job in fleet.jobs.values():
            known = self.look(job, fleet)
            if known is None or job.evacuation is None:
                continue
            known.saved = _is_saved(job, job.evacuation, fleet)
            known.requeued_at = job.evacuation.requeued_at
            known.resumed = job.view.restarts > known.attempt and job.view.state not in {"PENDING", "CONFIGURING"}

    def look(self, job: JobRecord, fleet: Fleet) -> _Attempt | None:
        """Note that the job's attempt must leave, if it must."""
        evacuation = job.evacuation
        if evacuation is None:
            return None
        known = self._known.get(job.view.job_id)
        if known is None or known.attempt != evacuation.attempt:
            known = _Attempt(evacuation.attempt, _cause(job, evacuation, fleet), job.view.het_job_id in {0, job.view.job_id})
            self._known.note(job.view.job_id, known)
        return known

    def reported(self, job: JobRecord, fleet: Fleet, at: float) -> None:
        """Its processes have said something."""
        known = self.look(job, fleet)
        if known is None or job.evacuation is None or known.saved or known.requeued_at is not None:
            return
        if _is_saved(job, job.evacuation, fleet):
            known.saved = True
            if known.leads:
                self._counts.observe("checkpoint_duration_seconds", at - job.evacuation.began, known.cause)

    def changed(self, job: JobRecord, fleet: Fleet, at: float) -> None:
        """Slurm says something new of it: it may be requeued, by us, its node's agent or Slurm, or run again."""
        known, view = self.look(job, fleet), job.view
        if known is None or view.restarts <= known.attempt:
            return
        self.requeued(job, known.attempt, fleet, at)
        if view.state == "RUNNING" and known.requeued_at is not None and not known.resumed:
            known.resumed = True
            if known.leads:
                self._counts.observe("resume_duration_seconds", at - known.requeued_at, known.cause)

    def requeued(self, job: JobRecord, attempt: int, fleet: Fleet, at: float) -> None:
        """The attempt was requeued: counted once, whoever tells of it first."""
        known = self.look(job, fleet)
        if known is None or job.evacuation is None or known.attempt != attempt or known.requeued_at is not None:
            return
        known.requeued_at = at
        known.saved = known.saved or _is_saved(job, job.evacuation, fleet)
        self._goodput.requeued(job.view.job_id, attempt, known.cause)
        if known.leads:
            self._counts.add("evacuations", 1, known.cause, _outcome(job, known, fleet))
            self._counts.add("requeues", 1, known.cause)
            self._counts.observe("requeue_duration_seconds", at - job.evacuation.began, known.cause)

    def over(self, job_id: int, outcome: str) -> None:
        """It need not leave any more: it has ended by itself, or its nodes stay."""
        known = self._known.pop(job_id, None)
        if known is not None and known.requeued_at is None and known.leads:
            self._counts.add("evacuations", 1, known.cause, outcome)

    def shift(self, by_s: float) -> None:
        """The clock was set."""
        for known in self._known.values():
            if known.requeued_at is not None:
                known.requeued_at += by_s


def _outcome(job: JobRecord, known: _Attempt, fleet: Fleet) -> str:
    """Say whether a job that could have saved did: it has registered, so that it was asked and would have answered."""
    assert job.evacuation is not None
    if known.saved:
        return "saved"
    could = known.cause != LOSS and job.saves and case_of(job, job.evacuation, fleet).registered
    return "deadline_missed" if could else "unsaved"


def _is_saved(job: JobRecord, evacuation: Evacuation, fleet: Fleet) -> bool:
    """Whether it has said so, for one of the notices that it must leave for, on every node where it has registered."""
    case = case_of(job, evacuation, fleet)
    reports = [job.reports[name] for name in evacuation.nodes if name in job.reports]
    asked = [report for report in reports if report.attempt == evacuation.attempt and report.ranks > 0]
    waits = [report.state in {"saved", "parked"} and report.notice_id in evacuation.notice_ids for report in asked]
    left = [report.state == "done" and case.stopped_on_notice for report in asked]
    return case.parked or (bool(asked) and all(one or other for one, other in zip(waits, left, strict=True)))


def _cause(job: JobRecord, evacuation: Evacuation, fleet: Fleet) -> str:
    """Return why an attempt must leave: the kind of the notice that counts first, or that nobody gave one."""
    if evacuation.sick:
        return str(NoticeKind.HEALTH)
    dooms = [fleet.nodes[name].doom for name in evacuation.doomed if name in fleet.nodes]
    notices = [doom.notice for doom in dooms if doom is not None and not doom.notice.id.startswith(("gone-", "missing-", "rebooted-"))]
    return str(min(notices, key=lambda notice: notice.deadline).kind) if notices else LOSS
