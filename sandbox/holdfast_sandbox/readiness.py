"""When a component of a sandbox counts as ready, and what is said when it does not become so."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.components import CLOUD, CONTROLLER, LOCAL_SLURMD, MUNGED, SLURMCTLD, daemon_environment
from holdfast_sandbox.layout import LOCAL_NODE
from holdfast_sandbox.processes import accepts_connections
from holdfast_sandbox.supervisor_client import SupervisorClient

_POLL_S = 0.05
_TAIL_LINES = 25
_TAIL_BYTES = 16384


class NotReadyError(Exception):
    """A component ended or was not ready in time; the message names it and ends with the tail of its log."""


def is_ready(site: Site, name: str) -> bool:
    """Ask a component, positively: it must answer, not merely run."""
    if name == MUNGED:
        return accepts_connections(site.layout.munge_socket)
    if name == SLURMCTLD:
        return _output(site, "scontrol", "ping") is not None
    if name == CLOUD:
        return site.layout.cloud_ready.exists()
    if name == CONTROLLER:
        return accepts_connections(site.layout.controller_socket)
    return _output(site, "sinfo", "--noheader", "--Node", f"--nodes={LOCAL_NODE}", "--format=%t") in ("idle", "mix", "alloc")


def await_ready(site: Site, names: Sequence[str], deadline: float) -> None:
    """Return when every component named is ready. `deadline` is time.monotonic(). Raises NotReadyError, SupervisorError."""
    supervisor = SupervisorClient(site.layout.supervisor_socket)
    waiting = list(names)
    while True:
        waiting = [name for name in waiting if not is_ready(site, name)]
        if not waiting:
            return
        status = supervisor.status()
        for name in waiting:
            if status[name]["state"] != "running":
                raise NotReadyError(f"{name} ended (exit status {status[name]['exit']}){describe_logs(site, name)}")
        if time.monotonic() > deadline:
            raise NotReadyError(f"{waiting[0]} was not ready in time{describe_logs(site, waiting[0])}")
        time.sleep(_POLL_S)


def await_first_look(site: Site, deadline: float) -> None:
    """Return when the controller has looked at Slurm and at every cloud. `deadline` is time.monotonic(). Raises NotReadyError."""
    command = [sys.executable, "-m", "holdfast_sandbox.first_look", str(site.layout.controller_socket)]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=max(0.1, deadline - time.monotonic()), check=True)
    except subprocess.SubprocessError as fault:
        raise NotReadyError(f"the controller does not see Slurm and the clouds: {fault}{describe_logs(site, CONTROLLER)}") from fault


def log_files(site: Site, name: str) -> list[Path]:
    """Return where a component writes, most telling first."""
    log = site.layout.log
    if name == SLURMCTLD:
        return [log / f"{name}.log", log / f"{name}.out"]
    if name == LOCAL_SLURMD:
        return [site.layout.local_run / "slurmd.log", log / f"{name}.out"]
    return [log / f"{name}.log"]


def describe_logs(site: Site, name: str) -> str:
    """Return the end of a component's logs as an appendix to an error message."""
    return "".join(f"\n--- end of {path}\n{tail(path)}" for path in log_files(site, name))


def tail(path: Path) -> str:
    """Return the last lines of a file; says so where it is missing or empty."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as fault:
        return f"({fault.strerror})"
    return "\n".join(text.splitlines()[-_TAIL_LINES:]) or "(empty)"


def _output(site: Site, *command: str) -> str | None:
    """Return what a short command prints, stripped; None where it fails or takes long."""
    env = daemon_environment(site)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()
