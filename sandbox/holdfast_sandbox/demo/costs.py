"""GPU-hours and dollars, against the same work on on-demand nodes. Pure."""

from dataclasses import dataclass

from holdfast_sandbox.demo.evidence import Evidence
from holdfast_sandbox.demo.interruptions import interruptions
from holdfast_sandbox.history.attempts import first_line, moment
from holdfast_sandbox.history.machines import SECONDS_PER_HOUR, holder, machines, nodes_of
from holdfast_sandbox.history.model import JobRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the cloud's record says was used and charged, and what the jobs would have used undisturbed. GPUs are pretended."""

    machines: int
    node_hours: float
    gpu_hours: float
    usd: float
    on_demand_gpu_hours: float
    """The same work on on-demand nodes: one boot, one start, and the time that the attempts spent training and saving, without
    what was trained again or saved for a notice."""
    on_demand_usd: float


def costs(evidence: Evidence) -> Costs:
    """Return them. Raises LookupError, saying what is not on record."""
    used = list(machines(evidence).values())
    hours = sum(machine.hours(evidence.ended) for machine in used)
    undisturbed = sum(_undisturbed_s(evidence, name, run) for name, run in evidence.jobs.items() if run.reference) / SECONDS_PER_HOUR
    return Costs(
        machines=len(used),
        node_hours=hours,
        gpu_hours=hours * evidence.gpus_per_node,
        usd=sum(machine.cost_usd(evidence.ended) for machine in used),
        on_demand_gpu_hours=undisturbed * evidence.gpus_per_node,
        on_demand_usd=undisturbed * evidence.on_demand_usd_h,
    )


def _undisturbed_s(evidence: Evidence, name: str, run: JobRun) -> float:
    """Return the node-seconds that a job would have cost on machines that stay."""
    cuts = {each.attempt: each for each in interruptions(evidence) if each.job == name}
    begins = first_line(run, 0)
    trains = moment(run, 0, "first_step")
    if begins is None or trains is None:
        raise LookupError(f"there is no record of a first step of {name}")
    boots = [
        machine.running for node in nodes_of(evidence, run.job_id, 0) if (machine := holder(evidence, node, begins)) and machine.running
    ]
    seconds = trains - min([begins, *boots])
    for attempt in sorted({start.attempt for start in run.starts}):
        began, ended = moment(run, attempt, "first_step"), moment(run, attempt, "done")
        if attempt in cuts:
            ended = cuts[attempt].notice
        if began is None or ended is None:
            raise LookupError(f"there is no record of when {name}'s attempt {attempt} trained")
        again = cuts[attempt].lost / max(1, cuts[attempt].reached - _from(run, attempt)) if attempt in cuts else 0.0
        seconds += (ended - began) * (1 - again)
    return seconds * run.nodes


def _from(run: JobRun, attempt: int) -> int:
    return min((first for of, first, _ in run.steps if of == attempt), default=0)
