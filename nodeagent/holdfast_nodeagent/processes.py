"""Processes of this node, from /proc: who is alive, who belongs to a job, and the one signal that we ever send.

slurmstepd names itself `slurmstepd: [12.batch]` or `slurmstepd: [12.0]` (22.05; `[12+1.0]` for heterogeneous jobs) and runs
as root, so that no user can pass for one. proctrack/cgroup puts a job's processes below a folder `job_12`; under
proctrack/linuxproc the ancestors and the environment (Slurm sets SLURM_JOB_ID) tell.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

START_TOLERANCE_S = 2.0
MAX_ANCESTORS = 64
_STEPD = re.compile(rb"slurmstepd: \[(\d{1,10})(?:\+\d+)?\.[^\]]*\]")
_NO_STEP = re.compile(rb"slurmstepd[\0: ]+infinity\b")
"""It holds the cgroup of all steps, for as long as slurmd runs, and is none itself."""
_JOB_CGROUP = re.compile(r"/job_([1-9]\d{0,9})(?:/|$)", re.MULTILINE | re.ASCII)
_HARMLESS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}


@dataclass(frozen=True, slots=True)
class Process:
    """One process as /proc shows it."""

    pid: int
    parent: int
    uid: int
    started: float
    """Unix seconds."""
    name: str
    zombie: bool = False
    ticks: int = 0
    """The same since the boot, in the kernel's ticks: no clock that is set changes it."""


def wake_signal(value: str | int | None) -> signal.Signals | int | None:
    """Return the signal a rank asked to be woken by, or None where it asked for none or for one that we do not send.

    Only signals that a program uses for itself: USR1, USR2, URG, WINCH, CONT and the real-time ones.
    """
    if isinstance(value, str):
        value = signal.Signals.__members__.get(value if value.startswith("SIG") else "SIG" + value)
    if value is None:
        return None
    number = int(value)
    return number if number in _HARMLESS or signal.SIGRTMIN <= number <= signal.SIGRTMAX else None


