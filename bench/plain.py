"""Plain Slurm, without any part of Holdfast, and with Slurm's own defaults: what an interruption and a first start cost there.

Its CLOUD nodes are real slurmd in namespaces of their own, which a ResumeProgram of a few lines starts.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import AgentSpec, SandboxConfig
from holdfast_sandbox.components import NODE_SCRIPTS
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.processes import with_environment
from holdfast_slurm.conf_settings import HOOKS

from bench.evidence import LogLine, read_slurmctld_log, registration
from bench.jobs import Job

DEFAULT_SLURMD_TIMEOUT_S = 300
SHORT_SLURMD_TIMEOUT_S = 10
COLD_STARTS = 4
APART_S = 6.0
"""Jobs are submitted this far apart, so that their waits for slurmctld's common 30 s tick differ."""
LONGEST_S = 240.0

SETTINGS = f"""\
PrologSlurmctld=/bin/true
KillWait=30
SlurmdTimeout={SHORT_SLURMD_TIMEOUT_S}
SchedulerParameters=sched_interval=60,bf_interval=30,batch_sched_delay=3,sched_min_interval=2
"""
"""Slurm's defaults in the place of `holdfast slurm-conf`'s values, but for SlurmdTimeout. The last of two lines counts."""

_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n"
_RESUME = """\
for node in $(scontrol show hostnames "$1"); do
  dir={root}/cloud/instances/$node
  mkdir -p "$dir"
  export HOLDFAST_SANDBOX_INSTANCE_ID="$node" HOLDFAST_SANDBOX_METADATA_URL=http://127.0.0.1:9/ HOLDFAST_SANDBOX_INSTANCE_DIR="$dir"
  export HOLDFAST_SANDBOX_DIR={root} HOLDFAST_SANDBOX_ETC={root}/etc HOLDFAST_SANDBOX_AGENT="/bin/sh {root}/etc/start.sh"
  setsid unshare --pid --mount --uts --fork --kill-child=KILL --mount-proc -- /bin/sh {scripts}/init.sh >/dev/null 2>&1 &
  outer=$!
  scontrol update nodename="$node" nodeaddr="127.77.0.${{node#{partition}-}}"
  # slurmctld kills our process group when we end: setsid must have happened by then.
  until [ "$(ps -o sid= -p $outer | tr -d ' ')" = $outer ]; do sleep 0.02; done
done
"""


@dataclass(frozen=True, slots=True)
class PlainOutcome:
    """Seconds, from the moment of the kill or of the requeue to the next first line."""

    registered_to_start_s: tuple[float, ...]
    dead_s: float
    """As measured, with SlurmdTimeout shortened."""
    dead_detection_s: float
    """Of it, until slurmctld declared the node down."""
    requeue_s: float
    """A bare `scontrol requeue` at the moment of the notice, its full delay waited for."""

    @property
    def dead_computed_s(self) -> float:
        """With the default SlurmdTimeout: at least the difference of the two later (slurmctld's pings are ten times rarer then, too)."""
        return self.dead_s + DEFAULT_SLURMD_TIMEOUT_S - SHORT_SLURMD_TIMEOUT_S


