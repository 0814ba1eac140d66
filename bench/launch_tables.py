"""What `bench/launch` prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print everything."""
    console.print(_launches(found))
    for title, names in _sides(found).items():
        console.print(_phases(found, title, names))
    console.print(_others(found))
    for name, met in found["targets_met"].items():
        said = f"target {name} <= {found['targets'][name]:g}: {found['values'][name]:.3f}, {'met' if met else 'MISSED'}"
        console.print(said, highlight=False)
    for setting, sides in found["by_setting"].items():
        for side, one in ((side, one) for side, one in sides.items() if "ratio_ids" in one):
            met = "met" if one["ratio_ids"] >= found["wanted_ratio"] else "MISSED, the phases say where the time goes"
            said = f"wanted: {found['wanted_ratio']:g} times as quick as {side} at {setting}: ids {one['ratio_ids']:.1f}, "
            console.print(f"{said}addresses {one['ratio_addresses']:.1f}: {met}", highlight=False)
    for name, value in found.get("setup", {}).items():
        console.print(f"{name}: {value}", style="dim", highlight=False)


def _launches(found: Mapping[str, Any]) -> Table:
    title = f"A {found['nodes']}-node request, seconds from ResumeProgram's start (medians); x: as a multiple of ours"
    table = Table(title=title)
    for name in ("EC2", "", "n", "last instance id", "x", "slurmctld knows\nall addresses", "x", "throttled\ncalls"):
        table.add_column(name, justify="right" if name not in {"EC2", ""} else "left")
    for setting, sides in found["by_setting"].items():
        for number, (side, one) in enumerate(sides.items()):
            ratios = [f"{one[name]:.1f}" if name in one else "" for name in ("ratio_ids", "ratio_addresses")]
            cells = [f"{one['ids_s']:.2f}", ratios[0], f"{one['addresses_s']:.2f}", ratios[1], str(one["throttled"])]
            table.add_row("" if number else setting, side, str(one["count"]), *cells, end_section=number == len(sides) - 1)
    return table


def _sides(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the sides by what their phases are called: one table each."""
    grouped: dict[str, list[str]] = {}
    for side in next(iter(found["by_setting"].values())):
        grouped.setdefault(side.split(",")[0], []).append(side)
    return grouped


def _phases(found: Mapping[str, Any], title: str, names: list[str]) -> Table:
    table = Table(title=f"{title}: where the seconds go, one phase after another (medians)")
    table.add_column("EC2")
    table.add_column("")
    first = next(iter(found["by_setting"].values()))[names[0]]
    for phase in first["phases_s"]:
        table.add_column(phase.replace(" ", "\n", 1), justify="right")
    for setting, sides in found["by_setting"].items():
        for name in names:
            table.add_row(setting, name, *(f"{seconds:.2f}" for seconds in sides[name]["phases_s"].values()))
    return table


def _others(found: Mapping[str, Any]) -> Table:
    table = Table(title="Seconds")
    table.add_column("")
    for name in ("n", "median", "worst"):
        table.add_column(name, justify="right")
    hops = found["failover_s"]
    table.add_row("one pool's refusal to the next pool's launch", str(hops["count"]), f"{hops['median']:.3f}", f"{hops['worst']:.3f}")
    said = {
        "cloud_s": "the cloud's list",
        "reclaims_s": "its reclaims",
        "slurm_s": "nodes and jobs, and deciding",
        "own_s": "in all",
        "commands_s": "beside it scontrol and squeue",
    }
    for name, text in said.items():
        table.add_row(f"reconcile, CPU: {text}", "", f"{found['reconcile_cpu_s'][name]:.3f}", "")
    for name, one in found["starts_s"].items():
        table.add_row(name, "", f"{one['median']:.3f}", f"{one['worst']:.3f}")
    return table
