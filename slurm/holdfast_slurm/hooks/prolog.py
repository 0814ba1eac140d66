"""Prolog: makes the job's directory on its node, if an agent is there. Root, standard library only.

Exit status 0 always: another one drains the node and holds or requeues the job. PrologFlags=Alloc is needed: without it
Slurm 22.05 runs no Prolog for the second attempt on a surviving node without the batch step (measured).
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast_slurm.hooks import jobdir
from holdfast_slurm.hooks.log import HookLog
from holdfast_slurm.hooks.slurm_query import hostnames, restart_count


def prepare(run_dir: Path, bin_dir: Path, environ: Mapping[str, str], now: float) -> None:
    """Make the directory of the attempt that begins, set those of earlier attempts aside.

    Raises ValueError where the environment lacks what it must have, OSError and jobdir.UnsafeDirectoryError.
    """
    with jobdir.opened_jobs(run_dir) as jobs:
        if jobs is None:
            return
        attempt = read_attempt(bin_dir, environ)
        node = environ.get("SLURMD_NODENAME", "")
        context: dict[str, object] = {"v": 1, "job_id": attempt.job_id, "attempt": attempt.attempt, "node": node}
        nodes = hostnames(bin_dir, environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST", ""), environ)
        if nodes:
            context["nodes"] = nodes
        if attempt.attempt > 0:
            jobdir.retire(jobs, attempt.job_id, attempt.attempt - 1, now)
        jobdir.make(jobs, attempt, context)
        jobdir.sweep(jobs, now)


def read_attempt(bin_dir: Path, environ: Mapping[str, str]) -> jobdir.Attempt:
    """Return the attempt that slurmd starts. Raises ValueError where the environment lacks a number.

    22.05 gives SLURM_JOB_RESTART_COUNT to Prolog, 0 for the first run (measured); squeue is asked where it is missing.
    """
    job_id = number(environ, "SLURM_JOB_ID")
    if environ.get("SLURM_JOB_RESTART_COUNT"):
        attempt = number(environ, "SLURM_JOB_RESTART_COUNT")
    else:
        attempt = restart_count(bin_dir, job_id, environ)
    return jobdir.Attempt(job_id, attempt, number(environ, "SLURM_JOB_UID"), number(environ, "SLURM_JOB_GID"))


def number(environ: Mapping[str, str], name: str) -> int:
    """Return a variable's value as a number of at most ten digits. Raises ValueError."""
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ValueError(f"{name} is {text[:40]!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; return 0 always."""
    parser = argparse.ArgumentParser(prog="holdfast-prolog", allow_abbrev=False)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--bin-dir", type=Path, required=True)
    parser.add_argument("--slurm-conf", required=True)
    parser.add_argument("--log", type=Path, default=None)
    parsed = parser.parse_args(arguments)
    try:
        prepare(parsed.run_dir, parsed.bin_dir, {"SLURM_CONF": parsed.slurm_conf, **os.environ}, time.time())
    except Exception as error:  # a node must not be drained for it: the job runs, without a directory
        HookLog("prolog", parsed.log).note(f"job {os.environ.get('SLURM_JOB_ID')}: no directory: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