def write_plain_hooks(
    directory: Path, *, python: Path, controller_socket: Path, run_dir: Path, bin_dir: Path, slurm_conf: Path, nodes: str
) -> None:
    """Write a ResumeProgram that starts nodes by itself, and hooks that do nothing. Raises OSError."""
    root = directory.parent
    resume = _RESUME.format(root=root, scripts=NODE_SCRIPTS, partition=PARTITION)
    for name in HOOKS.values():
        body = f"export SLURM_CONF={slurm_conf}\n{resume}" if name == "resume" else "exit 0\n"
        path = directory / name
        path.write_text(f"#!/bin/sh\n{_PATH}{body}", encoding="utf-8")
        path.chmod(0o755)
    start = f'SLURM_CONF={slurm_conf} {NODE_SCRIPTS}/start_slurmd.sh "$HOLDFAST_SANDBOX_INSTANCE_ID"\nexec sleep 100000\n'
    (root / "etc" / "start.sh").write_text(start, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Signals:
    """Between this part, which runs in a thread of its own, and the other."""

    waiting: threading.Event = field(default_factory=threading.Event)
    """Set here, once only Slurm's own timers run: the machine is free for the other part."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set by the other part when it has failed: nothing more is waited for."""


def measure(directory: Path, folder: Path, signals: Signals, say: Callable[[str], None]) -> PlainOutcome:
    """Run all of plain Slurm's part. Raises as Sandbox does, TimeoutError, and InterruptedError when it is told to stop."""
    settings = f"{SETTINGS}AuthInfo=socket={directory / 'run' / 'munge.sock'}\n"
    config = SandboxConfig(
        nodes=COLD_STARTS,
        cloud=False,
        write_hooks=write_plain_hooks,
        agent=AgentSpec(("true",)),
        suspend_time_s=3600,
        extra_slurm_conf=settings,
    )
    try:
        with Sandbox(directory, config) as sandbox:
            if sandbox.layout.munge_socket != directory / "run" / "munge.sock":
                raise ValueError(f"the directory {directory} has too long a name")
            return _Plain(sandbox, folder, say, signals).run()
    finally:
        signals.waiting.set()


class _Plain:
    def __init__(self, sandbox: Sandbox, folder: Path, say: Callable[[str], None], signals: Signals) -> None:
        self._sandbox = sandbox
        self._signals = signals
        self._folder = folder
        self._say = say

    def run(self) -> PlainOutcome:
        jobs: list[tuple[int, Job]] = []
        for number in range(COLD_STARTS):
            job = Job(self._folder / f"plain-{number}", 1)
            # The first two stay, to be interrupted; the others leave their nodes up and idle for them.
            script = job.write_plain_script("exec sleep 100000" if number < 2 else "exit 0")
            jobs.append((self._submit(job, script), job))
            self._sleep(APART_S if number + 1 < COLD_STARTS else 0)
        for _, job in jobs:
            self._await_start(job, 0, 60)
        waits = [self._registered_to_start(job) for _, job in jobs]
        self._say(f"plain Slurm, no gate: started {', '.join(f'{wait:.1f}' for wait in waits)} s after registration")
        self._sleep(1.5)  # the two short jobs leave their nodes

        (_, dead), (requeued_id, requeued) = jobs[:2]
        killed_at = self._kill(dead.starts()[0].nodes[0])
        requeued_at = self._requeue(requeued_id, requeued.starts()[0].nodes[0])
        self._signals.waiting.set()
        requeue_s = self._await_start(requeued, 1, LONGEST_S) - requeued_at
        dead_s = self._await_start(dead, 1, LONGEST_S) - killed_at
        self._say(f"plain Slurm: dead node {dead_s:.1f} s, bare requeue {requeue_s:.1f} s")
        return PlainOutcome(tuple(waits), dead_s, self._declared_down(dead.starts()[0].nodes[0]) - killed_at, requeue_s)

    def _submit(self, job: Job, script: Path) -> int:
        return self._sandbox.slurm.submit("-p", PARTITION, "--exclusive", "-o", str(job.folder / "out.txt"), str(script))

    def _registered_to_start(self, job: Job) -> float:
        start = job.starts()[0]
        registered = registration(self._log(), start.nodes, 0.0, start.at)
        if registered is None:
            raise LookupError(f"slurmctld's log has no registration of {', '.join(start.nodes)}")
        return start.at - registered

    def _kill(self, node: str) -> float:
        """Take the machine away, as a power cut would: its init dies, and so all in its namespace."""
        directory = str(self._sandbox.layout.cloud / "instances" / node)
        init = next(pid for pid in with_environment("HOLDFAST_SANDBOX_INSTANCE_DIR", directory) if _is_init(pid))
        at = time.time()
        os.kill(init, signal.SIGKILL)
        return at

    def _requeue(self, job_id: int, node: str) -> float:
        at = time.time()
        self._sandbox.run(["scontrol", "update", f"nodename={node}", "state=DRAIN", "reason=the cloud's notice"])
        self._sandbox.run(["scontrol", "requeue", str(job_id)])
        return at

    def _declared_down(self, node: str) -> float:
        down = re.compile(rf"{re.escape(node)}\b.* not responding, setting DOWN")
        return next(line.at for line in self._log() if down.search(line.text))

    def _await_start(self, job: Job, attempt: int, timeout_s: float) -> float:
        ends = time.monotonic() + timeout_s
        while True:
            found = [start.at for start in job.starts() if start.attempt == attempt]
            if found:
                return found[0]
            if time.monotonic() > ends:
                raise TimeoutError(f"plain Slurm: attempt {attempt} of the job in {job.folder} did not start within {timeout_s:g} s")
            self._sleep(0.2)

    def _sleep(self, duration_s: float) -> None:
        if self._signals.stop.wait(duration_s):
            raise InterruptedError("the other part has failed")

    def _log(self) -> list[LogLine]:
        return read_slurmctld_log(self._sandbox.layout.log / "slurmctld.log")


def _is_init(pid: int) -> bool:
    """Whether the process is the first of a pid namespace (field NSpid of /proc/PID/status ends in 1: proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)
