"""An instance whose agent asks gets the name of a node; an agent that comes back is told its name again; a stranger is turned away."""

from collections import Counter, deque
from collections.abc import Iterator

from holdfast_controller.commands import BindInstance, Command, TurnAwayAgent
from holdfast_controller.decide.resume import awaits, passed_over
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import InstanceRecord, LaunchRecord, Node

UNKNOWN_GRACE_S = 30.0
"""How long an agent of an instance that no launch and no listing has named yet may wait."""

TELLING_S = 2.0
"""So long after a node was given its instance its address may still be on the way to slurmctld."""

RESUMES_S = 5.0
"""So long slurmctld may take to act on a POWER_UP; a name that it still has not resumed then is given all the same."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield a name for each agent that waits for one."""
    names = _Names(fleet, now)
    for record in fleet.instances.values():
        agent = record.agent
        if agent is None or not record.connected or not record.alive:
            continue
        iid = record.instance.instance_id
        node = names.of(record)
        if node is not None:
            key = f"bind:{iid}:{node.name}:{record.arrivals}"
            if fleet.may_issue(key, now):
                yield BindInstance(key, f"instance {iid} is {node.name}", node.name, iid, agent.address or record.instance.address)
        elif fleet.cloud_listed and now >= agent.at + UNKNOWN_GRACE_S:
            yield TurnAwayAgent(f"turn_away:{iid}:{record.arrivals}", f"no node waits for instance {iid}", iid)
    for node in fleet.nodes.values():
        if _address_forgotten(fleet, node):
            bound = fleet.instances[node.instance_id]
            address = bound.agent.address if bound.agent is not None and bound.agent.address else bound.instance.address
            key = f"bind:{node.instance_id}:{node.name}:again:{node.changed_at:.3f}"
            if fleet.may_issue(key, now):
                why = f"Slurm has forgotten the address of {node.name}, which is {address}"
                yield BindInstance(key, why, node.name, node.instance_id, address)


def _may_be_redirected(fleet: Fleet, node: Node) -> bool:
    """Whether the job that it was powered up for has come to other nodes, one of which has no machine yet (see `resume`)."""
    job = fleet.jobs.get(node.meant_for)
    if job is None or job.view.state != "CONFIGURING" or not passed_over(fleet, node):
        return False
    return any(name in fleet.nodes and not fleet.nodes[name].instance_id for name in job.view.nodes)


def _not_resumed(node: Node, now: float) -> bool:
    """Whether slurmctld has still to act on its POWER_UP, by the newest look.

    A slurmd that registers before that leaves the node `IDLE+CLOUD+POWER_UP` for ever (measured on 22.05.8).
    """
    if node.view is None or node.wanted_since is None or now >= node.wanted_since + RESUMES_S:
        return False
    return bool(node.view.flags & {"POWERED_DOWN", "POWER_UP"})


def _address_forgotten(fleet: Fleet, node: Node) -> bool:
    """Whether slurmctld has a node of ours under its bare name, as one does that was killed within seconds of being told more."""
    view, record = node.view, fleet.instance_of(node)
    if view is None or record is None or view.address != node.name or not record.connected or not record.alive:
        return False
    told = fleet.looked_at > node.bound_at + TELLING_S
    return told and not view.powered_down and not any(flag.startswith("POWER") for flag in view.flags)


class _Names:
    """The names that are to be had, in one round of decisions: each is given once. What many instances ask for is looked up once."""

    def __init__(self, fleet: Fleet, now: float) -> None:
        self._fleet, self._now = fleet, now
        self._taken: set[str] = set()
        self._free: dict[str, deque[Node]] = {}
        self._addresses: dict[str, int] | None = None
        self._haunted: set[str] | None = None

    def of(self, record: InstanceRecord) -> Node | None:
        """Return the node that the instance is, or shall be."""
        assert record.agent is not None
        fleet = self._fleet
        if record.node:
            node = fleet.nodes.get(record.node)
            return node if node is not None and node.instance_id == record.instance.instance_id else None
        if not record.instance.pool:
            return None  # no cloud has named it yet: its launch is still being answered
        launch = fleet.launches.get(record.instance.launch_id)
        if launch is not None and record.agent.launch_id == launch.launch_id:
            node = None if launch.void else self._of_launch(record, launch)
        else:
            node = self._adopted(record)
        if node is None or node.name in self._still_there():
            return None
        self._taken.add(node.name)
        return node

    def _still_there(self) -> set[str]:
        """Return the names whose last instance is not gone yet, however long it has been told to end: it may still speak as the node."""
        if self._haunted is None:
            left = (record for record in self._fleet.instances.values() if record.node and record.gone_at is None)
            self._haunted = {record.node for record in left if self._fleet.holder(record.node) != record.instance.instance_id}
        return self._haunted

    def _of_launch(self, record: InstanceRecord, launch: LaunchRecord) -> Node | None:
        assert record.agent is not None
        free = self._free.get(launch.launch_id)
        if free is None:
            nodes = (self._fleet.nodes[name] for name in launch.nodes if name in self._fleet.nodes)
            # What came for one of several jobs that is gone serves the others.
            open_ = (node for node in nodes if awaits(node) or not (launch.shared or node.instance_id))
            free = self._free[launch.launch_id] = deque(open_)
        while free and free[0].name in self._taken:
            free.popleft()
        claimed = record.agent.node
        # It may have been named before a journal was lost: then it is that node, or none.
        if claimed and claimed not in launch.nodes:
            return self._adopted(record)  # its launch was redirected, which its tags do not say
        open_names = (node for node in free if node.name not in self._taken and self._may_be_given(node))
        return next((node for node in open_names if (node.name == claimed if claimed else not self._spoken_for(record, node))), None)

    def _may_be_given(self, node: Node) -> bool:
        return not _may_be_redirected(self._fleet, node) and not _not_resumed(node, self._now)

    def _spoken_for(self, record: InstanceRecord, node: Node) -> bool:
        """With a lost journal: whether the name was given to another instance already, which has not come back yet to say so."""
        view = node.view
        if view is None:
            return False
        if view.up or not view.address:
            return view.up
        if self._addresses is None:
            alive = (other for other in self._fleet.instances.values() if other.alive)
            self._addresses = Counter(other.instance.address for other in alive)
        return self._addresses.get(view.address, 0) > (record.alive and record.instance.address == view.address)

    def _adopted(self, record: InstanceRecord) -> Node | None:
        """With a lost journal: the name that the agent says it was given, where Slurm has the node at this instance's address."""
        assert record.agent is not None
        node = self._fleet.nodes.get(record.agent.node)
        if node is None or node.instance_id or node.name in self._taken or node.view is None:
            return None
        return node if node.view.address and node.view.address == record.instance.address else None
