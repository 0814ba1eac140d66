"""Each interruption, and what its seconds were spent on. Pure."""

from dataclasses import dataclass

from holdfast_sandbox.demo.evidence import Evidence, Reclaim, ReclaimKind
from holdfast_sandbox.history.attempts import first_line, moment, reached, step_of
from holdfast_sandbox.history.machines import holder, machines, nodes_of, up_at
from holdfast_sandbox.history.model import JobRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """From the cloud's notice (or blow) to the next training step. Times in Unix seconds, parts in seconds.

    The parts follow each other, so they add up: save, Slurm and Holdfast, boot, interpreter, load.
    """

    kind: ReclaimKind
    job: str
    attempt: int
    node: str
    notice: float
    """The cloud's word: when it put up the notice, or took the machine away without one."""
    first_line: float
    first_step: float
    save_s: float
    """Until the job had parked: the agent's look at the metadata, the step in hand, and the save."""
    slurm_s: float
    """Slurm and Holdfast: from there to the next batch script's first line, without what follows."""
    boot_s: float
    """The part of that in which all waited for a machine that was being started."""
    interpreter_s: float
    """From the first line until PyTorch was loaded."""
    load_s: float
    """From there to the first training step: imports, ranks that join, the checkpoint that is verified and loaded."""
    reached: int
    resumed: int

    @property
    def lost(self) -> int:
        """Steps that were trained again."""
        return self.reached - self.resumed

    @property
    def to_first_line_s(self) -> float:
        """From notice to the next batch script's first line."""
        return self.first_line - self.notice

    @property
    def to_first_step_s(self) -> float:
        """From notice to the next training step."""
        return self.first_step - self.notice


def interruptions(evidence: Evidence) -> list[Interruption]:
    """Return all of them, in order. Raises LookupError, saying what is not on record."""
    return [interruption(evidence, reclaim) for reclaim in evidence.reclaims]


def interruption(evidence: Evidence, reclaim: Reclaim) -> Interruption:
    """Return what a reclaim did to its job. Raises LookupError, saying what is not on record."""
    run, attempt, after = evidence.jobs[reclaim.job], reclaim.attempt, reclaim.attempt + 1
    machine = machines(evidence).get(reclaim.instance_id)
    struck = None if machine is None else machine.notice if reclaim.noticed else machine.killed
    notice = _known(struck, f"{reclaim.instance_id}'s end in the cloud's record")
    where = f"of {reclaim.job}'s attempt"
    parked = _known(moment(run, attempt, "parked"), f"a parking {where} {attempt}") if reclaim.noticed else notice
    line = _known(first_line(run, after), f"a start {where} {after}")
    torch = _known(moment(run, after, "torch_loaded"), f"a loading of PyTorch {where} {after}")
    step = _known(moment(run, after, "first_step"), f"a first step {where} {after}")
    boot_s = _boot_s(evidence, run, after, notice, parked, line)
    return Interruption(
        kind=reclaim.kind,
        job=reclaim.job,
        attempt=attempt,
        node=reclaim.node,
        notice=notice,
        first_line=line,
        first_step=step,
        save_s=parked - notice,
        slurm_s=line - parked - boot_s,
        boot_s=boot_s,
        interpreter_s=torch - line,
        load_s=step - torch,
        reached=int(_known(reached(run, attempt), f"a step {where} {attempt} in its output")),
        resumed=int(_known(step_of(run, after, "resumed"), f"a resuming {where} {after}")),
    )


def _boot_s(evidence: Evidence, run: JobRun, attempt: int, notice: float, since: float, until: float) -> float:
    """Return the seconds in which an attempt waited for machines that were launched for it after the notice."""
    spans = []
    for node in nodes_of(evidence, run.job_id, attempt):
        machine = holder(evidence, node, until)
        if machine is not None and machine.requested >= notice:
            spans.append((max(since, machine.requested), min(until, up_at(evidence, node, machine.requested) or until)))
    spans = [span for span in spans if span[1] > span[0]]
    return max(end for _, end in spans) - min(begin for begin, _ in spans) if spans else 0.0


def _known(value: float | None, what: str) -> float:
    if value is None:
        raise LookupError(f"there is no record of {what}")
    return value
