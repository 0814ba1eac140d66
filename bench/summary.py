"""From records to figures: pure."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.cases import FirstStart, Outcome
from bench.evidence import (
    PARTS,
    Interruption,
    Records,
    allocation,
    bought_in_vain,
    known_at,
    order_of,
    parts_of,
    redirected,
    registration,
)
from bench.jobs import Start
from bench.plain import DEFAULT_SLURMD_TIMEOUT_S, PlainOutcome

KINDS = ("idle", "fresh", "loss_idle", "loss_fresh")
TARGETS = {f"{kind}_{of}_s": most for kind in KINDS for of, most in (("median", 1.5), ("worst", 3.0))} | {"gate_median_s": 0.5}
"""Most seconds without save and boot, where idle or surviving nodes were used and where a fresh one was, after a notice, and after the loss
of a single-node job's machine was known; from registration to start."""
OURS = tuple(part for part, owner in PARTS.items() if owner == "Holdfast")
SLURMS = tuple(part for part, owner in PARTS.items() if owner == "Slurm")


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds."""

    median: float
    worst: float
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """One interruption, in seconds."""

    case: str
    job_id: int
    attempt: int
    doomed: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    booted: bool
    total_s: float
    parts_s: dict[str, float]
    whole_boot_s: float | None
    """From the order for the fresh node to its registration, also what went on beside the save and the requeue."""
    bought_in_vain: tuple[str, ...]
    """Bought ahead for the job, but slurmctld gave it another name, which had to be bought as well."""
    redirected: tuple[str, ...] = ()
    """Passed over as well, but what was being bought served the name that slurmctld chose."""
    lost: bool = False
    """There was no notice: the time begins when the loss was known."""
    known_after_s: float | None = None
    """From the loss of the machine until then."""
    loading_s: dict[str, float] | None = None
    """From the first line of the batch script until the slowest rank's interpreter had begun, had its library, had resumed, had done a
    step."""

    @property
    def kind(self) -> str:
        """Which targets it counts for; empty: none (a lost node of several: Slurm may wait there)."""
        if self.lost and len(self.before) > 1:
            return ""
        return ("loss_" if self.lost else "") + ("fresh" if self.booted else "idle")

    @property
    def net_s(self) -> float:
        """Without the job's save and without the wait for the boot: what Holdfast and Slurm cost together."""
        return self.total_s - self.parts_s["save"] - self.parts_s["boot"]

    def part_s(self, names: Sequence[str]) -> float:
        """Return the sum of some parts."""
        return sum(self.parts_s[name] for name in names)


def spread(values: Sequence[float]) -> Spread:
    """Return median and worst. Raises statistics.StatisticsError where there are no values."""
    return Spread(statistics.median(values), max(values), len(values))


def rows_of(outcome: Outcome) -> list[Row]:
    """Return a row for each interruption. Raises LookupError where the cloud's record lacks its notice."""
    return [_row(interruption, outcome.records) for interruption in outcome.interruptions]


def _row(interruption: Interruption, records: Records) -> Row:
    parts = parts_of(interruption, records)
    total = sum(parts.values())
    since, until = interruption.first_line - total, interruption.first_line
    registered = registration(records.slurmctld, interruption.fresh, since, until) if interruption.booted else None
    ordered = order_of(interruption.fresh, records, until) if interruption.booted else None
    killed_at, loading = interruption.killed_at, interruption.job.loading(interruption.attempt + 1)
    return Row(
        interruption.case,
        interruption.job_id,
        interruption.attempt,
        interruption.doomed,
        interruption.before,
        interruption.after,
        interruption.booted,
        total,
        parts,
        None if registered is None or ordered is None else registered - ordered,
        bought_in_vain(interruption, records),
        redirected(interruption, records),
        killed_at is not None,
        None if killed_at is None else since - killed_at,
        {name: max(0.0, at - until) for name, at in loading.items()} if loading else None,
    )


def registered_to_start(outcome: Outcome) -> list[float]:
    """Return the seconds from the last node's registration to the first line, of every start that waited for a node to boot."""
    waits = [_wait(outcome, first) for first in outcome.first_starts]
    for one in outcome.interruptions:
        if one.booted:
            notice = known_at(one, outcome.records)
            waits.append(_wait(outcome, FirstStart(one.job_id, notice, Start(one.attempt + 1, one.first_line, one.fresh))))
    return [wait for wait in waits if wait is not None]


