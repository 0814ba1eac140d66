"""GPU-seconds of jobs: useful, lost, or spent on leaving. Pure.

What a job computes is of use once it is saved: until then it is pending. A job that says nothing of its saves is taken at its end: useful
where it ended by itself, lost where it had to be requeued.
"""

from collections.abc import Callable
from dataclasses import dataclass

from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.plan import Plans
from holdfast_controller.records import JobRecord

MOST_GAP_S = 600.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a job's processes said last of themselves (a claim)."""

    attempt: int
    step: int
    saved_step: int
    step_s: float


@dataclass(slots=True)
class _Pending:
    attempt: int
    gpu_s: float = 0.0
    saved_step: int = -1


class Goodput:
    """Adds to `job_gpu_seconds`, `gpu_seconds_lost` and `steps_lost`."""

    def __init__(self, counts: Counts, progress: Callable[[int], Progress | None]) -> None:
        """`progress(job_id)` gives a job's newest word."""
        self._counts = counts
        self._progress = progress
        self._pending: dict[int, _Pending] = {}
        self._at: float | None = None

    def accrue(self, fleet: Fleet, plans: Plans, now: float) -> None:
        """Count the time since the last call for every job that runs now; those that ended meanwhile are closed."""
        since_s = now - self._at if self._at is not None else 0.0
        self._at = now
        running: set[int] = set()
        for job in fleet.jobs.values():
            if job.view.state == "RUNNING" and not job.view.completing:
                running.add(job.view.job_id)
                if 0 < since_s <= MOST_GAP_S:
                    self._run(job, gpus_of(job, plans) * since_s)
        for job_id in self._pending.keys() - running:
            ended = fleet.jobs.get(job_id)
            if ended is None or not (ended.view.pending or ended.view.active):
                self._counts.add("job_gpu_seconds", self._pending.pop(job_id).gpu_s, "useful")

    def requeued(self, job_id: int, attempt: int, gpus: int, cause: str) -> None:
        """What was not saved must be done again."""
        pending = self._pending.pop(job_id, None)
        said = self._progress(job_id)
        lost_s = pending.gpu_s if pending is not None else 0.0
        if said is not None and said.attempt == attempt and said.saved_step >= 0:
            steps = max(0, said.step - said.saved_step)
            self._counts.add("steps_lost", steps, cause)
            redone_s = min(steps * said.step_s * gpus, lost_s)
            self._counts.add("job_gpu_seconds", lost_s - redone_s, "useful")
            lost_s = redone_s
        self._counts.add("job_gpu_seconds", lost_s, "lost")
        self._counts.add("gpu_seconds_lost", lost_s, cause)

    def _run(self, job: JobRecord, gpu_s: float) -> None:
        job_id, attempt = job.view.job_id, job.view.restarts
        pending = self._pending.get(job_id)
        if pending is None or pending.attempt != attempt:
            pending = self._pending[job_id] = _Pending(attempt)
        evacuation = job.evacuation
        if evacuation is not None and evacuation.attempt == attempt and evacuation.requeued_at is None:
            self._counts.add("job_gpu_seconds", gpu_s, "checkpoint")
        else:
            pending.gpu_s += gpu_s
        said = self._progress(job_id)
        if said is not None and said.attempt == attempt and said.saved_step > pending.saved_step:
            pending.saved_step = said.saved_step
            self._counts.add("job_gpu_seconds", pending.gpu_s, "useful")
            pending.gpu_s = 0.0


def gpus_of(job: JobRecord, plans: Plans) -> int:
    """Return how many GPUs the nodes of a job have, by the policy: 1 for a node of which it says nothing."""
    found = (plans.by_node[name].shape.gpus or 1 for name in job.view.nodes if name in plans.by_node)
    return sum(found)
