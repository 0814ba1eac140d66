"""Who uses the GPUs: the jobs, and what is left over of jobs that are gone.

Many processes on a GPU are no job's and harm nobody: nvidia-persistenced, Xorg, DCGM, an MPS daemon. They belong to system users. So a
process is left over where its cgroup names a job that has no slurmstepd here any more, or where it is an ordinary user's and no job's;
and only if it was so at two looks, since a job that is ending looks the same for a moment.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast_common.health.model import Sample

from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.snapshot import GpuJob
from holdfast_nodeagent.processes import Process, Processes

FIRST_UID, NOBODY = 1000, 65534
"""Ordinary users, as Debian, Red Hat and systemd count; `nobody` is none."""
MAX_ENVIRON = 1 << 20
_WORD = re.compile(rb"[A-Za-z0-9_.,+-]{1,64}")

JobOf = Callable[[int], int]
"""The Slurm job of a process, 0: none."""


class Tenants:
    """Compares one look with the one before. `proc` is where processes' environments are."""

    def __init__(self, processes: Processes, job_of: JobOf, proc: Path = Path("/proc")) -> None:
        self._processes = processes
        self._job_of = job_of
        self._proc = proc
        self._suspects: frozenset[tuple[int, int]] = frozenset()
        self._idle: frozenset[str] = frozenset()
        self.labels: dict[int, tuple[str, str]] = {}
        """Account and partition of jobs, and …"""
        self.users: dict[int, str] = {}
        """… names of users, filled in by whoever can wait for them."""
        self._unlabelled: dict[int, int] = {}
        self._owners: dict[tuple[str, int], int] = {}

    @property
    def jobs(self) -> tuple[GpuJob, ...]:
        """The jobs on each GPU, as of the last look."""
        found = []
        for (uuid, job_id), uid in sorted(self._owners.items()):
            account, partition = self.labels.get(job_id, ("", ""))
            found.append(GpuJob(uuid, job_id, self.users.get(uid, str(uid)), account, partition))
        return tuple(found)

    @property
    def nameless(self) -> frozenset[int]:
        """Users whose names are not known yet."""
        return frozenset(self._owners.values()) - self.users.keys()

    @property
    def unlabelled(self) -> Mapping[int, int]:
        """Jobs whose labels are not known yet, each with a process of its own."""
        return {job_id: pid for job_id, pid in self._unlabelled.items() if job_id not in self.labels}

    def blamed(self, uuid: str, pid: int) -> int:
        """Return the job of the process that the driver named, or that alone used the GPU at the last look; 0: not known."""
        job_id = self._job_of(pid) if pid > 0 else 0
        jobs = {job_id for gpu, job_id in self._owners if gpu == uuid}
        return job_id or (jobs.pop() if len(jobs) == 1 else 0)

    def look(
        self, gpus: Mapping[str, Mapping[int, int]], used: Mapping[str, float | None], inventory: Inventory, at: float
    ) -> list[Sample]:
        """Take the processes on each GPU, and the memory in use on it; return what is left over."""
        live = self._processes.step_jobs()
        suspects: dict[tuple[int, int], str] = {}
        owners: dict[tuple[str, int], int] = {}
        unlabelled: dict[int, int] = {}
        counts = dict.fromkeys(gpus, 0)
        for uuid, pids in gpus.items():
            for pid in pids:
                process = self._processes.get(pid)
                if process is None or process.zombie:
                    continue
                job_id = self._job_of(pid)
                if job_id and (live is None or job_id in live):
                    owners[uuid, job_id] = process.uid
                    unlabelled[job_id] = pid
                elif live is not None and _left_over(process, job_id):
                    suspects[pid, process.ticks] = f"{process.name} ({pid})" + (f" of job {job_id}" if job_id else "")
                    counts[uuid] += (pid, process.ticks) in self._suspects
        self._owners, self._unlabelled = owners, unlabelled
        self.labels = {job_id: label for job_id, label in self.labels.items() if job_id in unlabelled}
        named = ", ".join(sorted(name for identity, name in suspects.items() if identity in self._suspects))[:200]
        self._suspects = frozenset(suspects)
        samples = [Sample(at, "leftover_processes", float(count), uuid, detail=named if count else "") for uuid, count in counts.items()]
        return samples + self._memory(gpus, used, inventory, at, nothing_runs=live is not None and not live)

    def _memory(
        self,
        gpus: Mapping[str, Mapping[int, int]],
        used: Mapping[str, float | None],
        inventory: Inventory,
        at: float,
        *,
        nothing_runs: bool,
    ) -> list[Sample]:
        """Memory that nobody uses: on a GPU without a process at two looks, while no job runs here. MIG instances keep some."""
        idle = frozenset(uuid for uuid, pids in gpus.items() if not pids and nothing_runs)
        samples = []
        for gpu in inventory.gpus:
            bytes_used = used.get(gpu.uuid)
            if gpu.uuid in gpus and bytes_used is not None and not gpu.mig:
                left = bytes_used if gpu.uuid in idle & self._idle else 0.0
                samples.append(Sample(at, "leftover_memory_bytes", left, gpu.uuid))
        self._idle = idle
        return samples

    def label_of(self, pid: int) -> tuple[str, str]:
        """Return account and partition of a process's job, as its environment has them: its own word, good enough for a label.

        Raises OSError. May hang: the kernel waits for the process's memory map, which one that hangs in the driver's mmap holds.
        """
        with open(self._proc / str(pid) / "environ", "rb", opener=_unblocking) as file:
            entries = file.read(MAX_ENVIRON).split(b"\0")
        return _value(entries, b"SLURM_JOB_ACCOUNT="), _value(entries, b"SLURM_JOB_PARTITION=")


def _left_over(process: Process, job_id: int) -> bool:
    return job_id > 0 or (process.uid >= FIRST_UID and process.uid != NOBODY)


def _value(entries: list[bytes], key: bytes) -> str:
    value = next((entry.removeprefix(key) for entry in entries if entry.startswith(key)), b"")
    return value.decode() if _WORD.fullmatch(value) else ""


def _unblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
