"""The figures of `bench/checkpoint` as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.checkpoints_figures import limit_of


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print everything."""
    for kind, figures in found["saves"].items():
        console.print(_saves(kind, figures))
    if found["memory"]:
        console.print(_memory(found["memory"]))
    console.print(_loads(found["loads"]))
    console.print(_steps(found["steps"]))
    if "uploads" in found:
        console.print(_uploads(found["uploads"], found["verifications"]))
    table = Table("target (median; least and most beside it)", "limit", "median", "least", "most", "n", "", title="Targets")
    for name, value in found["judged"].items():
        limit, least = limit_of(name)
        said = {True: "met", False: "[bold]MISSED[/bold]", None: "(no target)"}[found["targets_met"].get(name)]
        numbers = (f"{value[key]:.2f}" for key in ("median", "least", "most"))
        table.add_row(name, f"{'>=' if least else '<='} {limit:g}", *numbers, str(value["count"]), said)
    console.print(table)
    for name, value in found["setup"].items():
        console.print(f"{name}: {value}", style="dim", highlight=False)


def _saves(kind: str, figures: Mapping[str, Any]) -> Table:
    size = f"{figures['state_mib']:.0f} MiB of state on each rank, of which it writes {figures['share_mib']:.0f} MiB"
    table = Table(title=f"{kind}: {size}. Seconds, medians (most)")
    for name in ("", "blocked, save 1", "save 2", "from save 5", "s/GiB of the share", "end to end"):
        table.add_column(name, justify="right" if name else "left")
    for way, row in figures["ways"].items():
        blocked = [_spread(row["blocked_s"].get(name)) for name in ("save 1", "save 2", "later")]
        per_gib = row["blocked_s_per_gib"]
        table.add_row(way, *blocked, "" if per_gib is None else f"{per_gib:.3f}", _spread(row.get("total_s")))
    reported = figures["reported_share"]
    table.caption = (
        f"attempts.jsonl's blocked_s is {reported['median']:.2f} of what step_done took from outside (least {reported['least']:.2f})"
    )
    return table


def _memory(memory: Mapping[str, Any]) -> Table:
    table = Table("peak resident memory added to one rank's state, MiB (times that state)", *memory, title="Memory of three saves")
    for way in next(iter(memory.values())):
        cells = (memory[kind][way] for kind in memory)
        table.add_row(way, *(f"{cell['added_mib']:.0f} ({cell['added_mib'] / cell['state_mib']:.2f})" for cell in cells))
    return table


def _loads(loads: Mapping[str, Any]) -> Table:
    table = Table(title="Seconds from files to live model and optimizer, medians (most). Holdfast hashes every file first")
    for name in ("", "onto", "holdfast.Run", "dcp.load", "ratio"):
        table.add_column(name, justify="right" if name not in ("", "onto") else "left")
    for kind, figures in loads.items():
        for onto, row in figures.items():
            table.add_row(kind, onto, *(_spread(row["s"][way]) for way in ("holdfast.Run", "dcp.load")), f"{row['ratio']['median']:.2f}")
    return table


def _steps(steps: Mapping[str, Any]) -> Table:
    table = Table(title="run.steps, us a step, medians of stretches (most); paired: beside neighbouring stretches of the bare loop")
    for name in ("", "step", "bare", "between two bodies", "other threads' CPU", "both", "paired, median", "mean +- its error"):
        table.add_column(name, justify="right" if name not in ("", "step") else "left")
    for kind, figures in steps.items():
        for step, row in figures.items():
            direct = (f"{row[key]['median']:.1f} ({row[key]['most']:.1f})" for key in ("between_us", "threads_us", "direct_us"))
            paired = (f"{row['paired_us']['median']:.1f}", f"{row['paired_mean_us']:.1f} +- {row['paired_error_us']:.1f}")
            table.add_row(kind, step, f"{row['bare_us']['median']:.0f}", *direct, *paired)
    return table


def _uploads(uploads: Mapping[str, Any], verifications: Mapping[str, Any]) -> Table:
    table = Table("upload to a local S3 server, MiB/s", "median", "least", "most", title="One checkpoint")
    for name, row in uploads["mib_s"].items():
        table.add_row(name, *(f"{row[key]:.0f}" for key in ("median", "least", "most")))
    table.add_section()
    for name, row in verifications.items():
        table.add_row(f"{name}, s", *(f"{row[key]:.2f}" for key in ("median", "least", "most")))
    return table


def _spread(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.3f} ({value['most']:.3f})"
