"""The hooks under a real slurmctld and two real slurmd: what each is given, when it runs, and what the job sees.

Everything runs below one `unshare` with a pid namespace of its own, so that nothing is left when it is killed.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from holdfast_slurm import cli
from holdfast_slurm.conf import parse_version, render_slurm_conf
from holdfast_slurm.conf_settings import NodeGroup, SlurmSettings
from holdfast_slurm.scontrol import ScontrolClient
from holdfast_slurm.site import Site
from typer.testing import CliRunner

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]

NODES = ("spot-1", "spot-2")
NOBODY = 65534
BASE = """\
ClusterName=hooks
SlurmctldHost=ctl(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/ctld.log
SlurmdLogFile={root}/%n.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SlurmctldParameters=cloud_dns
{by_version}
"""
CONTROL = """\
set -eu
hostname ctl
cd {root}
munged -F --force --key-file=key --socket=m.sock --pid-file=m.pid --log-file=m.log --seed-file=m.seed &
while [ ! -S m.sock ]; do sleep 0.05; done
exec slurmctld -D -f {root}/slurm.conf
"""
NODE = """\
set -eu
mount --make-rprivate /
mkdir -p {root}/{node}/jobs {root}/run
mount --bind {root}/{node} {root}/run
hostname {node}
case $(cut -d. -f2 /proc/uptime) in [7-9]*) sleep 0.3 ;; esac  # as start_slurmd.sh does, and says why
exec slurmd -D -b -f {root}/slurm.conf -N {node}
"""
JOB = """\
#!/bin/bash
echo "start $(date +%s.%N)"
echo "batch ${SLURM_RESTART_COUNT-unset} $HOLDFAST_JOB_DIR"
srun bash -c 'echo "step $SLURMD_NODENAME $HOLDFAST_JOB_DIR"; echo "{}" > "$HOLDFAST_JOB_DIR/job/rank.$SLURM_PROCID.json"; sleep 0.2'
echo "ready"
[ -n "${SLURM_RESTART_COUNT-}" ] || exec sleep 600
"""


def free_ports() -> int:
    """The first of three free ports."""
    for _ in range(200):
        first = random.randrange(30300, 30397)
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@dataclass
class Lab:
    root: Path
    port: int
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def client(self) -> ScontrolClient:
        return ScontrolClient(Path("/usr/bin"), self.conf)

    def contain(self, script: str) -> None:
        command = ["unshare", "--pid", "--uts", "--mount", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", script]
        output = (self.root / "output.log").open("ab")
        self.processes.append(subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True))
        output.close()

    def start_node(self, node: str) -> None:
        self.contain(NODE.format(root=self.root, node=node))

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)  # unshare is deaf to TERM; its child, init of the namespace, dies with it
            process.wait()

    async def run(self, *command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={"SLURM_CONF": str(self.conf), "PATH": "/usr/bin:/bin"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    def output(self, prefix: str) -> list[list[str]]:
        path = self.root / "out" / "1"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split() for line in lines if line.startswith(prefix)]

    def told(self) -> str:
        """What the daemons printed last, and what slurmctld shows."""
        shown = subprocess.run(
            ["scontrol", "show", "nodes", "-o"], check=False, env={"SLURM_CONF": str(self.conf)}, capture_output=True, text=True
        )
        logs = [self.root / "output.log", *self.root.glob("*.log")]
        return "\n".join([shown.stdout, *(line for path in logs for line in path.read_text(errors="replace").splitlines()[-40:])])

    def jobs(self, node: str) -> list[str]:
        return sorted(os.listdir(self.root / node / "jobs"))


@pytest.fixture
async def lab(hooks, controller):
    version = parse_version((await (await asyncio.create_subprocess_exec("slurmctld", "-V", stdout=-1)).communicate())[0].decode())
    lab = Lab(hooks.root, free_ports())
    group = NodeGroup("spot", 2, 2, 100, first_port=lab.port + 1)
    settings = SlurmSettings(
        version, hooks.root / "hooks", (group,), resume_timeout_s=60, suspend_timeout_s=20, munge_socket=hooks.root / "m.sock",
        cloud_dns=True, sandbox=True,
    )  # fmt: skip
    hooks.install(nodes="spot-[1-2]")
    Site(settings=settings, controller_socket=hooks.socket, run_dir=hooks.root / "run", bin_dir=Path("/usr/bin"), slurm_conf=lab.conf).save(
        settings.hooks_dir
    )
    by_version = "SwitchType=switch/none\nTaskPlugin=task/none" if version < (23, 2) else ""
    text = BASE.format(port=lab.port, root=lab.root, by_version=by_version) + render_slurm_conf(settings)
    lab.conf.write_text(text.replace("NodeName=spot-[1-2]", "NodeName=spot-[1-2] NodeAddr=127.0.0.1"))
    (lab.root / "key").write_bytes(os.urandom(64))
    (lab.root / "key").chmod(0o400)
    for name, mode in {"state": 0o755, "out": 0o777, "run": 0o755}.items():
        (lab.root / name).mkdir()
        (lab.root / name).chmod(mode)
    lab.contain(CONTROL.format(root=lab.root))
    try:
        yield lab
    finally:
        lab.stop()


async def until(what, within_s=40.0, told=lambda: ""):
    ends = time.monotonic() + within_s
    while True:
        found = what()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < ends, f"not within {within_s} s: {what}\n{told()}"
        await asyncio.sleep(0.1)


async def submit(lab, script):
    command = ["sbatch", "-p", "spot", "-N2", f"--uid={NOBODY}", "-D", "/tmp", "--open-mode=append", "-o", f"{lab.root}/out/%j"]
    await lab.run(*command, "--job-name=x Restarts=9", str(script))


async def requeue(lab):
    await lab.run("scontrol", "requeue", "1")

    async def pending():
        job = await lab.client.job("1")
        return job is not None and job.pending

    await until(pending)


async def test_a_job_through_two_attempts(lab, hooks, controller):
    await until(lab.client.ping)
    script = lab.root / "job.sh"
    script.write_text(JOB)
    script.chmod(0o755)
    controller.gate.clear()
    await submit(lab, script)

    def called(name):
        return [call for call in controller.calls if type(call).__name__ == name]

    (resume,) = await until(lambda: called("ResumeRequest"))
    assert sorted(resume.nodes) == list(NODES)
    assert [(job.job_id, sorted(job.nodes)) for job in resume.jobs] == [(1, list(NODES))], "from SLURM_RESUME_FILE"
    (gate,) = await until(lambda: called("AwaitNodesRequest"))
    assert (gate.job_id, sorted(gate.nodes)) == (1, list(NODES))

    (lab.root / NODES[0]).mkdir()
    (lab.root / NODES[0] / "health").write_text(f"sick {int(time.time()) + 600}\nhealth: xid_79 on GPU-1\n")
    for node in NODES:
        lab.start_node(node)

    async def all_up():
        nodes = await lab.client.nodes(NODES)
        return len(nodes) == 2 and all(node.up for node in nodes)

    await until(all_up, told=lab.told)
    assert "health_check failed: rc:1 output:holdfast: health: xid_79 on GPU-1" in (lab.root / f"{NODES[0]}.log").read_text(), (
        "and it is up"
    )
    assert "health_check failed" not in (lab.root / f"{NODES[1]}.log").read_text()
    released = time.time()
    controller.gate.set()
    await until(lambda: lab.output("ready"))
    ((_, started),) = lab.output("start")
    latency_s = float(started) - released
    print(f"from the gate's READY to the first line of the batch script: {latency_s:.2f} s")
    assert latency_s < 8.0

    first = f"{lab.root}/run/jobs/1.0"
    assert lab.output("batch") == [["batch", "unset", first]]
    assert sorted(lab.output("step")) == [["step", node, first] for node in NODES]
    for rank, node in enumerate(NODES):
        place = lab.root / node / "jobs" / "1.0"
        context = json.loads((place / "node" / "context.json").read_text())
        assert context == {"v": 1, "job_id": 1, "attempt": 0, "node": node, "nodes": list(NODES)}
        assert (place / "job").stat().st_uid == NOBODY
        assert os.listdir(place / "job") == [f"rank.{rank}.json"]

    await requeue(lab)
    assert [lab.jobs(node) for node in NODES] == [[".gone-1.0", "1.1"]] * 2, "Epilog ran on both"
    await lab.run("scontrol", "update", "jobid=1", "StartTime=now+1")
    await until(lambda: len(lab.output("ready")) == 2)
    second = f"{lab.root}/run/jobs/1.1"
    assert lab.output("batch")[1] == ["batch", "1", second]
    assert sorted(lab.output("step")[2:]) == [["step", node, second] for node in NODES]
    assert len(called("AwaitNodesRequest")) == 1, "its nodes were up: the gate's first look is enough"
    await until(lambda: [lab.jobs(node) for node in NODES] == [[".gone-1.0", ".gone-1.1"]] * 2)
    assert (lab.root / NODES[1] / "jobs" / ".gone-1.1" / "job" / "rank.1.json").exists(), "the last words can still be read"
    await doctor_says_all_well(lab, hooks)
    assert hooks.log == ""


async def doctor_says_all_well(lab, hooks):
    arguments = ["--bin-dir", "/usr/bin", "--slurm-conf", str(lab.conf), "--socket", str(hooks.socket)]
    done = await asyncio.to_thread(CliRunner().invoke, cli.doctor_app, arguments)
    assert (done.exit_code, done.stdout) == (0, "all well\n"), done.stdout + done.stderr


async def test_every_attempt_of_a_job_that_soon_comes_back_has_its_directory(lab, controller):
    """slurmd 22.05 skips the Prolog of about every other of these runs."""
    for node in NODES:
        lab.start_node(node)
    await until(lab.client.ping)
    script = lab.root / "job.sh"
    script.write_text(JOB.replace('[ -n "${SLURM_RESTART_COUNT-}" ] || ', ""))
    script.chmod(0o755)
    await submit(lab, script)
    for attempt in range(6):
        await until(lambda ready=attempt + 1: len(lab.output("ready")) == ready)
        await requeue(lab)
        await lab.run("scontrol", "update", "jobid=1", "StartTime=now+1")
    directories = [f"{lab.root}/run/jobs/1.{attempt}" for attempt in range(6)]
    assert [line[2:] for line in lab.output("batch")[:6]] == [[each] for each in directories]
    assert sorted(lab.output("step")[:12]) == sorted([["step", node, each] for node in NODES for each in directories])
