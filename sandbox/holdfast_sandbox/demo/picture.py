"""What both timelines show, the text's and the SVG's: rows of bars, and the moments at which the cloud struck. Pure."""

from dataclasses import dataclass

from holdfast_sandbox.demo.evidence import TITLES, Evidence
from holdfast_sandbox.history.attempts import PhaseKind, phases
from holdfast_sandbox.history.machines import entries, machines

BarKind = PhaseKind | str
WORDS = {
    "waits": "waits for a node",
    "starts": "interpreter and load",
    "trains": "trains",
    "saves": "saves",
    "boots": "machine boots",
    "runs": "machine runs",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of a row, in seconds since the demo's begin."""

    kind: BarKind
    begin: float
    end: float
    told: str


@dataclass(frozen=True, slots=True)
class Strike:
    """A reclaim: when, and whom."""

    at: float
    number: int
    told: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is drawn."""

    length: float
    rows: dict[str, list[Bar]]
    strikes: list[Strike]


def picture(evidence: Evidence) -> Picture:
    """Return what there is to draw: a row for each job, then one for each node that was used."""
    zero = min([evidence.began, *(line["t"] for line in evidence.cloud[:1])])
    all_machines = machines(evidence)
    rows: dict[str, list[Bar]] = {}
    strikes: list[Strike] = []
    for number, reclaim in enumerate(evidence.reclaims, 1):
        machine = all_machines.get(reclaim.instance_id)
        at = reclaim.at if machine is None else (machine.notice or machine.killed or reclaim.at)
        told = f"{reclaim.job} loses {reclaim.node} {TITLES[reclaim.kind]}"
        strikes.append(Strike(at - zero, number, told, (reclaim.job, reclaim.node)))
    for name, run in evidence.jobs.items():
        lost = {each.attempt: each.at for each in evidence.reclaims if each.job == name and not each.noticed}
        submitted = min([start.t for start in run.starts] + [_submitted(evidence, run.job_id)])
        rows[name] = [
            Bar(phase.kind, phase.begin - zero, phase.end - zero, f"attempt {phase.attempt} {WORDS[phase.kind]}")
            for phase in phases(run, submitted, lost)
        ]
    for machine in sorted(all_machines.values(), key=lambda machine: (machine.node, machine.requested)):
        end = machine.gone or evidence.ended
        up = machine.bound or end
        rows.setdefault(machine.node or "unnamed", []).extend(
            [
                Bar("boots", machine.requested - zero, up - zero, f"{machine.instance_id} boots"),
                Bar("runs", up - zero, end - zero, f"{machine.instance_id} runs"),
            ]
        )
    return Picture(evidence.ended - zero, rows, strikes)


def _submitted(evidence: Evidence, job_id: int) -> float:
    """When Slurm took the job in: the first submit time that the journal has; the demo's end where it has none."""
    for entry in entries(evidence, "JobChanged"):
        if entry.body["view"]["job_id"] == job_id:
            return float(entry.body["view"]["submit_time"])
    return evidence.ended
