"""Instances, launches and agents: what the clouds and the machines themselves say, and what it changes in the fleet."""

from collections import Counter

from holdfast_controller import capacity, dooms
from holdfast_controller import events as e
from holdfast_controller.commands import BindInstance
from holdfast_controller.launch_tags import job_of, nodes_of
from holdfast_controller.providers.base import Fault, FaultKind, Instance
from holdfast_controller.records import InstanceRecord, LaunchRecord, Node
from holdfast_controller.state import State


def instance_changed(fleet: State, event: e.InstanceChanged) -> None:
    """Take in what the cloud says of an instance."""
    _see(fleet, event.instance, event.at)


def _see(fleet: State, instance: Instance, at: float) -> None:
    record = fleet.instances.get(instance.instance_id)
    if record is None:
        if instance.state == "gone":
            return
        record = fleet.instances[instance.instance_id] = InstanceRecord(instance, at)
        _moved(fleet, "", _lives_in(record), at)
    else:
        before, record.instance = _lives_in(record), instance
        _moved(fleet, before, _lives_in(record), at)
    record.ending_since = None if record.alive or instance.state == "gone" else record.ending_since or at
    launch = _launch_of(fleet, instance, at)
    if launch is not None and instance.instance_id not in launch.instances:
        launch.instances = (*launch.instances, instance.instance_id)
    if instance.state == "gone":
        _gone(fleet, record, at)
    elif launch is not None and launch.recovered and not record.node:
        for node in fleet.nodes.values():
            if node.view is not None and node.view.address == instance.address:
                recognise(fleet, node, at)


def _lives_in(record: InstanceRecord) -> str:
    return record.instance.pool if record.alive else ""


def _moved(fleet: State, before: str, after: str, at: float) -> None:
    """Count who lives where, and for how long."""
    if before == after:
        return
    for pool, change in ((before, -1), (after, 1)):
        if pool:
            capacity.lived(fleet.pools, pool, fleet.living[pool], at)
            fleet.living[pool] += change


def recognise(fleet: State, node: Node, at: float) -> None:
    """After the loss of the journal: the instance at a node's address is the node's, though its agent may never say so any more.

    Else another would be bought for the name while that one lives.
    """
    view = node.view
    if node.instance_id or view is None or view.address in {"", node.name}:
        return
    for record in fleet.instances.values():
        if record.instance.address != view.address or record.node or record.gone_at is not None:
            continue
        launch = fleet.launches.get(record.instance.launch_id)
        if launch is not None and launch.recovered and (node.name in launch.nodes or view.up):
            record.node, node.instance_id, node.bound_at = node.name, record.instance.instance_id, at
            return


def _launch_of(fleet: State, instance: Instance, at: float) -> LaunchRecord | None:
    """Return the launch that an instance came from; after the loss of the journal, as its tags tell it."""
    launch = fleet.launches.get(instance.launch_id)
    if launch is not None or not instance.launch_id or instance.state == "gone":
        return launch
    names = tuple(name for name in nodes_of(instance.tags) if name in fleet.nodes)
    if not names:
        return None
    job_id = job_of(instance.tags)  # a call for several jobs names none
    launch = LaunchRecord(instance.launch_id, instance.pool, names, job_id, at, ended=True, minimum=0 if job_id else 1, recovered=True)
    fleet.launches[instance.launch_id] = launch
    return launch


def _gone(fleet: State, record: InstanceRecord, at: float) -> None:
    pool, taken = record.instance.pool, record.instance.reclaimed and record.gone_at is None
    record.gone_at = record.gone_at or at
    if taken and pool in fleet.pools:
        fleet.pools[pool].reclaims += 1.0
    node = fleet.nodes.get(record.node)
    if node is None or node.instance_id != record.instance.instance_id:
        if not record.node and taken:
            capacity.refuse(fleet.pools, pool, at, "reclaimed before it had a name")
        return
    booting = node.wanted_since is not None
    if booting or node.view is None or node.view.powered_down:
        if booting and taken:
            capacity.refuse(fleet.pools, pool, at, "reclaimed while it booted")
            node.launches = max(0, node.launches - 1)  # it was not silent
        unbind(fleet, node)
        dooms.vacate(fleet, node)
        return
    reason = record.instance.state_reason or "the cloud says that the instance is gone"
    dooms.lose(fleet, node, f"gone-{record.instance.instance_id}", reason, "cloud", at)


