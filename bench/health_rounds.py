"""From a fault in a machine's kernel log or NVML to what follows: the node drained, its job told, the agent's verdict."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.machine_gpus import Fault

from bench.evidence import read_slurmctld_log
from bench.health_idle import agent_url, until

WAITS_S = 40.0
READY_S = 3.0
"""After the agent is in service discovery: its first rounds of readings are over."""
SPREAD_S = 0.7
"""Between the faults of a round, so that they come at different moments between two heartbeats."""
_JOB = """\
#!/bin/sh
until [ -e "$HOLDFAST_JOB_DIR/node/notice.json" ]; do sleep 0.1; done
sleep 0.5
"""


@dataclass(frozen=True, slots=True)
class Reaction:
    """Seconds from the kernel's line."""

    drained_s: float
    """By slurmctld's log."""
    told_s: float
    """The job's notice.json is there."""


def reactions(directory: Path, rounds: int, say: Callable[[str], None]) -> list[Reaction]:
    """Return what XID 79 under a job led to, `rounds` times. Raises as Sandbox does, TimeoutError, LookupError, CalledProcessError."""
    config = SandboxConfig(nodes=4, zones=2, boot_delay_s=0.2, controller=default_controller(), gpu_profile="h100x1")
    with Sandbox(directory, config) as sandbox:
        script = directory.parent / "job.sh"
        script.write_text(_JOB)
        found = []
        for number in range(rounds):
            found.append(_reaction(sandbox, script))
            say(f"XID {number + 1} of {rounds}: drained after {found[-1].drained_s:.2f} s, job told after {found[-1].told_s:.2f} s")
        return found


def _reaction(sandbox: Sandbox, script: Path) -> Reaction:
    log = str(script.with_suffix(".out"))
    job_id = sandbox.run(["sbatch", "--parsable", "-p", PARTITION, "-o", log, str(script)]).stdout.strip()
    running = sandbox.slurm.await_job(int(job_id), {"RUNNING"}, WAITS_S)
    node = running["NodeList"]
    agent_url(sandbox, node)
    time.sleep(READY_S)
    gpus, notice = sandbox.gpus(node), sandbox.instances.directory(node) / "run" / "jobs" / f"{job_id}.0" / "node" / "notice.json"
    at = time.time()
    gpus.xid(79)
    until(notice.exists, f"job {job_id} to be told", WAITS_S)
    told = notice.stat().st_mtime
    log_file = sandbox.layout.log / "slurmctld.log"

    def drained() -> list[float]:
        lines = [line for line in read_slurmctld_log(log_file) if line.at >= at - 0.001]
        return [line.at for line in lines if f"update_node: node {node} state set to DRAIN" in line.text]

    until(lambda: bool(drained()), f"{node} to be drained", WAITS_S)
    return Reaction(drained()[0] - at, told - at)


def verdicts(directory: Path, faults: Sequence[Fault], say: Callable[[str], None]) -> list[tuple[Fault, float]]:
    """Return after how many seconds the agent called its node sick, for each fault on a machine of its own with 8 GPUs. Raises as above."""
    names = [f"{PARTITION}-{number + 1}" for number in range(len(faults))]
    config = SandboxConfig(nodes=len(names), zones=1, boot_delay_s=0.2, controller=default_controller(), gpu_profile="h100x8")
    with Sandbox(directory, config) as sandbox:
        sandbox.run(["scontrol", "update", f"nodename={','.join(names)}", "state=POWER_UP"])
        for name in names:
            agent_url(sandbox, name)
        time.sleep(READY_S)
        words = [sandbox.instances.directory(name) / "run" / "health" for name in names]
        began = []
        for name, fault in zip(names, faults, strict=True):
            began.append(time.time())
            sandbox.gpus(name).inject(fault)
            time.sleep(SPREAD_S)
        found = []
        for name, fault, word, at in zip(names, faults, words, began, strict=True):
            until(functools.partial(_is_sick, word), f"{name}'s verdict", WAITS_S)
            found.append((fault, word.stat().st_mtime - at))
            say(f"{fault}: sick after {found[-1][1]:.1f} s")
        return found


def _is_sick(word: Path) -> bool:
    return word.read_text().startswith("sick")
