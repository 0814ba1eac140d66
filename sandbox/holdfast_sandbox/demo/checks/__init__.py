"""What the demo promises, each promise a pure function from the evidence to what speaks against it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from holdfast_sandbox.demo.checks import cloud, jobs, reclaims
from holdfast_sandbox.demo.evidence import Evidence

Check = Callable[[Evidence], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Failure:
    """A promise that was not kept, and what shows it."""

    promise: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}"


PROMISES: dict[str, Check] = {
    "every job completed exactly once": jobs.completed_once,
    "never two attempts of a job at a time": jobs.one_attempt_at_a_time,
    "every step was trained": jobs.every_step_trained,
    "the result equals the undisturbed one's, bit for bit": jobs.same_result,
    "nothing lost where there was a notice": jobs.nothing_lost,
    "without a notice, back to the last periodic checkpoint": jobs.least_lost,
    "all four reclaims happened": reclaims.all_happened,
    "a notice reached the job": reclaims.notice_reached,
    "the free moment was free": reclaims.free_was_free,
    "the save was hit": reclaims.save_was_hit,
    "the two-node job kept its other node": reclaims.survivor_reused,
    "the unnoticed one had no notice": reclaims.unnoticed,
    "no instance runs that no node holds": cloud.all_held,
    "no name had two instances at a time": cloud.one_for_each_name,
    "no node is left drained or down": cloud.nodes_well,
    "no process outlived the sandbox": cloud.nothing_left,
}


def failures(evidence: Evidence) -> list[Failure]:
    """Return every promise that the evidence does not show to have been kept; what cannot be told counts as broken."""
    found: list[Failure] = []
    for promise, check in PROMISES.items():
        try:
            found += [Failure(promise, what) for what in check(evidence)]
        except (LookupError, TypeError, ValueError) as fault:
            found.append(Failure(promise, f"cannot be told: {fault}"))
    return found
