"""Between our words and EC2's CreateFleet: which pools go together, their launch templates, the request, and what its answer says. Pure."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast_common.policy_checks import pool_name

from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_errors import FEWER, TRANSIENT_RETRY_S, UNKNOWN_TEMPLATE, fault_of, of_pool
from holdfast_controller.providers.aws_machine import METADATA, ON_SHUTDOWN, efa_interfaces, price, reservation, template_of
from holdfast_controller.providers.aws_wire import tag_specifications
from holdfast_controller.providers.base import Fault, FaultKind, Instance, LaunchRequest, Market, Pool
from holdfast_controller.providers.tags import own_tags

COUNT_MAX = 1000
"""Instances of one fleet: the most that CreateFleet takes as MinTargetCapacity. A larger gang is bought in one pool."""
POOLS_MAX = 50
"""Pools of one fleet: EC2 takes 50 launch templates, and each pool may need its own. The caller asks further ones next."""
CURABLE = frozenset({FaultKind.TRANSIENT, FaultKind.THROTTLE})


@dataclass(frozen=True, slots=True)
class Template:
    """A launch template of one launch, and the pools that share it."""

    name: str
    data: Mapping[str, Any]
    pools: tuple[Pool, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a fleet's answer says."""

    instances: tuple[Instance, ...]
    faults: tuple[Fault, ...]

    @property
    def is_over(self) -> bool:
        """Whether nobody will ask for this launch again: something has started, or a repeat would be no cure."""
        return bool(self.instances) or any(fault.kind not in CURABLE for fault in self.faults)


def fleet_pools(config: AwsConfig, request: LaunchRequest) -> tuple[Pool, ...]:
    """Return the pools that one fleet asks, best first; fewer than two where RunInstances does.

    A capacity block is a market of its own, which CreateFleet cannot mix with another.
    """
    if not config.fleets or request.count > COUNT_MAX or request.pool.name in config.capacity_blocks:
        return (request.pool,)
    pools = {pool.name: pool for pool in reversed(request.pools) if pool.name not in config.capacity_blocks}
    return tuple(pools[name] for name in dict.fromkeys(pool.name for pool in request.pools) if name in pools)[:POOLS_MAX]


def templates(config: AwsConfig, request: LaunchRequest, pools: Sequence[Pool], bases: Mapping[str, Mapping[str, Any]]) -> list[Template]:
    """Return the launch templates of a fleet; pools that need the same share one. `bases`: the data of the configured ones, by text.

    The names come from the launch's id alone: the same launch makes no second template, and asks for the same fleet again.
    """
    shared: dict[str, list[Pool]] = {}
    data: dict[str, dict[str, Any]] = {}
    for pool in pools:
        said = template_data(config, request, pool, bases.get(template_of(config, request, pool), {}))
        key = json.dumps(said, sort_keys=True, default=str)
        data[key] = said
        shared.setdefault(key, []).append(pool)
    return [
        Template(template_name(config, request.launch_id, number), data[key], tuple(group))
        for number, (key, group) in enumerate(shared.items())
    ]


def template_prefix(config: AwsConfig) -> str:
    """Return how the names of all our templates begin."""
    return f"holdfast-{config.cluster}-"


def template_name(config: AwsConfig, launch_id: str, number: int) -> str:
    """Return the name of a launch's template: EC2 takes 3 to 128 of A-Z a-z 0-9 ( ) . - / _ only."""
    return template_prefix(config) + hashlib.sha256(f"{launch_id} {number}".encode()).hexdigest()[:32]


