"""What `holdfast doctor` looks at: the running configuration, files and sockets. Reading only."""

import os
import re
import socket
import stat
import subprocess
from pathlib import Path

from holdfast_common.errors import SlurmUnavailable

_ASK_S = 20.0
_PAIR = re.compile(r"^(\w+)(?:\[\d+\])?\s*=\s?(.*)$")


class SlurmProbe:
    """Asks slurmctld through `scontrol`. Raises SlurmUnavailable where it does not answer in 20 s."""

    def __init__(self, bin_dir: Path, slurm_conf: Path) -> None:
        self._scontrol = str(bin_dir / "scontrol")
        self._environ = {"SLURM_CONF": str(slurm_conf), "LC_ALL": "C"}

    def config(self) -> dict[str, str]:
        """Return the running configuration. A key that has several values (Prolog, from 23.11 on) has them joined by commas."""
        found = parse_config(self._run("show", "config"))
        if "SLURM_VERSION" not in found:
            raise SlurmUnavailable("`scontrol show config` names no version")
        return found

    def partition(self, name: str) -> dict[str, str] | None:
        """Return a partition's fields, None where there is none of that name."""
        try:
            text = self._run("-o", "show", "partition", name)
        except SlurmUnavailable as error:
            if "not found" in str(error):
                return None
            raise
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._scontrol, *arguments], env=self._environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SlurmUnavailable(str(error)) from None
        if done.returncode != 0:
            raise SlurmUnavailable((done.stdout + done.stderr).decode("utf-8", "replace").strip()[:500])
        return done.stdout.decode("utf-8", "replace")


def parse_config(text: str) -> dict[str, str]:
    """Return the `Key = value` lines of `scontrol show config`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _PAIR.match(line):
            key, value = match[1], match[2].strip()
            found[key] = f"{found[key]},{value}" if key in found else value
    return found


def unsafe_path(path: Path, trusted: set[int]) -> str | None:
    """Return why a program must not be run with privilege: missing, no program, or in reach of others. None where it is safe.

    It and every directory above it must belong to `trusted` users and be writable by nobody else (a sticky directory may be).
    """
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{error.strerror}"
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        return "not an executable file"
    for place in (path, *path.resolve().parents):
        status = os.stat(place)
        sticky = bool(status.st_mode & stat.S_ISVTX) and stat.S_ISDIR(status.st_mode)
        if status.st_uid not in trusted:
            return f"{place} belongs to uid {status.st_uid}"
        if status.st_mode & 0o022 and not sticky:
            return f"{place} can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def silent_socket(path: Path) -> str | None:
    """Return why nobody can be reached on a unix stream socket, None where somebody listens."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2.0)
            client.connect(str(path))
    except OSError as error:
        return error.strerror or str(error)
    return None


def silent_controller(path: Path, timeout_s: float = 3.0) -> str | None:
    """Return why no gRPC server answers on a unix socket, None where one does."""
    fault = silent_socket(path)
    if fault is not None:
        return fault
    import grpc

    from holdfast_slurm.hooks.caller import connect

    channel = connect(path)
    try:
        grpc.channel_ready_future(channel).result(timeout_s)
    except grpc.FutureTimeoutError:
        return f"no answer within {timeout_s:g} s"
    finally:
        channel.close()
    return None
