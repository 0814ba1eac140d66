"""How a hook calls the controller: gRPC over its unix socket, imported late, quiet, and never for long."""

import argparse
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from holdfast_common.errors import HoldfastError

from holdfast_slurm.hooks.log import HookLog

if TYPE_CHECKING:
    import grpc
    from holdfast_protos.v1.hook_pb2_grpc import HookServiceStub

ANSWER_S = 0.5
"""How long the controller has for its answer. Start and imports take 0.2 s of CPU more: the hook is back within a second."""

ANSWER_BUSY_S = 1.5
"""The same on a machine that is so busy that the start took longer."""

END_S = 5.0
"""The process ends at this age, whatever hangs (the system log, a full disk)."""

_CHANNEL_OPTIONS = (
    # without these, a channel that failed once waits up to two minutes before it tries again
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a hook: its node list, whom to call, and the time that it has."""

    nodes: str
    socket: Path
    log: HookLog
    started: float
    """On the clock of time.monotonic."""

    def left_s(self) -> float:
        """Return the seconds that the controller has for its answer: as long as we took to start, within bounds."""
        return min(max(ANSWER_S, time.monotonic() - self.started), ANSWER_BUSY_S)


def run(hook: str, send: Callable[[Call], None], arguments: Sequence[str] | None = None) -> int:
    """Run `send`; return 0 always.

    What the controller did not take is not lost: its reconcile finds it in Slurm. A hook that failed or waited instead
    would only hold slurmctld up (from 23.02 it also delays reconfiguration and is killed by a time-out).
    """
    parsed = parse_arguments(hook, arguments)
    log = HookLog(hook, parsed.log)
    started = time.monotonic() - process_age_s()
    watchdog(log, started + END_S - time.monotonic())
    call = Call(parsed.nodes, parsed.socket, log, started)
    try:
        send(call)
    except HoldfastError as error:
        log.note(f"nothing sent for {call.nodes[:200]!r}: {error}")
    except Exception as error:  # a hook has nobody to raise to
        log.note(f"not taken by the controller for {call.nodes[:200]!r}: {describe(error)}")
    return 0


def leave(status: int) -> None:
    """End the process at once: gRPC's threads are not waited for."""
    os._exit(status)


def parse_arguments(hook: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return socket, log and nodes of a hook that gets its node list as its argument."""
    parser = argparse.ArgumentParser(prog=f"holdfast-{hook}", allow_abbrev=False)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("nodes", nargs="?", default="")
    return parser.parse_args(arguments)


def process_age_s() -> float:
    """Return how long this process has lived, to about 0.01 s; 0 where the kernel does not tell."""
    try:
        text = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(text.rpartition(")")[2].split()[19])  # starttime, after the name in brackets (proc(5))
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return age_s if 0 <= age_s < END_S else 0.0  # else the clocks do not agree (containers)


def watchdog(log: HookLog, left_s: float) -> None:
    """End the process with status 0 after `left_s`, wherever it hangs."""

    def end() -> None:
        time.sleep(left_s)
        log.emergency("not done in time: left to the controller's reconcile")
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()


def connect(socket: Path) -> "grpc.Channel":
    """Return a channel to the controller's unix socket. It connects when it is used."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import grpc

    return grpc.insecure_channel(f"unix:{quote(str(socket))}", options=_CHANNEL_OPTIONS)


def stub(channel: "grpc.Channel") -> "HookServiceStub":
    """Return the hook service on a channel."""
    from holdfast_protos.v1.hook_pb2_grpc import HookServiceStub

    return HookServiceStub(channel)


def describe(error: Exception) -> str:
    """Return a gRPC error as its code and details, any other as its type and text."""
    import grpc

    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
