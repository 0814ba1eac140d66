"""What must hold after every test, whatever it did: by the cloud's own record, the journal and Slurm."""

import re
from collections import Counter
from itertools import pairwise

from e2e_bed import Bed

SETTLE_S = 25.0
OURS = "holdfast:"


def violations(bed: Bed) -> list[str]:
    """Return what does not hold now; some of it may still have to settle."""
    return [*_launches(bed), *_names(bed), *_instances(bed), *_nodes(bed), *_kept(bed), *_requeues(bed), *_logs(bed)]


def _launches(bed: Bed) -> list[str]:
    """Each launch id was decided on once, and brought no more instances than it had nodes."""
    faults = []
    nodes = {}
    for entry in bed.journal("Launch"):
        launch_id = entry.command["launch_id"]
        if launch_id in nodes:
            faults.append(f"launch {launch_id} stands in the journal twice")
        nodes[launch_id] = entry.command["nodes"]
    bought = Counter(line["tags"].get("holdfast:launch", "(none)") for line in bed.record("requested"))
    for launch_id, count in bought.items():
        if launch_id not in nodes:
            faults.append(f"launch {launch_id} is not in the journal")
        elif count > len(nodes[launch_id]):
            faults.append(f"launch {launch_id} for {nodes[launch_id]} brought {count} instances")
    return faults


def _names(bed: Bed) -> list[str]:
    """No node name was ever given to an instance while another one that had it lived."""
    gone = {line["instance_id"]: line["t"] for line in bed.record("terminated")}
    given: dict[str, list[tuple[float, str]]] = {}
    for entry in bed.journal("BindInstance"):
        node, instance = entry.command["node"], entry.command["instance_id"]
        if all(instance != known for _, known in given.setdefault(node, [])):
            given[node].append((entry.at, instance))
    faults = []
    for node, times in given.items():
        for (_, old), (at, new) in pairwise(times):
            if gone.get(old, float("inf")) > at:
                faults.append(f"{node} was given to {new} while {old} lived")
    return faults


def _instances(bed: Bed) -> list[str]:
    """Every instance that lives is a node that is up, at its address, and no two are one node."""
    bound = {entry.command["instance_id"]: entry.command["node"] for entry in bed.journal("BindInstance")}
    faults = []
    holders: dict[str, str] = {}
    for instance in bed.cloud.instances():
        iid = instance["instance_id"]
        if instance["state"] == "terminated":
            continue
        node = bound.get(iid)
        if node is None:
            faults.append(f"instance {iid} ({instance['state']}) is no node")
            continue
        if node in holders:
            faults.append(f"{holders[node]} and {iid} are both {node}")
        holders[node] = iid
        seen = bed.slurm.node(node)
        if seen.get("NodeAddr") != instance["ip"] or "POWER" in seen.get("State", "POWERED_DOWN") or "NOT_RESPONDING" in seen["State"]:
            faults.append(f"instance {iid} is {instance['state']}, and its node {node} is {seen.get('State')} at {seen.get('NodeAddr')}")
    return faults


def _nodes(bed: Bed) -> list[str]:
    """No node is left drained, down or on its way up."""
    faults = []
    shown = bed.sandbox.run(["scontrol", "show", "nodes", "-o"]).stdout
    for line in shown.splitlines():
        name, state = (re.search(rf"{key}=(\S+)", line) for key in ("NodeName", "State"))
        assert name is not None
        assert state is not None
        flags = set(state[1].split("+"))
        leaving = bool(flags & {"POWERING_DOWN", "POWER_DOWN"})
        if flags & {"DRAIN", "DOWN", "FAIL"} and not leaving:
            faults.append(f"{name[1]} is left {state[1]}")
        if flags & {"POWERING_UP", "POWER_UP", "COMPLETING"}:
            faults.append(f"{name[1]} is still {state[1]}")
    return faults


def _kept(bed: Bed) -> list[str]:
    """No nodes are kept for a job any more."""
    shown = bed.sandbox.run(["scontrol", "show", "reservations", "-o"], check=False).stdout
    return [f"reservation {name} is left" for name in re.findall(r"ReservationName=(holdfast-\S+)", shown)]


def _requeues(bed: Bed) -> list[str]:
    """No attempt was requeued twice, and the job's own record counts each interruption once, whoever ended it."""
    times = Counter((entry.body["job_id"], entry.body["attempt"]) for entry in bed.journal("JobRequeued"))
    faults = [
        f"attempt {attempt} of job {job_id} was requeued {count} times"
        for (job_id, attempt), count in times.items()
        if count > 1 and job_id not in bed.requeued_again
    ]
    for job in bed.jobs:
        seen = bed.slurm.job(job.job_id)
        told = re.search(r"attempt (\d+) on .*; interrupted (\d+) time", seen.get("AdminComment", ""))
        if told is None:
            continue
        attempt, times_told = int(told[1]), int(told[2])  # of an attempt that ends at once nothing can be told any more
        interrupted = int(seen["Restarts"]) - bed.requeued_by_slurm.get(job.job_id, 0)
        requeued = (entry.body for entry in bed.journal("JobRequeued", job.job_id))
        ours = len({body["attempt"] for body in requeued if body["began"] and body["attempt"] < attempt})
        if times_told > interrupted or (times_told < ours and job.job_id not in bed.forgotten):
            faults.append(f"job {job.job_id} was interrupted {interrupted} times, and attempt {attempt} is told of {times_told}")
    return faults


def _logs(bed: Bed) -> list[str]:
    """No hook has complained, and no effect of the controller has broken."""
    faults = [f"hooks.log: {line}" for line in bed.hook_faults()]
    for path in (bed.sandbox.layout.cloud / "instances").glob("*/run/hooks.log"):
        faults += [f"{path.parts[-3]}: {line}" for line in path.read_text().splitlines()]
    log = (bed.sandbox.layout.log / "controller.log").read_text(errors="replace")
    faults += [f"controller.log: {line}" for line in log.splitlines() if "an effect broke" in line or line.startswith("Traceback")]
    return faults
