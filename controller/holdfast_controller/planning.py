"""Policy → plans: what an admin wrote, as the decisions want it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from holdfast_common.evacuation import Limits
from holdfast_common.policy import NodeGroup, Partition, Policy, PoolPolicy

from holdfast_controller.plan import Health, Plan, Plans, Shape
from holdfast_controller.providers.base import Market, Pool


@dataclass(frozen=True, slots=True)
class Bounds:
    """How a cloud is called, by the controller's settings."""

    in_flight: int
    """Launches under way at a time, per region."""
    batch: int
    """Instances that one call may ask for."""


def bounded(plans: Plans, bounds: Mapping[str, Bounds]) -> Plans:
    """Return the plans with the bounds of each provider."""
    in_flight = {name: each.in_flight for name, each in bounds.items()}
    return replace(plans, in_flight=in_flight, batch={name: each.batch for name, each in bounds.items()})


def pool_of(policy: PoolPolicy) -> Pool:
    """Return the pool, under the name that providers give it."""
    return Pool(
        policy.name,
        policy.provider,
        policy.region,
        policy.zone,
        policy.instance_type,
        Market(policy.market),
        policy.price_cap_usd_h,
        policy.template,
    )


def plans_of(policy: Policy) -> Plans:
    """Return the plan of every managed node. A group that two partitions share follows the first of them."""
    by_node: dict[str, Plan] = {}
    for name, partition in policy.partitions.items():
        for group in partition.node_groups:
            plan = _plan(name, group, partition, policy)
            for node in policy.node_groups[group].names:
                by_node.setdefault(node, plan)
    return Plans(by_node)


def _shape(group: NodeGroup) -> Shape:
    return Shape(group.gpus, group.gpu_model, group.cpus or 0, group.memory_mb or 0)


def _plan(name: str, group: str, partition: Partition, policy: Policy) -> Plan:
    launch = partition.launch
    return Plan(
        partition=name,
        group=group,
        pools=tuple(pool_of(policy.pools[pool]) for pool in partition.pools),
        order=partition.order,
        shape=_shape(policy.node_groups[group]),
        one_domain=launch.gang == "zone",
        combine=launch.combine,
        setback_s=launch.setback_s,
        ondemand_after_s=partition.ondemand_after_s,
        limits=Limits(partition.checkpoint.margin_s, partition.checkpoint.kill_wait_s),
        registration_timeout_s=launch.registration_timeout_s,
        refusal_backoff_s=launch.refusal_backoff_s,
        refusal_memory_s=launch.refusal_memory_s,
        probe_s=min(launch.probe_s, launch.refusal_memory_s),
        orphan_grace_s=launch.orphan_grace_s,
        signal=partition.checkpoint.signal,
        max_attempts=partition.requeue.max_attempts,
        never_launched_s=partition.requeue.never_launched_s,
        keep_nodes_s=partition.requeue.keep_nodes_s,
        health=Health(**partition.health.model_dump()),
        crash_loop_s=partition.requeue.crash_loop_s,
        crash_loop_count=partition.requeue.crash_loop_count,
    )
