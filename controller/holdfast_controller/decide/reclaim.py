"""What nobody needs any more is terminated: instances of nodes that Slurm has powered down, of void launches, and orphans.

Never on a failed or partial look-up: an instance is judged by what a whole listing and Slurm positively say.
"""

from collections.abc import Iterator

from holdfast_controller.commands import Command, TerminateInstance
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import InstanceRecord, LaunchRecord, Node

RESTS_S = 300.0
"""An end that was asked for takes less."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield terminations."""
    grace_s = max((plan.orphan_grace_s for plan in plans.by_node.values()), default=300.0)
    homes = Homes(fleet)
    for record in fleet.instances.values():
        if _rests(record, now):
            iid = record.instance.instance_id
            why = f"instance {iid} has been {record.instance.state_reason or 'stopped'} for {RESTS_S:.0f} s: it is no more of use"
            yield TerminateInstance(f"terminate:{iid}", why, iid, record.instance.pool, record.node)
        if not record.alive or not record.instance.pool:
            continue
        node = fleet.nodes.get(record.node)
        bound = node is not None and node.instance_id == record.instance.instance_id
        if record.rebooted:
            why = f"instance {record.instance.instance_id} was rebooted: it is not used any more"
        else:
            why = _given_back(fleet, node) if bound and node is not None else _unwanted(fleet, record, homes, grace_s, now)
        if why:
            iid = record.instance.instance_id
            yield TerminateInstance(f"terminate:{iid}", why, iid, record.instance.pool, record.node)


def _rests(record: InstanceRecord, now: float) -> bool:
    """Whether it was switched off, and is still there and paid for: a guest's own shutdown does no more on Google and Azure."""
    since = record.ending_since
    return record.gone_at is None and since is not None and bool(record.instance.pool) and now >= since + RESTS_S


def _given_back(fleet: Fleet, node: Node) -> str:
    """Slurm has the node powering down or powered down, by a look that is newer than the binding and than the last request."""
    view = node.view
    if view is None or node.wanted_since is not None or node.viewed_at <= node.bound_at:
        return ""
    if view.powered_down:
        return f"{node.name} is powered down"
    if "POWERING_DOWN" not in view.flags:
        return ""
    # On a live node a job may still have KillWait: the machine goes when its last process has.
    occupied = node.name in fleet.held or node.name in fleet.seen
    if not occupied or (node.doom is not None and node.doom.notice.deadline <= node.viewed_at):
        return f"{node.name} is powering down and empty"
    return ""


def _unwanted(fleet: Fleet, record: InstanceRecord, homes: "Homes", grace_s: float, now: float) -> str:
    launch = fleet.launches.get(record.instance.launch_id)
    iid = record.instance.instance_id
    if launch is not None and launch.void and launch.ended:
        return f"instance {iid} belongs to a launch that was given up"
    if launch is not None and launch.ended and not homes.has(record) and not homes.wanting(launch):
        return f"instance {iid} is not needed any more"
    if launch is None and fleet.cloud_listed and not record.connected and not homes.has(record):
        first = max(record.first_seen, record.instance.launched)
        if now >= first + grace_s:
            return f"instance {iid} is an orphan: no launch, no node and no agent have claimed it for {grace_s:.0f} s"
    return ""


def _served(fleet: Fleet, name: str) -> bool:
    """Whether the name waits for no instance: held by one, or positively not wanted (a request may not have been heard of yet)."""
    node = fleet.nodes.get(name)
    if node is None or node.instance_id:
        return True
    view = node.view
    return node.wanted_since is None and view is not None and (view.powered_down or bool(view.flags & {"POWERING_DOWN", "POWER_DOWN"}))


class Homes:
    """Where nodes are up in Slurm, and which launches are waited for; looked up once in a round of decisions, if anybody asks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._addresses: set[str] | None = None
        self._wanting: dict[str, bool] = {}

    def wanting(self, launch: LaunchRecord) -> bool:
        """Whether a name of the launch waits for an instance. All its instances ask, and it may have 1,000 names."""
        if launch.launch_id not in self._wanting:
            self._wanting[launch.launch_id] = not all(_served(self._fleet, name) for name in launch.nodes)
        return self._wanting[launch.launch_id]

    def has(self, record: InstanceRecord) -> bool:
        """Whether such a node has this instance's address: then it is one of ours, whatever the journal says."""
        if self._addresses is None:
            views = [node.view for node in self._fleet.nodes.values() if node.view is not None]
            self._addresses = {view.address for view in views if view.address and view.up}
        return record.instance.address in self._addresses
