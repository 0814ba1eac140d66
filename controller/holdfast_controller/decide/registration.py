"""Launched but silent: an instance whose node does not register in time is terminated, so that another can be bought for the name.

And one that registered in vain: its node is powered down, so that it can be powered up anew.
"""

from collections.abc import Iterator

from holdfast_controller.commands import Command, PowerDownNode, TerminateInstance
from holdfast_controller.decide.reclaim import Homes
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.records import Node

STUCK_S = 5.0
"""So long slurmctld may take to see what a node that it powers up has become."""


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield the termination of instances that have been silent for too long, and the power-down of nodes that Slurm will never use."""
    yield from _stuck(fleet, plans, now)
    homes = Homes(fleet)
    for launch in fleet.launches.values():
        plan = next((plans.by_node[name] for name in launch.nodes if name in plans.by_node), None)
        if plan is None or not launch.ended or launch.void:
            continue
        # Counted in time in which Slurm answered us: after an outage of ours or of slurmctld's, agents and slurmds come back first.
        if fleet.looked_at < max(launch.at, fleet.steady_since) + plan.registration_timeout_s:
            continue
        for instance_id in launch.instances:
            record = fleet.instances.get(instance_id)
            if record is None or not record.alive:
                continue
            node = fleet.nodes.get(record.node)
            if (node is not None and (node.wanted_since is None or node.instance_id != instance_id)) or homes.has(record):
                continue
            name = record.node or "no node"
            why = f"instance {instance_id} ({name}) did not register within {plan.registration_timeout_s:.0f} s"
            yield TerminateInstance(f"terminate:{instance_id}", why, instance_id, record.instance.pool or launch.pool, record.node)


def _stuck(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """A slurmctld that is restarted between POWER_UP and ResumeProgram keeps that flag on a node that has registered (seen on 22.05.8).

    No job is ever given to it; a power-down is all that helps.
    """
    for name in plans.by_node:
        node = fleet.nodes.get(name)
        if node is None or not _registered_in_vain(node) or now < max(node.changed_at, node.bound_at) + STUCK_S:
            continue
        record = fleet.instance_of(node)
        if record is not None and record.connected and not any(job.view.state != "CONFIGURING" for job in fleet.jobs_on(name)):
            why = f"{name} has registered, and Slurm still holds it for one that is to power up (POWER_UP)"
            yield PowerDownNode(f"stuck:{record.instance.instance_id}", why, name, record.instance.instance_id)


def _registered_in_vain(node: Node) -> bool:
    view = node.view
    power = {flag for flag in view.flags if flag.startswith("POWER")} if view is not None else set()
    return view is not None and power == {"POWER_UP"} and view.state in {"IDLE", "ALLOCATED", "MIXED"}
