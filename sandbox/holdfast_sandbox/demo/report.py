"""What the demo tells at its end: timeline, table of interruptions, costs, promises. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from holdfast_sandbox.demo.checks import PROMISES, Failure
from holdfast_sandbox.demo.costs import Costs
from holdfast_sandbox.demo.evidence import TITLES, Evidence
from holdfast_sandbox.demo.interruptions import Interruption
from holdfast_sandbox.demo.picture import WORDS, Picture

WIDTH = 110
MARKS = {"waits": "·", "starts": "-", "trains": "█", "saves": "S", "boots": "~", "runs": "="}
COLUMNS = ("", "reclaim", "job", "save", "Slurm+Holdfast", "boot", "first line", "interpreter", "load", "next step", "lost")


def result(evidence: Evidence, seen: Sequence[Interruption], spent: Costs | None, broken: Sequence[Failure]) -> dict[str, Any]:
    """Return everything as one JSON object (demo-out/result.json)."""
    derived = ("lost", "to_first_line_s", "to_first_step_s")
    return {
        "v": 1,
        "passed": not broken,
        "failures": [asdict(failure) for failure in broken],
        "promises": list(PROMISES),
        "seconds": round(evidence.ended - evidence.began, 1),
        "slurm": evidence.slurm_version,
        "interruptions": [_rounded(asdict(each) | {key: getattr(each, key) for key in derived}) for each in seen],
        "costs": None if spent is None else _rounded(asdict(spent), 6),
        "gpus_are_pretended": True,
        "gpus_per_node": evidence.gpus_per_node,
        "final_state_sha256": {name: run.outcome.get("sha256") for name, run in evidence.jobs.items()},
    }


def text(evidence: Evidence, drawn: Picture, seen: Sequence[Interruption], spent: Costs | None, broken: Sequence[Failure]) -> str:
    """Return the report for people."""
    parts = [timeline_text(drawn), table(seen)]
    if spent is not None:
        parts.append(_costs(evidence, spent))
    parts.append(_verdict(evidence, broken))
    return "\n\n".join(part for part in parts if part) + "\n"


def timeline_text(drawn: Picture) -> str:
    """Return one line for each job and each node; a digit is a reclaim."""
    per_s = WIDTH / max(drawn.length, 1.0)
    lines = [f"{'':16} 0 s{f'{drawn.length:.0f} s':>{WIDTH - 3}}"]
    for name, bars in drawn.rows.items():
        cells = [" "] * WIDTH
        for bar in bars:
            begin, end = (max(0, min(WIDTH, round(at * per_s))) for at in (bar.begin, bar.end))
            cells[begin:end] = MARKS[bar.kind] * (end - begin)
        for strike in drawn.strikes:
            if name in strike.rows:
                cells[min(WIDTH - 1, max(0, int(strike.at * per_s)))] = str(strike.number % 10)
        lines.append(f"{name:>16} {''.join(cells).rstrip()}")
    lines.append(" " * 17 + "  ".join(f"{MARKS[kind]} {words}" for kind, words in WORDS.items()))
    lines += [f"{strike.number:>16} {strike.at:.1f} s: {strike.told}" for strike in drawn.strikes]
    return "\n".join(lines)


def table(seen: Sequence[Interruption]) -> str:
    """Return the table of interruptions: seconds since the notice, and what they were spent on."""
    if not seen:
        return ""
    rows = [COLUMNS, *(_row(number, each) for number, each in enumerate(seen, 1))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    head, *body = [
        "  ".join(
            cell.ljust(width) if column in (1, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    note = (
        "Seconds. first line, next step: from the notice (or the blow) to the next batch script's first line, to the next training step;\n"
        "the other columns are what they were spent on. lost: steps trained again."
    )
    return "\n".join([head, "-" * len(head), *body, note])


def _row(number: int, each: Interruption) -> tuple[str, ...]:
    spans = (each.save_s, each.slurm_s, each.boot_s, each.to_first_line_s, each.interpreter_s, each.load_s, each.to_first_step_s)
    return (str(number), TITLES[each.kind], each.job, *(f"{span:.2f}" for span in spans), str(each.lost))


def _costs(evidence: Evidence, spent: Costs) -> str:
    return (
        f"{spent.machines} spot machines: {spent.gpu_hours:.4f} GPU-hours ({evidence.gpus_per_node} pretended GPU for each node-hour),"
        f" {spent.usd:.4f} USD.\n"
        f"The same work undisturbed on on-demand nodes: {spent.on_demand_gpu_hours:.4f} GPU-hours, {spent.on_demand_usd:.4f} USD."
        f" Spot cost {100 * spent.usd / spent.on_demand_usd:.0f} % of that (a run of minutes: machines boot and idle much of it)."
    )


def _verdict(evidence: Evidence, broken: Sequence[Failure]) -> str:
    if not broken:
        state = ", ".join(f"{name} {str(run.outcome.get('sha256'))[:12]}" for name, run in evidence.jobs.items())
        return f"All {len(PROMISES)} promises held. Final states (parameters, buffers, optimizer): {state}"
    return "\n".join([f"FAILED: {len(broken)} findings", *(f"  - {failure}" for failure in broken)])


def _rounded(values: dict[str, Any], digits: int = 3) -> dict[str, Any]:
    return {key: round(value, digits) if isinstance(value, float) else value for key, value in values.items()}
