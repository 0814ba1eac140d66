"""The figures as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.evidence import PARTS

SHORT = {"Holdfast": "H", "Slurm": "S", "job": "job", "cloud": "cloud"}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print everything."""
    console.print(_interruptions(found))
    console.print(_starts(found))
    console.print(
        f"names bought ahead that slurmctld then passed over: {found['passed_over']}, of which bought in vain: {found['bought_in_vain']}",
        highlight=False,
    )
    _show_loading(found, console)
    for name, met in found["targets_met"].items():
        console.print(f"target {name} <= {found['targets_s'][name]:g}: {'met' if met else 'MISSED'}", highlight=False)
    for name, value in found["setup"].items():
        console.print(f"{name}: {value}", style="dim", highlight=False)


def _interruptions(found: Mapping[str, Any]) -> Table:
    table = Table(
        title="Seconds from the notice, or the loss being known, to the first line of the next batch script, and what they were spent on"
    )
    table.add_column("", no_wrap=True)
    for name in ("n", "", "total"):
        table.add_column(name, justify="right")
    for part, owner in PARTS.items():
        table.add_column(f"{part}\n{SHORT[owner]}", justify="right")
    table.add_column("without save\nand boot", justify="right", style="bold")
    for name, case in found["cases"].items():
        for kind in ("median", "worst"):
            parts = [_s(case["parts_s"][part][kind]) for part in PARTS]
            first = (name, str(case["total_s"]["count"])) if kind == "median" else ("", "")
            table.add_row(*first, kind, _s(case["total_s"][kind]), *parts, _s(case["net_s"][kind]), end_section=kind == "worst")
    _add_overall(table, found)
    if found.get("plain_slurm"):
        _add_plain(table, found["plain_slurm"])
    return table


def _add_overall(table: Table, found: Mapping[str, Any]) -> None:
    overall, blank = found["overall"], [""] * len(PARTS)
    for kind in ("median", "worst"):
        first = ("all with a notice", str(overall["total_s"]["count"])) if kind == "median" else ("", "")
        table.add_row(*first, kind, _s(overall["total_s"][kind]), *blank, _s(overall["net_s"][kind]))
    for title, key in (("  of it Holdfast (H)", "holdfast_s"), ("  of it Slurm (S)", "slurm_s")):
        for kind in ("median", "worst"):
            table.add_row(title if kind == "median" else "", "", kind, "", *blank, _s(overall[key][kind]))
    table.add_section()


def _add_plain(table: Table, plain: Mapping[str, Any]) -> None:
    blank = [""] * len(PARTS)
    table.add_row(
        "plain Slurm, dead node (1)", "1", "", f"{plain['dead_node_computed_s']:.0f}", *blank, f"x {plain['ratio_dead_node']:.0f}"
    )
    if "ratio_dead_node_to_loss" in plain:
        table.add_row("  beside a single-node loss (1)", "", "", "", *blank, f"x {plain['ratio_dead_node_to_loss']:.0f}")
    table.add_row(
        "plain Slurm, requeue on notice (2)", "1", "", f"{plain['bare_requeue_s']:.0f}", *blank, f"x {plain['ratio_bare_requeue']:.0f}"
    )
    table.caption = (
        "(1) Killed without notice, no Holdfast, Slurm's defaults, idle nodes free. Computed: "
        f"{plain['dead_node_measured_s']:.1f} s were measured with SlurmdTimeout=10 (the node was declared down after "
        f"{plain['dead_node_detection_s']:.1f} s, the requeue delay of 121 s waited for in full), and the default's further 290 s added.\n"
        "(2) DRAIN and `scontrol requeue` at the moment of the notice, no Holdfast, Slurm's defaults, idle nodes free; measured in full.\n"
        "x: ratio to the median of Holdfast's 'without save and boot' after a notice, and after a single-node loss.\n"
        "Of several nodes, one lost (no target): with a step, srun waits for the dead node until KillWait ends it; with nothing of\n"
        "the job on the survivor, slurmctld may wait for MessageTimeout. Both are in `requeue`."
    )


def _show_loading(found: Mapping[str, Any], console: Console) -> None:
    """Print what comes after the measured time: the job's own start."""
    said = {
        "process_start": "interpreter began",
        "library_imported": "library imported",
        "resumed": "resumed",
        "first_step_done": "first step",
    }
    parts = [f"{said[name]} {_s(value['median'])}" for name, value in found["loading_s"].items()]
    if parts:
        text = f"after the first line, not counted above (interpreter start and load, bytecode cache, median s): {', '.join(parts)}"
        console.print(text, highlight=False)
    waits = {name: case["known_after_s"] for name, case in found["cases"].items() if case.get("known_after_s")}
    for name, wait in waits.items():
        console.print(
            f"{name}: known {_s(wait['median'])} s (worst {_s(wait['worst'])} s) after the loss, not counted above", highlight=False
        )


def _starts(found: Mapping[str, Any]) -> Table:
    table = Table(title="Seconds from the registration of a job's last node to the first line of its batch script", title_style="italic")
    for name in ("", "n", "median", "worst"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    rows = {"with_gate": "with Holdfast's gate", "without_gate": "without it (PrologSlurmctld=/bin/true, plain Slurm)"}
    for key, title in rows.items():
        if value := found["registered_to_start_s"].get(key):
            table.add_row(title, str(value["count"]), _s(value["median"]), _s(value["worst"]))
    return table


def _s(seconds: float) -> str:
    return f"{seconds:.2f}"
