"""Our side of a large launch: a real job, slurmctld, hook, controller and boto3. The machines are ordered and never boot; their agents'
streams come from the bench's process, all at the moment when the last id is durable, as if every machine had booted in no time.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import SandboxConfig, Site
from holdfast_sandbox.defaults import default_controller, default_policy
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.record import read_record

from bench.arrivals import arrive, loop
from bench.launch_types import JournalTail, Launch, Setting, await_, check_addresses, hook_began
from bench.requests import own_timing, write_timed_hooks

SIDES = {"Holdfast, one pool (RunInstances)": 1, "Holdfast, three pools (CreateFleet)": 3}
"""How many zones there are to choose from, each with room for all."""
SETTLES_S = 2.0


def launch(directory: Path, setting: Setting, nodes: int, side: str, after: Callable[[Sandbox], None] = lambda sandbox: None) -> Launch:
    """Make one request, and do `after` while the instances are there. Raises as Sandbox does, TimeoutError, ValueError."""
    config = SandboxConfig(
        nodes=nodes,
        zones=SIDES[side],
        boot_delay_s=0.0,
        resume_timeout_s=1200,
        controller=own_timing(default_controller(policy=_policy)),
        write_hooks=write_timed_hooks,
        cloud_overrides=setting.cloud(),
    )
    with Sandbox(directory, config) as sandbox:
        sandbox.cloud.fail_boot()  # EC2 says running, and no process is started
        time.sleep(SETTLES_S)
        tail = JournalTail(sandbox.layout.controller_state / "journal.sqlite")
        try:
            found = _launch(sandbox, tail, setting, nodes, side)
        finally:
            tail.close()
        check_addresses(sandbox, nodes)
        after(sandbox)
        return found


def _policy(site: Site) -> str:
    """Return the sandbox's policy, which may ask several pools in one call."""
    return default_policy(site).replace("launch = {", "launch = { combine = true,")


def _launch(sandbox: Sandbox, tail: JournalTail, setting: Setting, nodes: int, side: str) -> Launch:
    sandbox.slurm.submit("-p", PARTITION, "--exclusive", f"--nodes={nodes}", "-o", "/dev/null", "--wrap", "sleep 1")
    await_(lambda: bool(tail.new()) and sum(len(row["instances"]) for row in tail.of("LaunchEnded")) >= nodes, f"{nodes} instances")
    instances = [instance for row in tail.of("LaunchEnded") for instance in row["instances"]]
    record = read_record(sandbox.layout.cloud / "cloud.jsonl")
    addresses = {line["instance_id"]: line["ip"] for line in record if line["event"] == "requested"}  # a fleet's answer names none
    machines = [instance | {"address": addresses[instance["instance_id"]]} for instance in instances]

    def all_bound() -> bool:
        tail.new()
        return len(_bound(tail)) >= nodes

    loop().run_until_complete(arrive(sandbox, machines, all_bound))
    began = hook_began(sandbox.layout.hooks / "resume.log")
    moments = marks(tail.rows, record, began)
    phases = dict(zip(moments, _steps([began, *moments.values()]), strict=True))
    throttled = sum(line["event"] == "throttled" for line in record)
    return Launch(side, setting.name, nodes, moments["journal"] - began, moments["addresses (scontrol)"] - began, phases, throttled)


def marks(rows: list[dict[str, Any]], record: list[dict[str, Any]], began: float) -> dict[str, float]:
    """Return when each phase ended, in order, by the journal's and the cloud's records."""
    ended = [row for row in rows if row["kind"] == "LaunchEnded"]
    first = max(row["at"] for row in rows if row["kind"] == "Launch")
    calls = max(line["t"] for line in record if line["event"] == "requested")
    finished = _bound_of(rows)
    return {
        "hook": min(row["at"] for row in rows if row["kind"] == "NodesRequested" and row["at"] >= began),
        "deciding": first,
        "launch calls": calls,
        "answer, price": max(row["at"] for row in ended),
        "journal": max(row["seen"] for row in ended),
        "agents' arrival": max(row["at"] for row in rows if row["kind"] == "AgentArrived"),
        "addresses (scontrol)": max(finished.values()),
    }


def _bound(tail: JournalTail) -> dict[str, float]:
    return _bound_of(tail.rows)


def _bound_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return by node when its binding was done: slurmctld knows the address, and the agent its name."""
    names = {row["command_id"]: row["command"]["node"] for row in rows if row["kind"] == "BindInstance"}
    done = (row for row in rows if row["kind"] == "CommandFinished" and row["outcome"] == "ok" and row["command_id"] in names)
    return {names[row["command_id"]]: row["at"] for row in done}


def _steps(moments: list[float]) -> list[float]:
    return [max(0.0, after - before) for before, after in pairwise(moments)]
