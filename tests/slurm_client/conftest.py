"""A real, throw-away munge + slurmctld with CLOUD nodes, and one face for it and for the fake.

Everything real lives in one pid namespace whose init reads commands from our pipe: when this process ends, however it ends, the pipe
closes, the init leaves, and the kernel ends the rest. A node is a nested namespace, so that one SIGKILL takes it away whole.
"""

import asyncio
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.views import JobView, NodeView
from holdfast_slurm.client import Slurm
from holdfast_slurm.fake import FakeSettings, FakeSlurm
from holdfast_slurm.scontrol import ScontrolClient

NAMES = ("spot-1", "spot-2", "spot-3")
RUNS = "trap 'echo got >>signals' USR1; while :; do [ -e end-$SLURM_JOB_ID ] && exit $(cat end-$SLURM_JOB_ID); sleep 0.1; done"

INIT = r"""
hostname ctl; cd "$1" || exit 1
munged -F --force --key-file="$1/munge.key" --socket="$1/munge.sock" --pid-file="$1/munged.pid" \
    --log-file="$1/munged.log" --seed-file="$1/munged.seed" >"$1/munged.out" 2>&1 &
for _ in $(seq 100); do [ -S "$1/munge.sock" ] && break; sleep 0.05; done
slurmctld -D -i -f "$1/slurm.conf" >"$1/slurmctld.out" 2>&1 & ctl=$!
declare -A pids
while read -r verb name; do
  case "$verb" in
    boot) # as the sandbox's start_slurmd.sh does, and says why
          case $(cut -d. -f2 /proc/uptime) in [7-9]*) sleep 0.3 ;; esac
          setsid unshare --pid --uts --fork --kill-child=KILL --mount-proc \
            sh -c 'hostname "$2"; exec slurmd -D -b -f "$1/slurm.conf" -N "$2"' sh "$1" "$name" >"$1/$name.out" 2>&1 </dev/null &
          pids[$name]=$! ;;
    kill) kill -9 "${pids[$name]}" ;;
    stop-slurmctld) kill -9 "$ctl" ;;
  esac
done
"""

CONF = """
ClusterName=hf
SlurmctldHost=ctl(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge.sock
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd-%n.log
SlurmctldParameters=cloud_dns,idle_on_node_suspend,power_save_interval=1,power_save_min_interval=0
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
SwitchType=switch/none
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PrivateData=cloud
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
TreeWidth=65533
KillWait=2
MessageTimeout=3
SlurmdTimeout=300
SuspendTime=3600
SuspendTimeout=2
ResumeTimeout=60
ResumeRate=0
SuspendRate=0
ResumeProgram={dir}/resume
SuspendProgram={dir}/suspend
JobRequeue=1
NodeName=spot-[1-{nodes}] CPUs=4 State=CLOUD NodeAddr=127.0.0.1 Port={first}-{last}
PartitionName=spot Nodes=spot-[1-{nodes}] Default=YES MaxTime=INFINITE OverSubscribe=EXCLUSIVE State=UP
"""


