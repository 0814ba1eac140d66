"""What Prolog and Epilog must ask Slurm's commands, and of the processes of a job on this node. Standard library only."""

import os
from collections.abc import Mapping
from pathlib import Path

_ASK_S = 5.0
_LIST_LIMIT = 65_536
_NODES_LIMIT = 4096
"""The longest list that `context.json` may hold."""


def restart_count(bin_dir: Path, job_id: int, environ: Mapping[str, str]) -> int:
    """Return how often slurmctld has started the job again. Raises ValueError where it does not say so in five seconds.

    Not by `scontrol show job`: there the job's name, which its user chooses, stands before `Restarts=`.
    """
    text = _run([str(bin_dir / "squeue"), "--noheader", "--jobs", str(job_id), "-O", "RestartCnt:20"], environ).strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"squeue gives no restart count of job {job_id}")
    return int(text)


def hostnames(bin_dir: Path, node_list: str, environ: Mapping[str, str]) -> list[str]:
    """Return the nodes of a list in Slurm's notation; empty where scontrol cannot tell, or they are too many.

    scontrol reads slurm.conf for it and asks nobody.
    """
    if not node_list or len(node_list) > _LIST_LIMIT:
        return []
    try:
        bare = "[" not in node_list
        nodes = node_list.split(",") if bare else _run([str(bin_dir / "scontrol"), "show", "hostnames", node_list], environ).split()
    except ValueError:
        return []
    return nodes if len(nodes) <= _NODES_LIMIT else []


def has_steps(job_id: int, proc: Path = Path("/proc")) -> bool:
    """Return whether a slurmstepd of the job lives on this node.

    Its title reads `slurmstepd: [12.batch]` (measured on 22.05), `[12+1.0]` in a heterogeneous job; it runs as root, so that no user can
    pass for one.
    """
    marks = (f"slurmstepd: [{job_id}.".encode(), f"slurmstepd: [{job_id}+".encode())
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            if os.stat(proc / entry).st_uid in {0, os.geteuid()} and (proc / entry / "cmdline").read_bytes()[:200].startswith(marks):
                return True
        except OSError:
            continue  # ended meanwhile
    return False


def _run(command: list[str], environ: Mapping[str, str]) -> str:
    """Return what a command prints. Raises ValueError where it fails, or is not done in five seconds."""
    import subprocess

    conf = environ.get("SLURM_CONF")
    try:
        done = subprocess.run(
            command,
            env={"LC_ALL": "C", **({"SLURM_CONF": conf} if conf else {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"{command[0]}: {error}") from None
    return done.stdout.decode("utf-8", "replace")
