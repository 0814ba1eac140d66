"""Processes seen from the machine on which a sandbox runs: identity that survives pid reuse, and certain death."""

import os
import select
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for all time: its pid, and when it started (clock ticks since boot, field 22 of /proc/PID/stat)."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the identity of a living process (a zombie counts as gone), or None."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = text[text.rindex(")") + 2 :].split()  # the name in parentheses may hold anything
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def kill(self, timeout_s: float) -> bool:
        """Send SIGKILL and wait; return whether it is gone (harmless where it was). Raises PermissionError.

        For the init of a pid namespace that means that every process in it is gone: the kernel ends an init last.
        """
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive():  # asked after the open: the descriptor cannot come to mean another process
                return self._wait(fd, timeout_s)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            return self._wait(fd, timeout_s)
        finally:
            os.close(fd)

    def _wait(self, fd: int, timeout_s: float) -> bool:
        if ProcessId.of(self.pid) not in (self, None):
            return True  # the pid belongs to someone else by now
        readable, _, _ = select.select([fd], [], [], timeout_s)
        return bool(readable)


def listener_pid(socket_path: Path) -> int:
    """Return the pid, as seen from here, of the process that listens on a unix socket. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5.0)
        connection.connect(str(socket_path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    return int(pid)


def accepts_connections(socket_path: Path) -> bool:
    """Whether someone listens on a unix socket."""
    try:
        listener_pid(socket_path)
    except OSError:
        return False
    return True


def with_environment(name: str, value: str) -> list[int]:
    """Return the pids of processes that were started with `name=value` in their environment (as far as we may look)."""
    wanted = f"{name}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def command_line(pid: int) -> list[str]:
    """Return a process's arguments; empty where it is gone or a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []
