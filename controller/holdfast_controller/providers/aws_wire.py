"""Between our words and EC2's: parameters of RunInstances, and what DescribeInstances says. Pure."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast_common.policy_checks import pool_name

from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_machine import METADATA, ON_SHUTDOWN, efa_interfaces, price, reference, reservation, template_of
from holdfast_controller.providers.base import Instance, LaunchRequest, Market, Pool, Reclaim
from holdfast_controller.providers.tags import TAG_LAUNCH, own_tags

CALL_MAX = 500
"""Instances per RunInstances call: the batch that AWS ParallelCluster launches at 4000 nodes."""
TOKEN_MAX = 64
USER_DATA_MAX_BYTES = 16_384
_PRICE = re.compile(r"\d{1,6}(\.\d{1,20})?", re.ASCII)
_STATES = {"pending": "pending", "running": "running", "terminated": "gone"}
_STOPPING = {"shutting-down", "stopping", "stopped"}
MARKED = ("marked-for-termination", "marked-for-stop")
"""Status codes of a spot request whose instance is under notice ("Spot request status codes", EC2 User Guide)."""
NOTICE_S = 120.0
"""What EC2 gives from that status on, at most: it tells no deadline there."""
_RECLAIMED = {"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"}


@dataclass(frozen=True, slots=True)
class Part:
    """One call of a launch."""

    token: str
    minimum: int
    count: int


def parts(request: LaunchRequest) -> Iterator[Part]:
    """Split a launch into calls; the same request always into the same ones, or its tokens would protect nothing.

    The first calls carry the minimum, so that a pool that cannot give it fails before anything has started.
    """
    needed, left, number = request.minimum, request.count, 0
    while left > 0:
        count = min(left, CALL_MAX)
        minimum = max(1, min(needed, count))
        yield Part(token_of(request.launch_id, number), minimum, count)
        needed, left, number = needed - count, left - count, number + 1


def token_of(launch_id: str, number: int) -> str:
    """Return the client token of a launch's call of this number."""
    token = f"{launch_id}.{number}" if number else launch_id
    return token if len(token) <= TOKEN_MAX else hashlib.sha256(token.encode()).hexdigest()[:TOKEN_MAX]


def run_parameters(config: AwsConfig, request: LaunchRequest, part: Part) -> dict[str, Any]:
    """Return the parameters of one RunInstances call."""
    pool = request.pool
    parameters: dict[str, Any] = {
        "MinCount": part.minimum,
        "MaxCount": part.count,
        "ClientToken": part.token,
        "InstanceType": pool.instance_type,
        "Placement": {"AvailabilityZone": pool.zone},
        "InstanceInitiatedShutdownBehavior": ON_SHUTDOWN,
        "MetadataOptions": METADATA,
        "TagSpecifications": tag_specifications(config, request, "instance", "volume"),
        **_market(config, pool),
        **_network(config, pool),
        **reservation(config, pool),
    }
    if template := template_of(config, request, pool):
        parameters["LaunchTemplate"] = reference(template)
    elif pool.region in config.images:
        parameters["ImageId"] = config.images[pool.region]
    if group := config.placement_groups.get(pool.zone):
        parameters["Placement"]["GroupName"] = group
    if request.user_data:
        parameters["UserData"] = request.user_data  # boto3 encodes it
    return parameters


def tag_specifications(config: AwsConfig, request: LaunchRequest, *kinds: str) -> list[dict[str, Any]]:
    """Return the request's tags for resources of these kinds."""
    tags = [{"Key": key, "Value": value} for key, value in sorted(own_tags(config.cluster, request).items())]
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def _network(config: AwsConfig, pool: Pool) -> dict[str, Any]:
    """Return subnet and security groups, within the interfaces where there are such: EC2 refuses them beside."""
    subnet, groups = config.subnets.get(pool.zone, ""), config.security_groups.get(pool.region, ())
    if interfaces := efa_interfaces(config, pool, subnet, groups):
        return {"NetworkInterfaces": interfaces}
    place = {"SubnetId": subnet} if subnet else {}
    return place | ({"SecurityGroupIds": list(groups)} if groups else {})


def _market(config: AwsConfig, pool: Pool) -> dict[str, Any]:
    if pool.name in config.capacity_blocks:
        return {"InstanceMarketOptions": {"MarketType": "capacity-block"}}
    if pool.market is Market.ON_DEMAND:
        return {}
    options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
    if pool.price_cap_usd_h is not None:
        options["MaxPrice"] = price(pool.price_cap_usd_h)
    return {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}


def instance_of(said: Mapping[str, Any], provider: str, region: str) -> Instance:
    """Return an instance as EC2 describes it. A state that EC2 may invent later counts as running: unknown is not gone."""
    tags = tags_of(said)
    state = str(_table(said, "State").get("Name", ""))
    reason = _table(said, "StateReason")
    code = str(reason.get("Code", ""))
    market = Market.SPOT if said.get("InstanceLifecycle") == "spot" else Market.ON_DEMAND
    zone = str(_table(said, "Placement").get("AvailabilityZone", ""))
    launched = said.get("LaunchTime")
    return Instance(
        instance_id=str(said["InstanceId"]),
        launch_id=tags.get(TAG_LAUNCH, ""),
        pool=pool_name(provider, region, zone, str(said.get("InstanceType", "")), market),
        state=state_of(state),
        address=str(said.get("PrivateIpAddress") or said.get("PrivateDnsName") or ""),
        launched=launched.timestamp() if isinstance(launched, datetime) else 0.0,
        state_reason=": ".join(part for part in (code, str(reason.get("Message", ""))) if part),
        reclaimed=code in _RECLAIMED,
        tags=tags,
    )


def reclaim_of(said: Mapping[str, Any]) -> Reclaim | None:
    """Return what a spot request says of its instance's end; None where that is not near, or it has no instance."""
    status = said.get("Status", {})
    code, since = str(status.get("Code", "")), status.get("UpdateTime")
    if code not in MARKED or not said.get("InstanceId") or since is None:
        return None
    return Reclaim(str(said["InstanceId"]), since.timestamp() + NOTICE_S, f"EC2 lists its spot request as {code}")


def state_of(name: str) -> str:
    """Return our word for a state of EC2's."""
    return "stopping" if name in _STOPPING else _STATES.get(name, "running")


def tags_of(said: Mapping[str, Any]) -> dict[str, str]:
    """Return an instance's tags."""
    tags = said.get("Tags")
    tables = [tag for tag in tags if isinstance(tag, Mapping) and "Key" in tag] if isinstance(tags, list) else []
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in tables}


def _table(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = said.get(key)
    return found if isinstance(found, Mapping) else {}


def newest_prices(history: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return the newest spot price by (zone, instance type); EC2 sends history in no order; what is no entry is left out."""
    newest: dict[tuple[str, str], tuple[float, float]] = {}
    for entry in history:
        said = entry.get("AvailabilityZone"), entry.get("InstanceType"), entry.get("Timestamp"), entry.get("SpotPrice")
        zone, kind, moment, text = said
        if not isinstance(moment, datetime) or not isinstance(text, str) or not _PRICE.fullmatch(text):
            continue
        key = (str(zone), str(kind))
        at, price = moment.timestamp(), float(text)
        if key not in newest or at > newest[key][0]:
            newest[key] = (at, price)
    return {key: price for key, (_, price) in newest.items()}
