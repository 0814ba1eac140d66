"""`bench/health`: what watching GPUs costs a node, and how long a fault takes to be known and acted on.

The GPUs are the sandbox's (a libnvidia-ml.so.1 of our own): a real driver's time comes on top. All else is real: agents, controller, hooks,
slurmctld, slurmd. Exit status: 0 all targets met, 1 one missed or the run failed.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast_common.health.catalogue import TIER_S
from holdfast_sandbox.machine_gpus import Fault
from holdfast_slurm.hooks.install import write_wrappers

from bench import health_idle, health_rounds, health_tables, program

HEARTBEAT_S = TIER_S["fast"]
TARGETS = {
    "agent_cpu_percent": 0.5,
    "watching_cpu_percent": 0.5,
    "agent_pss_mib": 60.0,
    "drained_s": 1.0,
    "told_s": 1.0,
    "verdict_heartbeats": 3.0,
    "health_check_ms": 50.0,
    "scrape_ms": 20.0,
}
"""Most that is allowed: percent of one core, by the whole agent and by what it does more than without GPUs; MiB; else the worst."""
SLACK_HEARTBEATS = 0.5
"""A heartbeat counts as missed when it is a tenth of an interval late, and is looked for every half second: three take so much longer."""
HOOK = "HealthCheckProgram"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    return program.run("health", _parser().parse_args(arguments), _measure, health_tables.show, width=120)


def _measure(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    load = os.getloadavg()[0]
    over_s, rounds, each, repeats = (6.0, 1, 1, 5) if options.quick else (options.idle, options.rounds, options.verdicts, options.repeats)
    hooks = hook_ms(folder, repeats)
    costs = health_idle.measure(folder, over_s, repeats, say)
    faults: list[Fault] = ["lose", "hang"] * each
    verdicts = health_rounds.verdicts(folder / "v", faults, say)
    reactions = health_rounds.reactions(folder / "r", rounds, say)
    found = figures(costs, verdicts, reactions, hooks)
    setup = {
        "machine": program.machine(load),
        "idle": f"{over_s:g} s, one scrape each {health_idle.SCRAPE_EVERY_S:g} s",
        "one wake-up of an event loop that does nothing": f"{wake_us():.0f} us of CPU on this machine",
    }
    return {"v": 1, **found, "setup": setup}


def wake_us(times: int = 100) -> float:
    """Return what it costs here to be woken by a timer: an agent at rest does little else."""

    async def sleep() -> None:
        for _ in range(times):
            await asyncio.sleep(0.05)

    began = time.process_time()
    asyncio.run(sleep())
    return 1e6 * (time.process_time() - began) / times


def hook_ms(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return how long HealthCheckProgram takes as slurmd starts it, beside programs that do nothing. Raises OSError, CalledProcessError."""
    run_dir = folder / "run"
    run_dir.mkdir()
    (run_dir / "health").write_text(f"ok {int(time.time()) + 3600}\n\n")
    nowhere = folder / "nowhere"
    write_wrappers(folder / "hooks", run_dir=run_dir, python=nowhere, controller_socket=nowhere, bin_dir=nowhere, slurm_conf=nowhere)
    commands = {HOOK: [str(folder / "hooks" / "health-check")], "/bin/true": ["/bin/true"], "sh": ["/bin/sh", "-c", ":"]}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, argv in commands.items():
            at = time.perf_counter()
            subprocess.run(argv, env={"SLURMD_NODENAME": "spot-1"}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=True)
            found[name].append(1000 * (time.perf_counter() - at))
    return found


def figures(
    costs: Mapping[str, health_idle.Cost],
    verdicts: Sequence[tuple[Fault, float]],
    reactions: Sequence[health_rounds.Reaction],
    hooks: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return everything as plain data, with the targets."""
    watching, bare = costs[health_idle.WATCHING], costs[health_idle.BARE]
    values = {
        "agent_cpu_percent": watching.cpu_percent,
        "watching_cpu_percent": watching.cpu_percent - bare.cpu_percent,
        "agent_pss_mib": watching.memory.pss,
        "drained_s": max(each.drained_s for each in reactions),
        "told_s": max(each.told_s for each in reactions),
        "verdict_heartbeats": max(took_s for _, took_s in verdicts) / HEARTBEAT_S,
        "health_check_ms": max(hooks[HOOK]),
        "scrape_ms": max(watching.scrapes_ms),
    }
    allowed = TARGETS | {"verdict_heartbeats": TARGETS["verdict_heartbeats"] + SLACK_HEARTBEATS}
    return {
        "costs": {name: asdict(cost) | {"scrapes_ms": spread(cost.scrapes_ms)} for name, cost in costs.items()},
        "verdicts_s": {fault: spread([took for kind, took in verdicts if kind == fault]) for fault in dict(verdicts)},
        "reactions_s": {key: spread([getattr(each, f"{key}_s") for each in reactions]) for key in ("drained", "told")},
        "hooks_ms": {name: spread(times) for name, times in hooks.items()},
        "values": values,
        "targets": dict(TARGETS),
        "targets_met": {name: values[name] <= allowed[name] for name in TARGETS},
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return median, worst and count; None of nothing."""
    return {"median": statistics.median(values), "worst": max(values), "count": len(values)} if values else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/health", description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=float, default=120.0, help="for how many seconds the agents are watched (120)")
    parser.add_argument("--rounds", type=int, default=10, help="XIDs under a job (10)")
    parser.add_argument("--verdicts", type=int, default=3, help="lost GPUs, and as many hangs (3)")
    parser.add_argument("--repeats", type=int, default=50, help="scrapes, and runs of HealthCheckProgram (50)")
    parser.add_argument("--quick", action="store_true", help="one of each and six seconds, to see that it works")
    program.add_options(parser, "health")
    return parser


if __name__ == "__main__":
    sys.exit(main())
