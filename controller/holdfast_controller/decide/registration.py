"""Launched but silent: an instance whose node does not register in time is terminated, so that another can be bought for the name."""

from collections.abc import Iterator

from holdfast_controller.commands import Command, TerminateInstance
from holdfast_controller.decide.reclaim import Homes
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans


def decide(fleet: Fleet, plans: Plans, now: float) -> Iterator[Command]:
    """Yield the termination of instances that have been silent for too long."""
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
