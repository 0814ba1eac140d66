"""`bench/launch`: how long a large request takes, beside AWS ParallelCluster's launcher.

Exit status: 0 all targets met, 1 one missed or it failed.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from holdfast_sandbox import ec2_buckets
from holdfast_sandbox.cluster import Sandbox

from bench import failover, launch_holdfast, launch_peer, passes, program, starts
from bench.launch_tables import show
from bench.launch_types import SETTINGS, Launch

TARGETS = {"ids_s": 3.0, "addresses_s": 5.0, "failover_worst_s": 0.2, "reconcile_cpu_s": 0.5, "start_s": 0.3}
"""Most seconds: until the last instance's id is durable, and until slurmctld knows all addresses, at no latency; from a refusal to the next
pool's launch; of the controller's CPU in one pass of reconcile; for a command to start. Medians, but for the failover's worst."""
WANTED_RATIO = 5.0
"""How much quicker than the peer we would be. Where we are not, the phases say why; the exit status does not depend on it."""
PASSES = 5
OURS = (
    "real slurmctld, hook, controller and boto3; machines never boot, and their agents' streams come all at once, from one process on this"
    " machine, when the last id is durable"
)
THEIRS = f"{launch_peer.VERSION}, its ResumeProgram as it is, on a slurmctld of its own; no DNS zone, DynamoDB takes every write"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    return program.run("launch", _parser().parse_args(arguments), measure, show, width=160)


def measure(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return all figures. Raises as the parts do."""
    load = os.getloadavg()
    began = starts.measure(options.starts)
    hops = failover.measure(folder / "f", options.refusals)
    say(f"{len(hops)} refusals: {statistics.median(hops):.3f} s each")
    looks: list[passes.Pass] = []
    launches = _launches(options, folder, looks, say)
    found = figures(launches, hops, looks, began)
    found["setup"] = {
        "Holdfast": OURS,
        "ParallelCluster": f"{THEIRS}; {', '.join(f'{key}={value}' for key, value in launch_peer.SETTINGS.items())}",
        "EC2": f"simulated, the same for all; {'; '.join(map(str, SETTINGS))}; RunInstances: {_bucket('RunInstances')}",
        "machine": program.machine(load[0]),
        "load average": f"{_loads(load)} at the start, {_loads(os.getloadavg())} at the end",
    }
    return found


def _loads(load: Sequence[float]) -> str:
    return ", ".join(f"{one:.1f}" for one in load)


def _bucket(action: str) -> str:
    calls, instances = ec2_buckets.REQUESTS[action], ec2_buckets.INSTANCES[action]
    return (
        f"{calls.capacity:g} calls and {calls.refill_per_s:g} more a second, "
        f"{instances.capacity:g} instances and {instances.refill_per_s:g} more a second"
    )


def _launches(options: argparse.Namespace, folder: Path, looks: list[passes.Pass], say: Callable[[str], None]) -> list[Launch]:
    def reconcile(sandbox: Sandbox) -> None:
        if not looks:
            looks.extend(passes.measure(sandbox, folder / "j", PASSES))

    sides: list[Callable[..., Launch]] = [partial(launch_holdfast.launch, side=side, after=reconcile) for side in launch_holdfast.SIDES]
    if not options.no_peer:
        sides += [partial(launch_peer.launch, side=side) for side in launch_peer.SIDES]
    found: list[Launch] = []

    for setting in SETTINGS[: options.settings]:
        for _ in range(options.repeats):
            for side in sides:
                found.append(side(folder / f"l{len(found)}", setting, options.nodes))
                one = found[-1]
                say(f"{one.setting}: {one.side}: ids {one.ids_s:.2f} s, addresses {one.addresses_s:.2f} s")
    return found


def figures(
    launches: Sequence[Launch], hops: Sequence[float], looks: Sequence[passes.Pass], began: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return everything as it goes into the JSON file."""
    rows = _rows(launches)
    ours = [values for side, values in rows[launches[0].setting].items() if side in launch_holdfast.SIDES]
    values = {
        "ids_s": max(one["ids_s"] for one in ours),
        "addresses_s": max(one["addresses_s"] for one in ours),
        "failover_worst_s": max(hops),
        "reconcile_cpu_s": statistics.median(one.own_s for one in looks),
        "start_s": max(statistics.median(times) for name, times in began.items()),
    }
    return {
        "v": 1,
        "nodes": launches[0].nodes,
        "launches": [asdict(one) for one in launches],
        "by_setting": rows,
        "wanted_ratio": WANTED_RATIO,
        "failover_s": {"count": len(hops), "median": statistics.median(hops), "worst": max(hops)},
        "reconcile_cpu_s": {
            name: statistics.median(getattr(one, name) for one in looks)
            for name in ("cloud_s", "reclaims_s", "slurm_s", "own_s", "commands_s")
        },
        "starts_s": {name: {"median": statistics.median(times), "worst": max(times)} for name, times in began.items()},
        "values": values,
        "targets": TARGETS,
        "targets_met": {name: values[name] <= most for name, most in TARGETS.items()},
    }


def _rows(launches: Sequence[Launch]) -> dict[str, dict[str, Any]]:
    """Return setting → side → medians, with the ratios to ours."""
    rows: dict[str, dict[str, Any]] = {}
    for one in launches:
        rows.setdefault(one.setting, {}).setdefault(one.side, []).append(one)
    for sides in rows.values():
        for side, several in sides.items():
            sides[side] = {name: statistics.median(getattr(one, name) for one in several) for name in ("ids_s", "addresses_s")}
            sides[side]["count"] = len(several)
            sides[side]["throttled"] = max(one.throttled for one in several)
            sides[side]["phases_s"] = {part: statistics.median(one.phases_s[part] for one in several) for part in several[0].phases_s}
        # Like with like: one pool beside one pool, a fleet beside a fleet.
        pairs = zip(launch_peer.SIDES, launch_holdfast.SIDES, strict=True)
        for peer, ours in ((sides[peer], sides[ours]) for peer, ours in pairs if peer in sides):
            peer["ratio_ids"] = peer["ids_s"] / ours["ids_s"]
            peer["ratio_addresses"] = peer["addresses_s"] / ours["addresses_s"]
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/launch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000, help="of the request, at most 1000 (1000)")
    parser.add_argument("--repeats", type=int, default=3, help="requests of each side at each setting (3)")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), choices=range(1, len(SETTINGS) + 1), help="the first so many (all)")
    parser.add_argument("--refusals", type=int, default=20, help="of pools, in all (20)")
    parser.add_argument("--starts", type=int, default=10, help="of each command (10)")
    parser.add_argument("--no-peer", action="store_true", help="without ParallelCluster's launcher, which is installed otherwise")
    program.add_options(parser, "launch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
