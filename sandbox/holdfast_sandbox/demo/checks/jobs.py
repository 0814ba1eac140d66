"""Promises about the jobs: they end once, skip and repeat nothing, and compute what they would have computed undisturbed."""

from collections.abc import Iterable, Iterator

from holdfast_sandbox.demo.evidence import Evidence
from holdfast_sandbox.demo.interruptions import interruption
from holdfast_sandbox.history.attempts import events, saves, step_of
from holdfast_sandbox.history.model import JobRun

PARTS = ("parameters", "buffers", "optimizer")


def completed_once(evidence: Evidence) -> Iterator[str]:
    """Slurm says COMPLETED, said so once, and each attempt's batch script began once; the job itself was done once."""
    for name, run in evidence.jobs.items():
        planned = sum(reclaim.job == name for reclaim in evidence.reclaims)
        said = f"{run.slurm.get('JobState', 'unknown to Slurm')}, exit code {run.slurm.get('ExitCode', 'unknown')}"
        if said != "COMPLETED, exit code 0:0":
            yield f"{name} is {said}"
        times = run.completions.count("COMPLETED")
        if times != 1:
            yield f"{name} completed {times} times by Slurm's completion log"
        if bad := [state for state in run.completions if state not in {"COMPLETED", "PENDING"}]:
            yield f"{name} ended {', '.join(bad)} on the way"
        if run.slurm.get("Restarts") != str(planned):
            yield f"{name} was restarted {run.slurm.get('Restarts')} times, after {planned} reclaims"
        started = [start.attempt for start in run.starts]
        if started != list(range(planned + 1)):
            yield f"{name}'s batch script began for the attempts {started}, not once each for 0 to {planned}"
        done = [line["step"] for line in run.timeline if line["event"] == "done"]
        if done != [run.total_steps]:
            yield f"{name} was done at the steps {done}, not once at {run.total_steps}"


def one_attempt_at_a_time(evidence: Evidence) -> Iterator[str]:
    """An attempt has written its last line before the next begins."""
    for name, run in evidence.jobs.items():
        for start in run.starts:
            late = [line for line in run.timeline if line["attempt"] < start.attempt and line["t"] > start.t]
            if late:
                yield f"{name}'s attempt {late[0]['attempt']} still wrote {late[0]['event']} when attempt {start.attempt} had begun"
        order = [attempt for attempt, _, _ in run.steps]
        if order != sorted(order):
            yield f"{name}'s attempts trained in turns: {order}"


def every_step_trained(evidence: Evidence) -> Iterator[str]:
    """Each attempt goes on where an earlier one had been, and the last reaches the end."""
    for name, run in evidence.jobs.items():
        at = 0
        for attempt, first, last in run.steps:
            if first > at:
                yield f"{name} skipped the steps {at} to {first - 1} (attempt {attempt})"
            at = last + 1
        if at != run.total_steps:
            yield f"{name} trained up to step {at} of {run.total_steps}"


def same_result(evidence: Evidence) -> Iterator[str]:
    """Parameters, rank 0's buffers and the optimizer's state are those of the reference, which had as many ranks."""
    compared = [(name, run, run.reference) for name, run in evidence.jobs.items() if run.reference]
    if not compared:
        yield "there is nothing to compare"
    for name, run, other in compared:
        reference = evidence.jobs[other]
        for key in ("step", "world_size", "sha256"):
            if run.outcome.get(key) is None or run.outcome.get(key) != reference.outcome.get(key):
                yield f"{name} ended with the {key} {run.outcome.get(key)}, {other} with {reference.outcome.get(key)}"
        for part in PARTS:
            yield from _same_part(part, (name, run), (other, reference))


def _same_part(part: str, left: tuple[str, JobRun], right: tuple[str, JobRun]) -> Iterable[str]:
    (name, run), (other, reference) = left, right
    mine = {place: digest for place, digest in run.tensors.items() if place.startswith(f"{part}.")}
    theirs = {place: digest for place, digest in reference.tensors.items() if place.startswith(f"{part}.")}
    if not mine or not theirs:
        return [f"the final {part} of {name if not mine else other} are not there"]
    different = sorted(place for place in mine.keys() | theirs.keys() if mine.get(place) != theirs.get(place))
    return [f"{len(different)} of {name}'s final {part} differ from {other}'s: {', '.join(different[:3])}"] if different else []


def nothing_lost(evidence: Evidence) -> Iterator[str]:
    """The next attempt resumed at the very step that the job had reached, which is the one at which it parked."""
    for reclaim in evidence.reclaims:
        if not reclaim.noticed:
            continue
        seen, run = interruption(evidence, reclaim), evidence.jobs[reclaim.job]
        parked = step_of(run, reclaim.attempt, "parked")
        if not seen.resumed == parked == seen.reached:
            yield (
                f"{reclaim.job}'s attempt {reclaim.attempt} reached step {seen.reached} and parked at {parked},"
                f" the next resumed at {seen.resumed}"
            )


def least_lost(evidence: Evidence) -> Iterator[str]:
    """Where the machine just vanished, the next attempt resumed from the newest checkpoint there was, and something was lost at all."""
    for reclaim in evidence.reclaims:
        if reclaim.noticed:
            continue
        seen, run = interruption(evidence, reclaim), evidence.jobs[reclaim.job]
        newest = max((step for step in _saved(run, reclaim.attempt, seen.notice)), default=0)
        if seen.resumed != newest:
            yield f"{reclaim.job} resumed at step {seen.resumed}, and its newest checkpoint was of step {newest}"
        if not 0 < seen.lost <= run.every_steps:
            yield f"{reclaim.job} lost {seen.lost} steps, with a checkpoint every {run.every_steps}"


def _saved(run: JobRun, attempt: int, before: float) -> Iterator[int]:
    for of in range(attempt + 1):
        good = {end["step"] for end in events(run, of, "save_ended") if end["ok"]}
        yield from (began["step"] for began, ended in saves(run, of) if ended is not None and ended <= before and began["step"] in good)
