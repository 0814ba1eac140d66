"""Whether a live run owns a checkpoint directory, as far as that can be told from here."""

import json
import os
import shutil
import subprocess
from typing import Any

from holdfast import fence
from holdfast.files import LIMIT_BYTES
from holdfast.process import started_of
from holdfast.store.base import Store

_AT_WORK = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
_SQUEUE_S = 20.0


def live_owner(store: Store) -> str | None:
    """Who may be at work there, in words; None where nobody is. Raises ProtocolError, OSError."""
    found = store.load(fence.NAME, LIMIT_BYTES)
    if found is None:
        return None
    try:
        content = json.loads(found[0])
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return f"its {fence.NAME} cannot be read"
    if content.get("node") == os.uname().nodename:
        return _process(content)
    return _job(content)


def _process(content: dict[str, Any]) -> str | None:
    """A process of this machine: alive, and older than its claim, so that it is not another one with its number."""
    pid, taken = content.get("pid"), content.get("taken")
    if type(pid) is not int or not isinstance(taken, int | float):
        return f"its {fence.NAME} names no process"
    began = started_of(pid)
    return f"process {pid} on this machine" if began is not None and began <= taken + 2 else None


def _job(content: dict[str, Any]) -> str | None:
    """A job of Slurm's, where squeue can be asked."""
    job, node = content.get("job_id"), content.get("node")
    where = f"the run on {str(node)[:100]}" + (f" (job {job})" if job else "")
    if not isinstance(job, str) or not (job.isascii() and job.isdigit()) or shutil.which("squeue") is None:
        return f"{where}, and from here nobody can tell"
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%T"], capture_output=True, text=True, timeout=_SQUEUE_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as fault:
        return f"{where}, and squeue does not answer ({fault})"
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return f"{where}, and squeue does not answer ({done.stderr.strip()[:200]})"
    states = sorted(set(done.stdout.split()) & set(_AT_WORK)) if done.returncode == 0 else []
    return f"{where}, which is {states[0]}" if states else None