def template_data(config: AwsConfig, request: LaunchRequest, pool: Pool, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configured template says with what is ours over it, as RunInstances would merge them.

    Market, zone and subnet are the overrides' business: EC2 takes no fleet whose template states a market.
    """
    data = {key: value for key, value in base.items() if key not in ("InstanceMarketOptions", "InstanceType", "Operator")}
    if place := {key: value for key, value in data.pop("Placement", {}).items() if not key.startswith("AvailabilityZone")}:
        data["Placement"] = place
    data["MetadataOptions"], data["InstanceInitiatedShutdownBehavior"] = METADATA, ON_SHUTDOWN
    if not base and pool.region in config.images:
        data["ImageId"] = config.images[pool.region]
    if request.user_data:
        data["UserData"] = base64.b64encode(request.user_data.encode()).decode()
    groups = config.security_groups.get(pool.region) or tuple(data.get("SecurityGroupIds", ()))
    if interfaces := efa_interfaces(config, pool, groups=groups):
        data.pop("SecurityGroupIds", None)
        data["NetworkInterfaces"] = interfaces
    elif groups:
        data["SecurityGroupIds"] = list(groups)
    return data | reservation(config, pool)


def fleet_parameters(config: AwsConfig, request: LaunchRequest, plan: Sequence[Template], token: str) -> dict[str, Any]:
    """Return the parameters of one CreateFleet call."""
    order = {pool.name: number for number, pool in enumerate(request.pools)}
    spot = request.pool.market is Market.SPOT
    within = {"SingleAvailabilityZone": True, "MinTargetCapacity": request.minimum}
    options: dict[str, Any] = (
        {"SpotOptions": {"AllocationStrategy": config.spot_strategy, "InstanceInterruptionBehavior": "terminate"} | within}
        if spot
        else {"OnDemandOptions": {"AllocationStrategy": "prioritized"} | within}
    )
    return {
        "Type": "instant",
        "ClientToken": token,
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": request.count,
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
        },
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template.name, "Version": "1"},
                "Overrides": [_override(config, pool, order[pool.name]) for pool in template.pools],
            }
            for template in plan
        ],
        "TagSpecifications": tag_specifications(config, request, "fleet", "instance", "volume"),
        **options,
    }


def _override(config: AwsConfig, pool: Pool, priority: int) -> dict[str, Any]:
    override: dict[str, Any] = {"InstanceType": pool.instance_type, "Priority": float(priority)}
    if subnet := config.subnets.get(pool.zone):
        override["SubnetId"] = subnet
    else:
        override["AvailabilityZone"] = pool.zone
    if group := config.placement_groups.get(pool.zone):
        override["Placement"] = {"GroupName": group}
    if pool.market is Market.SPOT and pool.price_cap_usd_h is not None:
        override["MaxPrice"] = price(pool.price_cap_usd_h)
    return override


def answer_of(config: AwsConfig, request: LaunchRequest, pools: Sequence[Pool], said: Mapping[str, Any], now: float) -> Answer:
    """Return the instances that a fleet started, and why they are not more, a fault for each pool and reason.

    The answer tells neither addresses nor launch times: those come with the next listing, as the instances' states do.
    """
    zones = {config.subnets[pool.zone]: pool.zone for pool in pools if pool.zone in config.subnets}
    known = {pool.name: pool for pool in pools}
    instances = [
        Instance(instance_id, request.launch_id, name, "pending", launched=now, tags=own_tags(config.cluster, request))
        for group in said.get("Instances", [])
        for name in [_pool_of(config, request, group, zones)]
        for instance_id in group.get("InstanceIds", [])
    ]
    faults: dict[tuple[str, str], Fault] = {}
    for error in said.get("Errors", []):
        name = _pool_of(config, request, error, zones)
        fault = fleet_fault(fault_of(str(error.get("ErrorCode", "")), str(error.get("ErrorMessage", ""))))
        faults.setdefault((name, fault.code), of_pool(fault, name if name in known else ""))
    if len(instances) < request.count and not faults:
        faults = {(fault.pool, fault.code): fault for fault in _unsaid(request, pools, instances)}
    return Answer(tuple(instances), tuple(faults.values()))


def fleet_fault(fault: Fault) -> Fault:
    """Return the fault with the one code that means something else here.

    A template that was made a moment ago may be unknown to CreateFleet (eventual consistency): the same call will do later.
    """
    if fault.code in UNKNOWN_TEMPLATE:
        return replace(fault, kind=FaultKind.TRANSIENT, retry_s=TRANSIENT_RETRY_S)
    return fault


def _unsaid(request: LaunchRequest, pools: Iterable[Pool], instances: Sequence[Instance]) -> Iterable[Fault]:
    """Yield a fault for each pool that gave less than was asked, where EC2 says of none why: those of the zone that it chose, or all."""
    chosen = {instance.pool.split("/")[2] for instance in instances}
    message = f"{len(instances)} of {request.count} instances were started"
    return (fault_of(FEWER, message, pool=pool.name) for pool in pools if not chosen or pool.zone in chosen)


def _pool_of(config: AwsConfig, request: LaunchRequest, said: Mapping[str, Any], zones: Mapping[str, str]) -> str:
    """Return the name of the pool that a part of the answer is about."""
    override = said.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    subnet = said.get("SubnetId") or override.get("SubnetId", "")
    zone = said.get("AvailabilityZone") or override.get("AvailabilityZone") or zones.get(subnet, "")
    kind = said.get("InstanceType") or override.get("InstanceType", "")
    return pool_name(config.name, request.pool.region, str(zone), str(kind), request.pool.market)