def boot_time() -> float:
    """Return when the machine booted, Unix seconds. Asked anew each time, since the wall clock may be set right after the boot."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)


class Processes:
    """The process table below `root`. Nothing here raises for a process that has ended meanwhile: it is simply not there."""

    def __init__(self, root: Path = Path("/proc"), boot_time: Callable[[], float] = boot_time) -> None:
        self._root = root
        self._boot_time = boot_time
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")

    def get(self, pid: int) -> Process | None:
        """Return the process, or None where there is none."""
        try:
            stat = (self._root / str(pid) / "stat").read_bytes()
            status = (self._root / str(pid) / "status").read_bytes()
        except OSError:
            return None
        # The name stands in parentheses and may hold anything, parentheses too: fields are counted from the last one.
        name, _, rest = stat.partition(b"(")[2].rpartition(b")")
        fields = rest.split()
        uid = re.search(rb"^Uid:\s+(\d+)", status, re.MULTILINE)
        if len(fields) < 20 or uid is None:
            return None
        return Process(
            pid=pid,
            parent=int(fields[1]),
            uid=int(uid[1]),
            started=self._boot_time() + int(fields[19]) * self._tick_s,
            name=name.decode(errors="replace"),
            zombie=fields[0] in {b"Z", b"X"},
            ticks=int(fields[19]),
        )

    def alive(self, pid: int, started: float, *, ticks: int | None = None) -> Process | None:
        """Return the process that has this pid and began then (± 2 s): a pid that another has now is not it.

        Where it is known by when it began in `ticks`, that alone counts: the node's clock may have been set since it registered.
        """
        process = self.get(pid)
        if process is None or process.zombie:
            return None
        same = abs(process.started - started) <= START_TOLERANCE_S if ticks is None else process.ticks == ticks
        return process if same else None

    def in_job(self, process: Process, job_id: int) -> bool:
        """Whether the process belongs to the job: by cgroup, else by a slurmstepd of it among its ancestors, else by its environment.

        The environment is the process's own word; it is the last resort for a process whose parent has ended (torchrun's workers after
        their agent), and harmless, because the caller has compared the user as well.
        """
        try:
            cgroups = (self._root / str(process.pid) / "cgroup").read_text().split("\n")
        except OSError:
            return False
        if any(f"job_{job_id}" in line.split("/") for line in cgroups):
            return True
        return job_id in self._ancestors(process) or self._environment_says(process.pid, job_id)

    def job_of(self, pid: int) -> int | None:
        """Return the job of a process: by cgroup, else by a slurmstepd among its ancestors. None: no job's, or there is no such process.

        Its environment is not asked: by that, anyone could lay the blame on another's job.
        """
        try:
            match = _JOB_CGROUP.search((self._root / str(pid) / "cgroup").read_text(errors="replace"))
        except OSError:
            return None
        if match is not None:
            return int(match[1])
        process = self.get(pid)
        return min(self._ancestors(process), default=None) if process is not None else None

    def steps(self) -> dict[int, list[Process]]:
        """Return the slurmstepds on this node by the id of their job."""
        found: dict[int, list[Process]] = {}
        for pid in self._pids():
            job_id = self._step_of(pid)
            process = self.get(pid) if job_id is not None else None
            if job_id is not None and process is not None:
                found.setdefault(job_id, []).append(process)
        return found

    def step_jobs(self) -> frozenset[int] | None:
        """Return the jobs that have a slurmstepd here; None where there is one whose title is not understood, as in its first moment."""
        found = set()
        for pid in self._pids():
            process = self.get(pid) if self._name(pid) == b"slurmstepd" else None
            if process is None or process.zombie or process.uid not in {0, os.geteuid()}:
                continue
            title = self._title(pid)
            match = _STEPD.match(title)
            if match is not None:
                found.add(int(match[1]))
            elif title and not _NO_STEP.search(title):
                return None
        return frozenset(found)

    def running(self, name: str) -> bool:
        """Whether a process of root's, or of our own user, has this name (`slurmd`)."""
        for pid in self._pids():
            if self._name(pid) == name.encode():
                process = self.get(pid)
                if process is not None and not process.zombie and process.uid in {0, os.geteuid()}:
                    return True
        return False

    def wake(self, pid: int, started: float, uid: int, job_id: int, number: int, *, ticks: int | None = None) -> str:
        """Send a wake-up signal to a registered process of a job; returns "" or why it was not sent.

        The pidfd is opened first and everything compared afterwards, so the signal cannot reach a process that got the pid meanwhile.
        """
        try:
            handle = os.pidfd_open(pid)
        except OSError as error:
            return f"no process {pid}: {error.strerror}"
        try:
            process = self.alive(pid, started, ticks=ticks)
            if process is None:
                return f"process {pid} is not the one that registered (it began at another time)"
            if process.uid != uid:
                return f"process {pid} belongs to another user"
            if not self.in_job(process, job_id):
                return f"process {pid} is not in job {job_id}"
            signal.pidfd_send_signal(handle, number)
        except OSError as error:
            return f"process {pid}: {error.strerror}"
        finally:
            os.close(handle)
        return ""

    def _pids(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self._root) if name.isdecimal())

    def _name(self, pid: int) -> bytes:
        try:
            return (self._root / str(pid) / "comm").read_bytes().rstrip(b"\n")
        except OSError:
            return b""

    def _title(self, pid: int) -> bytes:
        try:
            return (self._root / str(pid) / "cmdline").read_bytes()
        except OSError:
            return b""

    def _step_of(self, pid: int) -> int | None:
        """Return the job whose slurmstepd this is. Only root's (or our own user's) count: a job could call itself so."""
        if self._name(pid) != b"slurmstepd":
            return None
        match = _STEPD.match(self._title(pid))
        process = self.get(pid) if match else None
        if match is None or process is None or process.zombie or process.uid not in {0, os.geteuid()}:
            return None
        return int(match[1])

    def _ancestors(self, process: Process) -> set[int]:
        """Return the jobs whose slurmstepd is an ancestor of the process."""
        found: set[int] = set()
        pid = process.parent
        for _ in range(MAX_ANCESTORS):
            if pid <= 1:
                break
            job_id = self._step_of(pid)
            if job_id is not None:
                found.add(job_id)
            parent = self.get(pid)
            if parent is None:
                break
            pid = parent.parent
        return found

    def _environment_says(self, pid: int, job_id: int) -> bool:
        try:
            with (self._root / str(pid) / "environ").open("rb") as file:
                entries = file.read(1 << 20).split(b"\0")
        except OSError:
            return False
        return b"SLURM_JOB_ID=%d" % job_id in entries
