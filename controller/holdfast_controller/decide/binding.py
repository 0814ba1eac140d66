"""An instance whose agent asks gets the name of a node; an agent that comes back is told its name again; a stranger is turned away."""

from collections.abc import Iterator

from holdfast_controller.commands import BindInstance, Command, TurnAwayAgent
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import InstanceRecord, Node

UNKNOWN_GRACE_S = 30.0
"""How long an agent of an instance that no launch and no listing has named yet may wait."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield a name for each agent that waits for one."""
    taken: set[str] = set()
    for record in fleet.instances.values():
        agent = record.agent
        if agent is None or not record.connected or not record.alive:
            continue
        iid = record.instance.instance_id
        node = _name_for(fleet, record, taken)
        if node is not None:
            taken.add(node.name)
            why = f"instance {iid} is {node.name}"
            address = agent.address or record.instance.address
            yield BindInstance(f"bind:{iid}:{node.name}:{record.arrivals}", why, node.name, iid, address)
        elif fleet.cloud_listed and now >= agent.at + UNKNOWN_GRACE_S:
            yield TurnAwayAgent(f"turn_away:{iid}:{record.arrivals}", f"no node waits for instance {iid}", iid)


def _name_for(fleet: Fleet, record: InstanceRecord, taken: set[str]) -> Node | None:
    """Return the node that the instance is, or shall be."""
    assert record.agent is not None
    if record.node:
        node = fleet.nodes.get(record.node)
        return node if node is not None and node.instance_id == record.instance.instance_id else None
    if not record.instance.pool:
        return None  # no cloud has named it yet: its launch is still being answered
    launch = fleet.launches.get(record.instance.launch_id)
    if launch is not None and record.agent.launch_id == launch.launch_id:
        if launch.void:
            return None
        free = [fleet.nodes[name] for name in launch.nodes if name in fleet.nodes and name not in taken]
        free = [node for node in free if not node.instance_id]
        claimed = record.agent.node
        # It may have been named before a journal was lost: then it is that node, or none.
        return next((node for node in free if (node.name == claimed if claimed else not _spoken_for(fleet, record, node))), None)
    return _adopted(fleet, record, taken)


def _spoken_for(fleet: Fleet, record: InstanceRecord, node: Node) -> bool:
    """With a lost journal: whether the name was given to another instance already, which has not come back yet to say so."""
    view = node.view
    if view is None:
        return False
    others = (other for other in fleet.instances.values() if other is not record and other.alive)
    return view.up or any(other.instance.address == view.address for other in others if view.address)


def _adopted(fleet: Fleet, record: InstanceRecord, taken: set[str]) -> Node | None:
    """With a lost journal: the name that the agent says it was given, where Slurm has the node at this instance's address."""
    assert record.agent is not None
    node = fleet.nodes.get(record.agent.node)
    if node is None or node.instance_id or node.name in taken or node.view is None:
        return None
    return node if node.view.address and node.view.address == record.instance.address else None
