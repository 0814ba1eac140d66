"""Facts about this process: when it started, which job, attempt and rank it is."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError

IMPORTED = time.time()


def started() -> float:
    """Unix time at which the kernel started this process, to 0.01 s; the time of the import where /proc does not tell.

    proc(5): field 22 of /proc/self/stat counts clock ticks since boot. The agent compares it with its own reading to
    tell this process from a later one that got its pid.
    """
    began = started_of("self")
    return IMPORTED if began is None else began


def started_of(pid: int | str) -> float | None:
    """The same of another process of this machine; None where there is none, it has ended, or /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX":
            return None
        since_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return _booted() + since_boot_s
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _booted() -> float:
    """Unix time of the boot: the best of a few readings, since on a busy machine this process may have to wait between two clocks."""
    readings = []
    for _ in range(5):
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        now = time.time()
        after = time.clock_gettime(time.CLOCK_BOOTTIME)
        readings.append((after - before, now - before))
    return min(readings)[1]


def module(name: str) -> Any:
    """A module that the program has loaded, or None. This library loads no framework by itself to look at it."""
    return sys.modules.get(name)


def torch_distributed() -> Any:
    """torch.distributed where the program has initialised it, else None."""
    distributed = module("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed


def jax_state() -> Any:
    """The coordination of `jax.distributed` (process_id, num_processes, client) where the program has initialised it, else None."""
    state = getattr(module("jax._src.distributed"), "global_state", None)
    return None if getattr(state, "client", None) is None else state


def _count(environ: Mapping[str, str], name: str, least: int) -> int | None:
    text = environ.get(name, "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        raise HoldfastError(f"{name}={text!r} is not a whole number of at least {least}")
    return int(text)


@dataclass(frozen=True)
class Place:
    """This process among the processes of the run."""

    rank: int
    world_size: int


def place(environ: Mapping[str, str]) -> Place:
    """From torch.distributed or jax.distributed if it is initialised, else RANK and WORLD_SIZE, else an srun step's variables.

    A batch script has SLURM_PROCID=0 and SLURM_NTASKS=N too without being one of N tasks: SLURM_STEP_ID tells an srun
    task from it. Raises HoldfastError for variables that are not numbers.
    """
    distributed = torch_distributed()
    if distributed is not None:
        return Place(distributed.get_rank(), distributed.get_world_size())
    state = jax_state()
    if state is not None:
        return Place(state.process_id, state.num_processes)
    names = [("RANK", "WORLD_SIZE")]
    if environ.get("SLURM_STEP_ID"):
        names += [("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("SLURM_PROCID", "SLURM_NTASKS")]
    for rank_name, size_name in names:
        rank, size = _count(environ, rank_name, 0), _count(environ, size_name, 1)
        if rank is not None and size is not None:
            if rank >= size:
                raise HoldfastError(f"{rank_name}={rank} is not below {size_name}={size}")
            return Place(rank, size)
    return Place(0, 1)


@dataclass(frozen=True)
class Job:
    """The Slurm job; `job_id` is empty and `attempt` None outside Slurm (the fence numbers the attempts there)."""

    job_id: str
    attempt: int | None
    node: str
    cluster: str = ""
    array: str = ""

    @property
    def identity(self) -> str:
        """What tells it from every other job: a new cluster begins its job ids again from 1."""
        return f"{self.cluster}/{self.job_id}" if self.cluster and self.job_id else self.job_id


def job(environ: Mapping[str, str]) -> Job:
    """From SLURM_JOB_ID, SLURM_CLUSTER_NAME and SLURM_RESTART_COUNT (unset on the first run). Raises HoldfastError if it is no number."""
    job_id = environ.get("SLURM_JOB_ID", "")
    attempt = (_count(environ, "SLURM_RESTART_COUNT", 0) or 0) if job_id else None
    node = environ.get("SLURMD_NODENAME") or os.uname().nodename
    return Job(job_id, attempt, node, environ.get("SLURM_CLUSTER_NAME", "")[:100], environ.get("SLURM_ARRAY_JOB_ID", "")[:100])
