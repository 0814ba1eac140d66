"""Promises about machines, nodes and processes: nothing twice, nothing forgotten."""

from collections.abc import Iterator
from itertools import pairwise

from holdfast_sandbox.demo.evidence import Evidence
from holdfast_sandbox.history.machines import Machine, entries, is_up, machines

BAD_FLAGS = frozenset(
    {"DRAIN", "DRAINING", "DRAINED", "DOWN", "FAIL", "FAILING", "NOT_RESPONDING", "COMPLETING", "POWERING_DOWN", "POWER_DOWN"}
)


def all_held(evidence: Evidence) -> Iterator[str]:
    """Each instance that still runs at the end is a node that is up in Slurm, and each launched one became a node."""
    if not machines(evidence):
        yield "the cloud's record has no instance at all"
    for machine in machines(evidence).values():
        if not machine.node:
            yield f"{machine.instance_id} was launched and never became a node"
        elif machine.gone is None and not _up(evidence, machine.node):
            yield f"{machine.instance_id} still runs, and {machine.node} is {evidence.nodes.get(machine.node, {}).get('State', 'unknown')}"


def one_for_each_name(evidence: Evidence) -> Iterator[str]:
    """A name's next instance is asked for when its last one is gone; no launch was made twice."""
    by_node: dict[str, list[Machine]] = {}
    for machine in machines(evidence).values():
        by_node.setdefault(machine.node, []).append(machine)
    for node, mine in by_node.items():
        for earlier, later in pairwise(sorted(mine, key=lambda machine: machine.requested)):
            if node and (earlier.gone is None or earlier.gone > later.requested):
                yield f"{later.instance_id} was launched for {node} while {earlier.instance_id} was there"
    wanted = {entry.body["command"]["launch_id"]: len(entry.body["command"]["nodes"]) for entry in entries(evidence, "Launch")}
    for token in sorted({machine.token for machine in machines(evidence).values()}):
        got = sum(machine.token == token for machine in machines(evidence).values())
        if got > wanted.get(token, 0):
            yield f"the launch {token} brought {got} instances for {wanted.get(token, 0)} nodes"


def nodes_well(evidence: Evidence) -> Iterator[str]:
    """Every node is either up or powered down, and nothing else."""
    if not evidence.nodes:
        yield "Slurm lists no node"
    for name, said in evidence.nodes.items():
        if BAD_FLAGS & set(_flags(said["State"])):
            yield f"{name} is {said['State']}" + (f" ({said['Reason']})" if said["Reason"] else "")


def nothing_left(evidence: Evidence) -> Iterator[str]:
    """Whatever was started is gone."""
    yield from evidence.leftovers


def _up(evidence: Evidence, node: str) -> bool:
    state, *flags = _flags(evidence.nodes.get(node, {}).get("State", "UNKNOWN"))
    return is_up(state, flags)


def _flags(state: str) -> list[str]:
    return [word.rstrip("*~#!%$@^-") for word in state.split("+")]
