"""What Holdfast does at rest: a controller with 100 nodes that are up and idle, and one real agent on its node.

Of the 100 nodes, Slurm's side is real: slurmctld and 100 slurmds, each in the namespaces of a simulated machine. Their agents are 100
streams of the agent's own client (`holdfast_nodeagent.link`: gRPC, munge, heartbeats), all in this process: 100 interpreters do not fit.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast_common.auth import MungeAuthenticator
from holdfast_common.channel import agent_channel
from holdfast_common.clock import SystemClock
from holdfast_common.munge import Munge
from holdfast_controller.tokens import make_token
from holdfast_nodeagent.link import Link
from holdfast_nodeagent.outbox import Outbox
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import AgentSpec, ControllerSpec, SandboxConfig, Site
from holdfast_sandbox.components import NODE_SCRIPTS, system_binary
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.layout import PARTITION

from bench.consumption import Memory, cpu_s, find, memory_mib
from bench.requests import own_timing

LONGEST_S = 240.0
SETTLES_S = 10.0

# In an agent's place: waits for the name that the stream brings, and starts slurmd.
_STAND_IN = """\
until [ -s "$HOLDFAST_SANDBOX_INSTANCE_DIR/name" ]; do sleep 0.5; done
{scripts}/start_slurmd.sh "$(cat "$HOLDFAST_SANDBOX_INSTANCE_DIR/name")"
exec sleep 1000000
"""


@dataclass(frozen=True, slots=True)
class Idle:
    """What a process took while nothing happened."""

    nodes: int
    over_s: float
    cpu_percent: float
    """Of one core, its scontrol and squeue included."""
    memory: Memory


def controller(directory: Path, nodes: int, over_s: float, say: Callable[[str], None]) -> dict[str, Idle]:
    """Return what the controller and, for comparison, slurmctld take. Raises as Sandbox does, TimeoutError, CalledProcessError."""
    spec = default_controller()
    config = SandboxConfig(
        nodes=nodes,
        boot_delay_s=0.5,
        zones=1,
        resume_timeout_s=600,
        suspend_time_s=3600,
        controller=own_timing(replace(spec, files=lambda site: _with_stand_in(spec, site))),
        agent=AgentSpec(("/bin/sh", "{root}/etc/stand-in.sh")),
    )
    with Sandbox(directory, config) as sandbox:
        return asyncio.run(_controller(sandbox, nodes, over_s, say))


def agent(directory: Path, over_s: float, say: Callable[[str], None]) -> Idle:
    """Return what one real agent takes on its node, and say so. Raises as Sandbox does, TimeoutError, CalledProcessError."""
    with Sandbox(directory, SandboxConfig(nodes=1, zones=1, suspend_time_s=3600, controller=default_controller())) as sandbox:
        sandbox.run(["scontrol", "update", f"nodename={PARTITION}-1", "state=POWER_UP"])
        asyncio.run(_until(lambda: _up(sandbox) == 1, "the agent's node"))
        time.sleep(SETTLES_S)
        instance = sandbox.layout.cloud / "instances" / sandbox.instances.instance_of(f"{PARTITION}-1")
        (pid,) = [pid for pid in find(["holdfast_nodeagent"]) if Path(f"/proc/{pid}/cwd").resolve() == instance]
        say(f"an agent at rest is watched for {over_s:g} s")
        return asyncio.run(_watch({"agent": pid}, 1, over_s))["agent"]


def _with_stand_in(spec: ControllerSpec, site: Site) -> Mapping[str, str]:
    return {**spec.files(site), "stand-in.sh": _STAND_IN.format(scripts=NODE_SCRIPTS)}


class _Listener:
    """One machine's stream: its name goes to the stand-in on the machine."""

    def __init__(self, hello: pb.Hello, directory: Path) -> None:
        self._hello = hello
        self._directory = directory

    def hello(self) -> pb.Hello:
        return self._hello

    def on_welcome(self, welcome: pb.Welcome) -> None:
        partial = self._directory / "name.new"
        partial.write_text(welcome.node, encoding="ascii")
        partial.rename(self._directory / "name")
        self._hello.node = welcome.node

    def on_prepare(self, prepare: pb.Prepare) -> None: ...

    def on_release(self, release: pb.Release) -> None: ...

    def on_hazard(self, hazard: pb.Hazard) -> None: ...

    def slurmd_running(self) -> bool:
        return True


async def _controller(sandbox: Sandbox, nodes: int, over_s: float, say: Callable[[str], None]) -> dict[str, Idle]:
    layout = sandbox.layout
    secret = (layout.controller_state / "secret").read_bytes()
    authenticator = MungeAuthenticator(Munge(str(layout.munge_socket)), SystemClock(), frozenset({0}))
    address = f"127.0.0.1:{sandbox.site.ports.controller}"
    tasks: dict[str, asyncio.Task[None]] = {}

    def link(machine: Mapping[str, Any]) -> Link:
        iid, launch_id = machine["instance_id"], machine["tags"]["holdfast:launch"]
        hello = pb.Hello(
            instance_id=iid,
            boot_id=secrets.token_hex(16),
            launch_token=make_token(secret, launch_id),
            address=machine["ip"],
            provider="aws",
        )
        listener = _Listener(hello, layout.cloud / "instances" / iid)
        channel = agent_channel(address, authenticator)
        return Link(lambda: channel, listener, Outbox(), SystemClock(), lambda: False, 30.0)

    try:
        await asyncio.to_thread(sandbox.run, ["scontrol", "update", f"nodename={PARTITION}-[1-{nodes}]", "state=POWER_UP"])

        def all_up() -> bool:
            for machine in sandbox.cloud.instances():
                if machine["state"] == "running" and machine["instance_id"] not in tasks:
                    tasks[machine["instance_id"]] = asyncio.get_running_loop().create_task(link(machine).run())
            return _up(sandbox) == nodes

        await _until(all_up, f"{nodes} nodes")
        say(f"{nodes} nodes are up; the controller at rest is watched for {over_s:g} s")
        await asyncio.sleep(SETTLES_S)
        (pid,) = find(["holdfast_controller", str(layout.controller_config)])
        # Not its scriptd, which is small and has the same command line.
        slurmctld = max(find([system_binary("slurmctld"), str(layout.slurm_conf)]), key=lambda pid: memory_mib(pid).rss)
        return await _watch({"controller": pid, "slurmctld": slurmctld}, nodes, over_s)
    finally:
        for task in tasks.values():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        authenticator.close()


async def _watch(pids: Mapping[str, int], nodes: int, over_s: float) -> dict[str, Idle]:
    began, before = time.monotonic(), {name: cpu_s(pid) for name, pid in pids.items()}
    await asyncio.sleep(over_s)
    passed_s = time.monotonic() - began
    return {name: Idle(nodes, passed_s, 100.0 * (cpu_s(pid) - before[name]) / passed_s, memory_mib(pid)) for name, pid in pids.items()}


def _up(sandbox: Sandbox) -> int:
    return sandbox.run(["sinfo", "-h", "-N", "-p", PARTITION, "-o", "%t"]).stdout.split().count("idle")


async def _until(holds: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"waited {LONGEST_S:g} s in vain for {what}")
        await asyncio.sleep(0.5)