def _wait(outcome: Outcome, first: FirstStart) -> float | None:
    log, start = outcome.records.slurmctld, first.start
    registered = registration(log, start.nodes, first.submitted, start.at)
    allocated = allocation(log, first.job_id, first.submitted, start.at)
    if registered is None or allocated is None or registered < allocated:
        return None  # the node was up before the job was given it
    return start.at - registered


def figures(rows: Sequence[Row], gate: Sequence[float], plain: PlainOutcome | None) -> dict[str, Any]:
    """Return everything as it goes into the JSON file."""
    noticed = [row for row in rows if not row.lost]
    net = spread([row.net_s for row in noticed])
    overall: dict[str, Any] = {"net_s": asdict(net), "total_s": asdict(spread([row.total_s for row in noticed]))}
    overall["holdfast_s"] = asdict(spread([row.part_s(OURS) for row in noticed]))
    overall["slurm_s"] = asdict(spread([row.part_s(SLURMS) for row in noticed]))
    loaded = [row.loading_s for row in rows if row.loading_s is not None]
    found: dict[str, Any] = {
        "interruptions": [{**asdict(row), "net_s": row.net_s} for row in rows],
        "cases": {case: _case([row for row in rows if row.case == case]) for case in dict.fromkeys(row.case for row in rows)},
        "overall": overall,
        "registered_to_start_s": {"with_gate": asdict(spread(gate)), "with_gate_all": list(gate)} if gate else {},
        "loading_s": {name: asdict(spread([one[name] for one in loaded])) for name in loaded[0]} if loaded else {},
        "passed_over": sum(len(row.bought_in_vain) + len(row.redirected) for row in rows),
        "bought_in_vain": sum(len(row.bought_in_vain) for row in rows),
        "part_owners": PARTS,
        "targets_s": TARGETS,
        "targets_met": _met(rows, gate),
    }
    if plain is not None:
        found["plain_slurm"] = _plain(plain, net, [row.net_s for row in rows if row.kind.startswith("loss_")])
        found["registered_to_start_s"] |= {
            "without_gate": asdict(spread(plain.registered_to_start_s)),
            "without_gate_all": list(plain.registered_to_start_s),
        }
    return found


def _met(rows: Sequence[Row], gate: Sequence[float]) -> dict[str, bool]:
    """Return whether each target that this run has figures for was met."""
    met: dict[str, bool] = {}
    for kind in KINDS:
        some = [row for row in rows if row.kind == kind]
        if some:
            net = spread([row.net_s for row in some])
            met[f"{kind}_median_s"] = net.median <= TARGETS[f"{kind}_median_s"]
            met[f"{kind}_worst_s"] = net.worst <= TARGETS[f"{kind}_worst_s"]
    if gate:
        met["gate_median_s"] = spread(gate).median <= TARGETS["gate_median_s"]
    return met


def _case(rows: Sequence[Row]) -> dict[str, Any]:
    known = [row.known_after_s for row in rows if row.known_after_s is not None]
    boots = [row.whole_boot_s for row in rows if row.whole_boot_s is not None]
    return {
        "total_s": asdict(spread([row.total_s for row in rows])),
        "net_s": asdict(spread([row.net_s for row in rows])),
        "parts_s": {part: asdict(spread([row.parts_s[part] for row in rows])) for part in PARTS},
        "whole_boot_s": asdict(spread(boots)) if boots else None,
        "known_after_s": asdict(spread(known)) if known else None,
    }


def _plain(plain: PlainOutcome, net: Spread, losses_s: Sequence[float]) -> dict[str, Any]:
    of_loss = {"ratio_dead_node_to_loss": plain.dead_computed_s / spread(losses_s).median} if losses_s else {}
    return {
        **of_loss,
        "dead_node_measured_s": plain.dead_s,
        "dead_node_detection_s": plain.dead_detection_s,
        "dead_node_computed_s": plain.dead_computed_s,
        "dead_node_computed_for": f"SlurmdTimeout={DEFAULT_SLURMD_TIMEOUT_S}",
        "bare_requeue_s": plain.requeue_s,
        "ratio_dead_node": plain.dead_computed_s / net.median,
        "ratio_bare_requeue": plain.requeue_s / net.median,
    }
