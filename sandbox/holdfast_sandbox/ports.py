"""Ports for one sandbox: a run of consecutive port blocks, held by file locks for as long as the sandbox lives.

A lock is a `flock` on an open file: it goes with the last process that holds the file open, whatever kills that.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST_PORT = 20000
BLOCK_PORTS = 50
BLOCKS = 240
"""20000 to 31999: below Linux's ephemeral range (32768 and up), above the ports of common services."""

FIXED_PORTS = 8
"""slurmctld, the ordinary slurmd, the cloud, the controller, and some to spare; the CLOUD nodes' slurmd follow."""


class NoPortsError(Exception):
    """No run of free blocks is left."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Which port is whose."""

    first: int
    nodes: int

    @property
    def slurmctld(self) -> int:
        """The port of slurmctld."""
        return self.first

    @property
    def local_slurmd(self) -> int:
        """The port of the slurmd that is always on."""
        return self.first + 1

    @property
    def cloud(self) -> int:
        """The port of the simulated cloud (API, control, metadata)."""
        return self.first + 2

    @property
    def controller(self) -> int:
        """The port on which the controller answers agents."""
        return self.first + 3

    @property
    def metrics(self) -> int:
        """The port of the controller's metrics."""
        return self.first + 4

    @property
    def first_node(self) -> int:
        """The port of the slurmd of spot-1; spot-N is N - 1 above."""
        return self.first + FIXED_PORTS


@dataclass(slots=True)
class PortLease:
    """Locked blocks. Hand `fds` to the process that shall hold them, then `close` here."""

    ports: Ports
    fds: tuple[int, ...]

    def close(self) -> None:
        """Let go of this process's hold on the locks."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


def default_lock_directory() -> Path:
    """Return the directory of the lock files: one for each user of the machine."""
    return Path(tempfile.gettempdir()) / f"holdfast-sandbox-ports-{os.getuid()}"


def lease_ports(nodes: int, lock_directory: Path | None = None) -> PortLease:
    """Lock as many consecutive blocks as `nodes` CLOUD nodes need, all of whose ports can be bound now.

    Raises NoPortsError where there is no such run, PermissionError where the lock directory belongs to someone else.
    """
    directory = lock_directory or default_lock_directory()
    _make_private(directory)
    need = -(-(FIXED_PORTS + nodes) // BLOCK_PORTS)
    held: list[int] = []
    for block in range(BLOCKS):
        fd = _try_block(directory, block)
        if fd is None:
            _close(held)
            held = []
            continue
        held.append(fd)
        if len(held) == need:
            first = FIRST_PORT + (block - need + 1) * BLOCK_PORTS
            return PortLease(Ports(first, nodes), tuple(held))
    _close(held)
    raise NoPortsError(f"no {need} consecutive free blocks of {BLOCK_PORTS} ports from {FIRST_PORT} on; locks: {directory}")


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.is_symlink() or directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to someone else")


def _try_block(directory: Path, block: int) -> int | None:
    """Return the locked file of a block, or None where someone holds it or one of its ports is taken."""
    fd = os.open(directory / f"{block:03d}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    first = FIRST_PORT + block * BLOCK_PORTS
    if all(_bindable(port) for port in range(first, first + BLOCK_PORTS)):
        return fd
    os.close(fd)
    return None


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Slurm's and gRPC's own listeners do: a connection of a past sandbox in TIME_WAIT does not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
