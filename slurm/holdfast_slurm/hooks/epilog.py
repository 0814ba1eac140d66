"""Epilog: sets the directories of a job's ended attempts aside, and removes those that were set aside a minute ago.

Root, standard library only, exit status 0 always (another one drains the node). At the Epilog of a requeued job
SLURM_JOB_RESTART_COUNT is already the number of the next attempt (measured on 22.05): everything before it goes, and its
directory is made ahead, because Slurm may skip the Prolog here (see jobdir). At the end of a job it is the number of the attempt that
ended, which has a directory: that one goes, too, provided that no step of the job lives on the node.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from holdfast_slurm.hooks import jobdir
from holdfast_slurm.hooks.log import HookLog
from holdfast_slurm.hooks.prolog import number
from holdfast_slurm.hooks.slurm_query import has_steps

_EVERY_ATTEMPT = 10**9


def clear(run_dir: Path, environ: Mapping[str, str], now: float, busy: Callable[[int], bool] = has_steps) -> None:
    """Set the job's directories aside, and make that of its next attempt. Raises ValueError, OSError and jobdir.UnsafeDirectoryError."""
    with jobdir.opened_jobs(run_dir) as jobs:
        if jobs is None:
            return
        job_id = number(environ, "SLURM_JOB_ID")
        last = number(environ, "SLURM_JOB_RESTART_COUNT") if "SLURM_JOB_RESTART_COUNT" in environ else _EVERY_ATTEMPT
        known = jobdir.attempts(jobs, job_id)
        if known and busy(job_id):
            last = min(last, known[-1] - 1)  # the newest is in use
        jobdir.retire(jobs, job_id, last, now)
        if known and known[-1] < last != _EVERY_ATTEMPT:
            attempt = jobdir.Attempt(job_id, last, number(environ, "SLURM_JOB_UID"), number(environ, "SLURM_JOB_GID"))
            node = environ.get("SLURMD_NODENAME", "")
            jobdir.make_ahead(jobs, attempt, {"v": 1, "job_id": job_id, "attempt": last, "node": node})
        jobdir.sweep(jobs, now)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; return 0 always."""
    parser = argparse.ArgumentParser(prog="holdfast-epilog", allow_abbrev=False)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--log", type=Path, default=None)
    parsed = parser.parse_args(arguments)
    try:
        clear(parsed.run_dir, os.environ, time.time())
    except Exception as error:  # a node must not be drained for it: the directory stays until the next call
        HookLog("epilog", parsed.log).note(f"job {os.environ.get('SLURM_JOB_ID')}: directory not removed: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
