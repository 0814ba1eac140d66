"""`bench/interruption`: what an interruption costs, and on what, beside plain Slurm in the same run.

Notices come from the simulated cloud; slurmctld, slurmd, controller, agents, hooks and the job's library are the real ones, on this one
machine. Exit status: 0 all targets met, 1 one missed or the run failed.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox

from bench import cases, plain, program, summary, tables

BOOT_DELAY_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit status."""
    return program.run("interruption", _parser().parse_args(arguments), _measure, tables.show)


def _measure(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    signals = plain.Signals()
    with ThreadPoolExecutor(1) as pool:
        baseline: Future[plain.PlainOutcome] | None = None
        try:
            if options.plain:
                baseline = pool.submit(plain.measure, folder / "plain", folder / "plain-jobs", signals, say)
                signals.waiting.wait()  # from here on plain Slurm only waits for its own timers, and disturbs nothing
            with Sandbox(folder / "sb", cases.config(options.boot_delay)) as sandbox:
                setup = _setup(sandbox, options)
                outcome = cases.Bed(sandbox, folder / "jobs", say).run(
                    [*cases.plan(options.interruptions), *cases.plan_losses(options.losses)], options.cold_starts
                )
            rows, gate = summary.rows_of(outcome), summary.registered_to_start(outcome)
        except BaseException:
            signals.stop.set()
            raise
        if baseline is not None and not baseline.done():
            say("plain Slurm is still waiting")
        reference = baseline.result() if baseline is not None else None
    found = summary.figures(rows, gate, reference)
    return {"v": 1, **found, "setup": setup}


def _setup(sandbox: Sandbox, options: argparse.Namespace) -> dict[str, str]:
    shown = sandbox.run(["scontrol", "show", "config"]).stdout
    config = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in shown.splitlines())}
    keys = ("SLURM_VERSION", "KillWait", "MessageTimeout", "SuspendTimeout", "SlurmdTimeout", "SchedulerParameters")
    return {
        "Slurm": ", ".join(f"{key}={config.get(key, '?')}" for key in keys),
        "sandbox": f"{cases.NODES} CLOUD nodes, boot delay {options.boot_delay:g} s, notice {cases.NOTICE_S:g} s, agents poll every 0.2 s",
        "plain Slurm": " ".join(plain.SETTINGS.split()) + " cred_expire=120 (default)",
        "machine": program.machine(os.getloadavg()[0]),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/interruption", description=__doc__.splitlines()[0])
    parser.add_argument("--interruptions", type=_positive, default=20, help="how many (20): as many of each of the four cases")
    parser.add_argument("--losses", type=int, default=10, help="of machines without a notice (10): six in ten of a single-node job")
    parser.add_argument("--cold-starts", type=int, default=2, help="further first starts on nodes that are bought for them (2)")
    parser.add_argument("--boot-delay", type=float, default=BOOT_DELAY_S, help=f"of the simulated cloud, in seconds ({BOOT_DELAY_S:g})")
    parser.add_argument("--no-plain", dest="plain", action="store_false", help="leave plain Slurm out: it takes three minutes")
    program.add_options(parser, "interruption")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
