"""The command's processes, from /proc: which of them a framework's signal is for.

A signal goes to those that have a handler for it (SigCgt in /proc/<pid>/status), because the default action of USR1 and USR2 is to kill.
Passed over are launchers (torchrun dies of USR1, and kills its workers on TERM), and copies of a process made by fork alone: loader
workers inherit the handler, and would save.
"""

import os
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = re.compile(
    rb"(?:\A|[/\0])(?:torchrun|srun|mpirun|mpiexec|mpiexec\.hydra|orted|prted|deepspeed|accelerate|accelerate-launch|horovodrun|sh|dash)\0"
    rb"|\0-m\0(?:torch\.distributed\.(?:run|launch)|accelerate\.commands\.launch|deepspeed\.launcher\.\w+)\0"
    rb"|multiprocessing\.(?:resource_tracker|forkserver) import"
)
MOST_PROCESSES = 20_000


@dataclass(frozen=True)
class Process:
    """One process: `ticks` is when it began, `caught` the signals for which it has a handler, one bit each."""

    pid: int
    parent: int
    ticks: int
    zombie: bool
    caught: int

    def catches(self, number: int) -> bool:
        """Whether it has a handler for the signal."""
        return bool(self.caught >> (number - 1) & 1)


class Table:
    """The processes of this machine as they are now; what has ended meanwhile is simply not there."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        self.all: dict[int, Process] = {}
        for name in os.listdir(root)[:MOST_PROCESSES]:
            found = self._read(name) if name.isdecimal() else None
            if found is not None:
                self.all[found.pid] = found

    def _read(self, name: str) -> Process | None:
        try:
            stat = (self._root / name / "stat").read_bytes()
            status = (self._root / name / "status").read_bytes()
        except OSError:
            return None
        fields = stat.rpartition(b")")[2].split()
        caught = re.search(rb"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
        if len(fields) < 20 or caught is None:
            return None
        return Process(int(name), int(fields[1]), int(fields[19]), fields[0] in (b"Z", b"X"), int(caught[1], 16))

    def below(self, pid: int) -> list[Process]:
        """All descendants of a process, parents before their children; zombies are left out."""
        children: dict[int, list[Process]] = {}
        for process in self.all.values():
            children.setdefault(process.parent, []).append(process)
        found: list[Process] = []
        waiting = [pid]
        while waiting:
            ours = sorted(children.pop(waiting.pop(0), []), key=lambda process: process.pid)
            found += [process for process in ours if not process.zombie]
            waiting += [process.pid for process in ours]
        return found

    def in_job(self, job_id: str) -> list[Process]:
        """Processes of this user whose environment names the Slurm job: an srun's tasks are nobody's descendants."""
        entry = b"SLURM_JOB_ID=%s" % job_id.encode()
        mine = [process for process in self.all.values() if not process.zombie and self._mine(process.pid)]
        found = [process for process in mine if entry in self._bytes(process.pid, "environ").split(b"\0")]
        return sorted(found, key=lambda process: (process.ticks, process.pid))

    def _mine(self, pid: int) -> bool:
        try:
            return os.stat(self._root / str(pid)).st_uid == os.geteuid()
        except OSError:
            return False

    def _bytes(self, pid: int, name: str) -> bytes:
        try:
            with (self._root / str(pid) / name).open("rb") as file:
                return file.read(1 << 20)
        except OSError:
            return b""

    def command(self, pid: int) -> bytes:
        """Its arguments, each ended by a null byte."""
        return self._bytes(pid, "cmdline")

    def targets(self, candidates: Iterable[Process], number: int) -> list[Process]:
        """Those of the candidates that the signal is for."""
        chosen: dict[int, tuple[bytes, bytes]] = {}
        found = []
        for process in candidates:
            if not process.catches(number):
                continue
            image = self.command(process.pid), self._bytes(process.pid, "environ")
            if not image[0] or _LAUNCHER.search(image[0]) or image in self._images_above(process, chosen):
                continue
            chosen[process.pid] = image
            found.append(process)
        return found

    def _images_above(self, process: Process, chosen: Mapping[int, tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        images = []
        above = self.all.get(process.parent)
        while above is not None and above.pid > 1:
            if above.pid in chosen:
                images.append(chosen[above.pid])
            above = self.all.get(above.parent)
        return images

    def send(self, process: Process, number: int) -> bool:
        """Send a signal to a process that still is the one that was looked at, and still has the handler."""
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            return False
        try:
            now = self._read(str(process.pid))
            if now is None or now.zombie or now.ticks != process.ticks or not now.catches(number):
                return False
            signal.pidfd_send_signal(handle, number)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True


def kill(processes: Iterable[Process], number: int = signal.SIGKILL) -> None:
    """Send a signal to processes of ours; those that have ended meanwhile are passed over."""
    for process in processes:
        try:
            os.kill(process.pid, number)
        except OSError:
            continue
