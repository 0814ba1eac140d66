"""The figures of `bench/health` as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_UNITS = {"percent": "% of a core", "mib": "MiB", "s": "s", "heartbeats": "heartbeats of 5 s", "ms": "ms"}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print everything."""
    console.print(_costs(found["costs"]))
    console.print(_times(found))
    targets = Table("", "at most", "", "", title="Targets; of times the worst counts")
    for name, most in found["targets"].items():
        unit = _UNITS[name.rpartition("_")[2]]
        said = "met" if found["targets_met"][name] else "[bold]MISSED[/bold]"
        targets.add_row(name.rpartition("_")[0].replace("_", " "), f"{most:g} {unit}", f"{found['values'][name]:.2f}", said)
    console.print(targets)
    for name, value in found["setup"].items():
        console.print(f"{name}: {value}", style="dim", highlight=False)


def _costs(costs: Mapping[str, Any]) -> Table:
    table = Table(title="At rest, side by side. Memory in MiB over all processes: distinct pages, then as the kernel shares them out here")
    for name in ("", "% of a core", "pages", "PSS", "RSS", "private", "processes", "scrape, ms: median", "worst", "series"):
        table.add_column(name, justify="right" if name else "left")
    for name, cost in costs.items():
        memory, scrapes = cost["memory"], cost["scrapes_ms"]
        sizes = [f"{memory[key]:.1f}" for key in ("alone", "pss", "rss", "private")]
        times = [f"{scrapes[key]:.1f}" for key in ("median", "worst")] if scrapes else ["", ""]
        table.add_row(name, f"{cost['cpu_percent']:.2f}", *sizes, str(memory["processes"]), *times, str(cost["series"] or ""))
    return table


def _times(found: Mapping[str, Any]) -> Table:
    table = Table("", "n", "median", "worst", title="Times")
    rows = {
        "XID 79 in the kernel's log → node drained, s": found["reactions_s"]["drained"],
        "XID 79 in the kernel's log → job told, s": found["reactions_s"]["told"],
        **{f"{_FAULTS.get(fault, fault)} → verdict, s": times for fault, times in found["verdicts_s"].items()},
        **{f"{name}, ms": times for name, times in found["hooks_ms"].items()},
    }
    for name, times in rows.items():
        table.add_row(name, str(times["count"]), f"{times['median']:.2f}", f"{times['worst']:.2f}")
    return table


_FAULTS = {"lose": "lost GPU", "hang": "hung NVML"}
