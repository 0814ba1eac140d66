"""`bench/scale`: what Holdfast costs at 100 and 1,000 nodes, on real Slurm. Exit status: 0 all targets met, 1 one missed or it failed."""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import decisions, idle, program, requests

REPEATS = {1: 6, 100: 4, 1000: 3}
TARGETS = {"hook_worst_s": 0.5, "calls_1000_nodes_s": 2.0, "decide_at_rest_s": 0.01, "loop_blocked_s": 0.1}
"""Most seconds: until ResumeProgram returned, at any size; from its start until the last provider call of a 1,000-node request has begun;
for one round of decisions at rest, and for the longest that the controller's loop does anything else."""
IN_THREAD = "(in a thread)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    return program.run("scale", _parser().parse_args(arguments), measure, show, width=160)


def measure(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return all figures. Raises as the parts do."""
    load = os.getloadavg()[0]
    repeats = {size: min(count, options.repeats) for size, count in REPEATS.items() if size <= options.most_nodes}
    turns = decisions.measure()  # before this process has threads of gRPC's
    base = requests.baselines(folder, Path(sys.executable))
    asked = requests.measure(folder / "a", repeats, say)
    resting = idle.controller(folder / "b", options.idle_nodes, options.idle, say)
    resting["agent"] = idle.agent(folder / "c", options.idle, say)
    found = figures(asked, base, resting, turns)
    found["setup"] = {
        "requests": "real slurmctld, hook and controller; the cloud's machines are ordered and never boot",
        "idle controller": f"real slurmctld and {options.idle_nodes} real slurmds; {options.idle_nodes} agents' streams from one process",
        "idle agent": "a real agent on its node; it asks the metadata service every 0.2 s (the sandbox's setting)",
        "decisions": f"{decisions.NODES} nodes and {decisions.JOBS} jobs, in memory",
        "machine": program.machine(load),
    }
    return found


def figures(
    asked: Sequence[requests.Request], base: Mapping[str, Sequence[float]], resting: Mapping[str, idle.Idle], turns: Mapping[str, float]
) -> dict[str, Any]:
    """Return everything as it goes into the JSON file."""
    sizes = sorted({one.nodes for one in asked})
    nothing = statistics.median(next(iter(base.values())))
    in_loop = {name: took_s for name, took_s in turns.items() if IN_THREAD not in name}
    largest = [one.calls_s for one in asked if one.nodes == max(sizes)]
    values = {
        "hook_worst_s": max(one.hook_s for one in asked),
        "calls_1000_nodes_s": max(largest),
        "decide_at_rest_s": turns["decide, at rest"],
        "loop_blocked_s": max(in_loop.values()),
    }
    return {
        "v": 1,
        "requests": [asdict(one) for one in asked],
        "by_size": {str(size): _by_size([one for one in asked if one.nodes == size], nothing) for size in sizes},
        "baselines_s": {name: {"median": statistics.median(times), "worst": max(times)} for name, times in base.items()},
        "idle": {name: asdict(one) for name, one in resting.items()},
        "turns_s": dict(turns),
        "values": values,
        "targets": TARGETS,
        "targets_met": {name: values[name] <= most for name, most in TARGETS.items()},
    }


def _by_size(asked: Sequence[requests.Request], nothing_s: float) -> dict[str, Any]:
    names = ("submitted_to_hook_s", "hook_s", "calls_s")
    spread = {
        name: {"median": statistics.median(times), "worst": max(times)}
        for name in names
        if (times := [getattr(one, name) for one in asked])
    }
    return {"count": len(asked), "calls": max(one.calls for one in asked), **spread, "ratio_hook": spread["hook_s"]["median"] / nothing_s}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print everything."""
    console.print(_requests(found))
    console.print(_idle(found))
    table = Table(title=f"One turn of the loop: {decisions.NODES} nodes, {decisions.JOBS} jobs")
    table.add_column("")
    table.add_column("ms", justify="right")
    for name, took_s in found["turns_s"].items():
        table.add_row(name, f"{took_s * 1000:.1f}")
    console.print(table)
    for name, met in found["targets_met"].items():
        said = f"target {name} <= {found['targets'][name]:g}: {found['values'][name]:.3f}, {'met' if met else 'MISSED'}"
        console.print(said, highlight=False)
    for name, value in found.get("setup", {}).items():
        console.print(f"{name}: {value}", style="dim", highlight=False)


def _requests(found: Mapping[str, Any]) -> Table:
    table = Table(title="A job's request for nodes, seconds (median / worst)")
    headings = ("", "n", "sbatch to ResumeProgram\n(Slurm's own)", "ResumeProgram returned", "ratio to one\nthat does nothing")
    for name in (*headings, "its start to the last\nprovider call begun", "calls"):
        table.add_column(name, justify="right" if name else "left")
    for size, one in found["by_size"].items():
        cells = [f"{one[name]['median']:.2f} / {one[name]['worst']:.2f}" for name in ("submitted_to_hook_s", "hook_s", "calls_s")]
        row = (f"{size} node(s)", str(one["count"]), cells[0], cells[1], f"x {one['ratio_hook']:.0f}", cells[2], str(one["calls"]))
        table.add_row(*row)
    for name, one in found["baselines_s"].items():
        table.add_row(name, "", "", f"{one['median']:.3f} / {one['worst']:.3f}", "", "", "", style="dim")
    return table


def _idle(found: Mapping[str, Any]) -> Table:
    table = Table(title="At rest")
    for name in ("", "nodes", "over s", "CPU % of one core", "PSS MiB", "RSS MiB"):
        table.add_column(name, justify="right" if name else "left")
    for name, one in found["idle"].items():
        memory = [f"{one['memory'][kind]:.0f}" for kind in ("pss", "rss")]
        table.add_row(name, str(one["nodes"]), f"{one['over_s']:.0f}", f"{one['cpu_percent']:.1f}", *memory)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most-nodes", type=int, default=1000, choices=sorted(REPEATS), help="of the largest request (1000)")
    parser.add_argument("--repeats", type=int, default=max(REPEATS.values()), help="at most so many requests of each size (6)")
    parser.add_argument("--idle-nodes", type=int, default=100, help="of the controller at rest (100)")
    parser.add_argument("--idle", type=float, default=60.0, help="for how many seconds it is watched, and so the agent (60)")
    program.add_options(parser, "scale")
    return parser


if __name__ == "__main__":
    sys.exit(main())