def launch_ended(fleet: State, event: e.LaunchEnded) -> None:
    """Take in what came of a launch: instances, and what it says of the pools."""
    launch = fleet.launches.get(event.launch_id)
    if launch is None:
        return
    launch.ended, launch.faults = True, event.faults
    for instance in event.instances:
        _see(fleet, instance, event.at)
        record = fleet.instances.get(instance.instance_id)
        if record is not None:
            record.price_usd_h, record.on_demand_usd_h = event.price_usd_h, event.on_demand_usd_h
    launch.void = launch.void or len(event.instances) < launch.needed
    for node in (fleet.nodes[name] for name in launch.nodes[: len(event.instances)] if name in fleet.nodes):
        node.launches += not launch.void
    for pool, count in Counter(instance.pool for instance in event.instances).items():
        capacity.grant(fleet.pools, pool, count)
    for fault in event.faults:
        _fault(fleet, fault.pool or event.pool, fault, event.at, launch)


def _fault(fleet: State, pool: str, fault: Fault, at: float, launch: LaunchRecord) -> None:
    if fault.kind is FaultKind.CAPACITY:
        capacity.refuse(fleet.pools, pool, at, fault.code, launch.needed, launch.at)
    elif fault.kind is FaultKind.QUOTA:
        alive = capacity.alive_by(fleet.living, capacity.quota_key(pool))
        some = any(iid in fleet.instances for iid in launch.instances)
        asked = (launch.needed, launch.needed if some else len(launch.nodes))
        capacity.meet_quota(fleet.pools, fleet.quotas, alive, pool, fault, at, asked)
    else:
        capacity.block(fleet.pools, pool, fault, at)


def unbind(fleet: State, node: Node, *, only_gone: bool = False) -> None:
    """Free the name of its instance; `only_gone`: unless that lives."""
    record = fleet.instance_of(node)
    if record is not None and only_gone and record.alive:
        return
    node.instance_id, node.findings, node.health_heard = "", (), 0.0


def bind(fleet: State, command: BindInstance, at: float) -> None:
    """Give the instance the name."""
    node, record = fleet.nodes.get(command.node), fleet.instances.get(command.instance_id)
    if node is None or record is None or (record.node == node.name and node.instance_id == command.instance_id):
        return
    record.node, node.instance_id, node.bound_at = node.name, command.instance_id, at
    node.findings, node.health_heard = (), 0.0
    if node.doom is not None and node.doom.dead:
        node.doom = None  # that was the machine before


def agent_arrived(fleet: State, event: e.AgentArrived) -> None:
    """Note that the agent of an instance is here, also of one that no cloud has named yet."""
    record = fleet.instances.get(event.instance_id)
    if record is None:
        # The launch's answer, or the cloud's next listing, will say more of it.
        pending = Instance(event.instance_id, event.launch_id, "", "pending", event.address)
        record = fleet.instances[event.instance_id] = InstanceRecord(pending, event.at)
    record.agent, record.connected, record.arrivals = event, True, record.arrivals + 1
    fleet.steps.pop(event.instance_id, None)


def agent_lost(fleet: State, event: e.AgentLost) -> None:
    """Note that it is silent."""
    if event.instance_id in fleet.instances:
        fleet.instances[event.instance_id].connected = False
    fleet.steps.pop(event.instance_id, None)


def agent_rebooted(fleet: State, event: e.AgentRebooted) -> None:
    """What ran on a machine that was rebooted is lost, and so is the machine."""
    record = fleet.instances.get(event.instance_id)
    if record is None or record.rebooted:
        return
    record.rebooted, record.connected = True, False
    node = fleet.nodes.get(record.node)
    held = node is not None and node.instance_id == event.instance_id and node.wanted_since is None  # else it only booted
    if node is not None and held and node.view is not None and not node.view.powered_down:
        dooms.lose(fleet, node, f"rebooted-{event.instance_id}", "the machine was rebooted, and what ran on it is lost", "agent", event.at)


def machine_missing(fleet: State, event: e.MachineMissing) -> None:
    """What ran on a node is lost whose machine no cloud lists and for which nobody speaks."""
    node = fleet.nodes.get(event.node)
    if node is not None and not node.instance_id and node.doom is None:
        dooms.lose(fleet, node, f"missing-{event.node}-{event.at:.0f}", f"no cloud lists an instance at {event.address}", "cloud", event.at)
