"""GPU-seconds of jobs: useful, lost, or spent on leaving. Pure.

What a job computes is of use once it is saved: until then it is pending. A job that says nothing of its saves is taken at its end: useful
where it ended by itself, lost where it had to be requeued. A node's GPUs are shared out evenly among the jobs on it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from holdfast_controller import index
from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.plan import Plans
from holdfast_controller.records import JobRecord

MOST_GAP_S = 600.0
"""A longer time between two looks is a controller that stood still."""
MOST_STEPS = 10_000_000
"""A job's word is a claim: no interruption costs more."""
OTHER = "other"
"""The cause of a requeue that was none of Holdfast's, nor a lost machine's: somebody's by hand."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a job's processes said last of themselves (a claim)."""

    attempt: int
    step: int
    saved_step: int
    """-1: not said."""
    step_s: float
    """0: not said."""

    @property
    def unsaved(self) -> int:
        """Steps since the last save."""
        return min(max(0, self.step - self.saved_step), MOST_STEPS)


@dataclass(slots=True)
class _Pending:
    attempt: int
    gpus: float = 0.0
    gpu_s: float = 0.0
    saved_step: int = -1

    def since_save(self, said: Progress) -> float:
        """Return the GPU-seconds of the steps since the last save; all that is pending where nobody says what a step takes."""
        if said.unsaved and not said.step_s:
            return self.gpu_s
        return min(said.unsaved * said.step_s * self.gpus, self.gpu_s)


class Goodput:
    """Adds to `job_gpu_seconds`, `gpu_seconds_lost` and `steps_lost`."""

    def __init__(self, counts: Counts, progress: Callable[[int], Progress | None]) -> None:
        """`progress(job_id)` gives a job's newest word."""
        self._counts = counts
        self._progress = progress
        self._pending: dict[int, _Pending] = {}
        self._at: float | None = None

    def accrue(self, fleet: Fleet, plans: Plans, now: float) -> None:
        """Count the time since the last call for every job that runs now; close those that ended. `now`: seconds that nobody sets."""
        since_s = now - self._at if self._at is not None else 0.0
        self._at = now
        for job in fleet.jobs.values():
            if job.view.state == "RUNNING" and not job.view.completing and 0 < since_s <= MOST_GAP_S:
                self._run(job, gpus_of(job, fleet, plans), since_s)
        for job_id, pending in list(self._pending.items()):
            known = fleet.jobs.get(job_id)
            if known is not None and known.view.restarts > pending.attempt:
                self.requeued(job_id, pending.attempt, OTHER)
            elif known is None or _is_over(known):
                self._counts.add("job_gpu_seconds", self._pending.pop(job_id).gpu_s, "useful")

    def requeued(self, job_id: int, attempt: int, cause: str) -> None:
        """What the attempt had not saved must be done again."""
        said = self._word(job_id, attempt)
        if said is not None and said.saved_step >= 0:
            self._counts.add("steps_lost", said.unsaved, cause)
        pending = self._pending.get(job_id)
        if pending is None or pending.attempt != attempt:
            return
        del self._pending[job_id]
        lost_s = pending.since_save(said) if said is not None and said.saved_step >= 0 else pending.gpu_s
        self._counts.add("job_gpu_seconds", pending.gpu_s - lost_s, "useful")
        self._counts.add("job_gpu_seconds", lost_s, "lost")
        self._counts.add("gpu_seconds_lost", lost_s, cause)

    def _run(self, job: JobRecord, gpus: float, for_s: float) -> None:
        job_id, attempt, evacuation = job.view.job_id, job.view.restarts, job.evacuation
        pending = self._pending.get(job_id)
        if pending is not None and pending.attempt != attempt:
            self.requeued(job_id, pending.attempt, OTHER)
            pending = None
        if pending is None:
            pending = self._pending[job_id] = _Pending(attempt)
        pending.gpus = gpus
        if evacuation is not None and evacuation.attempt == attempt and evacuation.requeued_at is None:
            self._counts.add("job_gpu_seconds", gpus * for_s, "checkpoint")
        else:
            pending.gpu_s += gpus * for_s
        said = self._word(job_id, attempt)
        if said is not None and said.saved_step > pending.saved_step:
            pending.saved_step = said.saved_step
            stays_s = pending.since_save(said) if said.step_s else 0.0
            self._counts.add("job_gpu_seconds", pending.gpu_s - stays_s, "useful")
            pending.gpu_s = stays_s

    def _word(self, job_id: int, attempt: int) -> Progress | None:
        said = self._progress(job_id)
        return said if said is not None and said.attempt == attempt else None


def _is_over(job: JobRecord) -> bool:
    """Whether the attempt has ended, and not for a reason for which it may be requeued yet."""
    evacuation = job.evacuation
    leaves = evacuation is not None and evacuation.attempt == job.view.restarts and evacuation.requeued_at is None
    return not (job.view.pending or job.view.active or leaves)


def gpus_of(job: JobRecord, fleet: Fleet, plans: Plans) -> float:
    """Return how many GPUs the job has on its nodes, by the policy; a node of which that says nothing has one."""
    named = [name for name in job.view.nodes if name in plans.by_node]
    return sum((plans.by_node[name].shape.gpus or 1) / max(1, len(fleet.held.get(name, index.NO_JOBS))) for name in named)