class Cluster:
    """A running slurmctld: where its configuration is, and how to boot, kill and submit."""

    def __init__(self, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self.directory = directory
        self.conf = directory / "slurm.conf"
        self.process = process
        self.environment = {"SLURM_CONF": str(self.conf), "PATH": "/usr/bin:/bin"}

    def tell(self, line: str) -> None:
        """Give the init of the namespace one command."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, *argv: str) -> str:
        """Run one of Slurm's commands and return its output; a failure fails the test."""
        done = subprocess.run(argv, check=False, env=self.environment, capture_output=True, text=True, timeout=15, cwd=self.directory)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def sbatch(self, *options: str, script: str = RUNS) -> str:
        """Submit a batch job and return its id."""
        return self.run("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", script).strip().split(";")[0]


def free_ports(count: int) -> int:
    """Return the first of `count` loopback ports between 30100 and 30200 that nobody listens on."""
    blocks = 100 // count
    for index in range(blocks):
        first = 30100 + (os.getpid() + index) % blocks * count
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError("no free ports between 30100 and 30200")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def start(directory: Path) -> Cluster:
    port = free_ports(len(NAMES) + 1)
    (directory / "state").mkdir()
    (directory / "munge.key").write_bytes(os.urandom(64))
    (directory / "munge.key").chmod(0o400)
    for hook in ("resume", "suspend"):
        (directory / hook).write_text(f'#!/bin/sh\necho "{hook} $1" >>{directory}/hooks.log\n')
        (directory / hook).chmod(0o755)
    conf = CONF.format(dir=directory, port=port, first=port + 1, last=port + len(NAMES), nodes=len(NAMES))
    (directory / "slurm.conf").write_text(conf)
    unshare = ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--mount-proc"]
    process = subprocess.Popen([*unshare, "bash", "-c", INIT, "init", str(directory)], stdin=subprocess.PIPE)
    cluster = Cluster(directory, process)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if subprocess.run(["scontrol", "ping"], check=False, env=cluster.environment, capture_output=True, timeout=30).returncode == 0:
            return cluster
        time.sleep(0.1)
    stop(cluster)
    raise RuntimeError((directory / "slurmctld.out").read_text())


def stop(cluster: Cluster) -> None:
    assert cluster.process.stdin is not None
    cluster.process.stdin.close()
    try:
        cluster.process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        cluster.process.kill()
        cluster.process.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A fresh cluster (0.2 s). Its path is short: a unix socket's may not exceed 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hf-sc-") as directory:
        running = start(Path(directory))
        try:
            yield running
        finally:
            stop(running)


@pytest.fixture
def client(cluster: Cluster) -> ScontrolClient:
    return ScontrolClient(Path("/usr/bin"), cluster.conf, 20.0)


class World:
    """What the contract needs beyond the protocol itself. Two implementations, below."""

    slurm: Slurm

    def boot(self, name: str) -> None:
        """Let a machine of this name start its slurmd."""
        raise NotImplementedError

    def kill(self, name: str) -> None:
        """Take the machine away without a word."""
        raise NotImplementedError

    def submit(self, num_nodes: int = 1, *, requeue: bool = True, tasks: int = 0, comment: str = "", stubborn: bool = False) -> str:
        """Queue a job that runs until `finish`; a stubborn one takes no notice of SIGTERM."""
        raise NotImplementedError

    def finish(self, key: str, exit_code: int) -> None:
        """Let the job's script exit."""
        raise NotImplementedError

    def signalled(self, key: str) -> bool:
        """Return whether the batch script caught USR1."""
        raise NotImplementedError

    def admin_comment(self, key: str) -> str:
        """Return the job's AdminComment as Slurm has it."""
        raise NotImplementedError

    def hooks(self) -> list[str]:
        """Return what hooks were called, such as `resume spot-1`."""
        raise NotImplementedError

    def slow(self) -> None:
        """Let commands take a while, as real ones do."""

    async def pause(self, duration_s: float) -> None:
        raise NotImplementedError

    async def until(self, check: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
        for _ in range(int(within_s / 0.2)):
            if await check():
                return
            await self.pause(0.2)
        raise AssertionError(f"not within {within_s} s; jobs {await self.slurm.jobs()}; nodes {await self.slurm.nodes()}")

    async def node(self, name: str) -> NodeView:
        (view,) = await self.slurm.nodes([name])
        return view

    async def job(self, key: str) -> JobView:
        view = await self.slurm.job(key)
        assert view is not None
        return view

    async def is_state(self, key: str, state: str) -> None:
        async def check() -> bool:
            view = await self.slurm.job(key)
            return view is not None and (view.state, view.completing) == (state, False)

        await self.until(check)

    async def bring_up(self, *names: str) -> None:
        """Power nodes up, the way it goes without a job."""
        await self.slurm.power_up(list(names))

        async def powering() -> bool:
            return all("POWERING_UP" in view.flags for view in await self.slurm.nodes(list(names)))

        async def up() -> bool:
            return all(view.up for view in await self.slurm.nodes(list(names)))

        await self.until(powering)
        for name in names:
            self.boot(name)
        await self.until(up)


class RealWorld(World):
    def __init__(self, cluster: Cluster, client: ScontrolClient) -> None:
        self.cluster, self.slurm = cluster, client

    def boot(self, name: str) -> None:
        self.cluster.tell(f"boot {name}")

    def kill(self, name: str) -> None:
        self.cluster.tell(f"kill {name}")

    def submit(self, num_nodes: int = 1, *, requeue: bool = True, tasks: int = 0, comment: str = "", stubborn: bool = False) -> str:
        options = [f"-N{num_nodes}", "--requeue" if requeue else "--no-requeue", "-D", str(self.cluster.directory), "--comment", comment]
        script = f"trap '' TERM; {RUNS}" if stubborn else RUNS
        return self.cluster.sbatch(*options, *([f"--array=1-{tasks}"] if tasks else []), script=script)

    def finish(self, key: str, exit_code: int) -> None:
        (self.cluster.directory / f"end-{key}").write_text(str(exit_code))

    def signalled(self, key: str) -> bool:
        return (self.cluster.directory / "signals").exists()

    def admin_comment(self, key: str) -> str:
        record = self.cluster.run("scontrol", "show", "job", key, "-o")
        return record.partition(" AdminComment=")[2]

    def hooks(self) -> list[str]:
        log = self.cluster.directory / "hooks.log"
        return log.read_text().splitlines() if log.exists() else []

    async def pause(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


class FakeWorld(World):
    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        settings = FakeSettings(suspend_timeout_s=2.0, resume_timeout_s=60.0, message_timeout_s=3.0, max_commands=16)
        self.called: list[str] = []
        self.fake = FakeSlurm(clock, NAMES, settings, on_resume=self._record("resume"), on_suspend=self._record("suspend"))
        self.slurm = self.fake

    def _record(self, hook: str) -> Callable[[tuple[str, ...]], Awaitable[None]]:
        async def called(names: tuple[str, ...]) -> None:
            self.called.append(f"{hook} {','.join(names)}")

        return called

    def boot(self, name: str) -> None:
        self.fake.node_booted(name)

    def kill(self, name: str) -> None:
        self.fake.node_dies(name)

    def submit(self, num_nodes: int = 1, *, requeue: bool = True, tasks: int = 0, comment: str = "", stubborn: bool = False) -> str:
        stop_s = 2.0 if stubborn else None
        return self.fake.submit(num_nodes, requeue=requeue, array_tasks=range(1, tasks + 1), comment=comment, stop_s=stop_s)

    def finish(self, key: str, exit_code: int) -> None:
        self.fake.finish(key, exit_code)

    def signalled(self, key: str) -> bool:
        return [(name, batch) for _, name, batch in self.fake.fake_job(key).signals] == [("USR1", True)]

    def admin_comment(self, key: str) -> str:
        return self.fake.fake_job(key).admin_comment

    def hooks(self) -> list[str]:
        return self.called

    def slow(self) -> None:
        self.fake.slow_s = 0.2

    async def pause(self, duration_s: float) -> None:
        await self.clock.advance(duration_s)


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.slurm, pytest.mark.timeout(60)])])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The fake, then the real thing."""
    if request.param == "real":
        yield RealWorld(request.getfixturevalue("cluster"), request.getfixturevalue("client"))
        return
    fake_world = FakeWorld(VirtualClock())
    async with fake_world.fake:
        yield fake_world
