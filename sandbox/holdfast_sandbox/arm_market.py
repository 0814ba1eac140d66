"""What Azure tells of itself: sizes, usage, placement scores, network interfaces, and how operations stand."""

from collections.abc import Iterator
from typing import Any

from holdfast_sandbox.arm_account import Call, Handler
from holdfast_sandbox.arm_wire import ArmError, Json, Reply, page, part, same, time_text
from holdfast_sandbox.ec2_types import InstanceType, types_of
from holdfast_sandbox.market import Pool

LOCATIONS_MAX, SIZES_MAX = 8, 5
"""Of one request for placement scores ("Spot Placement Score")."""


def _operation(call: Call) -> Reply:
    operation = call.account.operations.get(f"{call.names['location']} {call.names['operation']}")
    if operation is None:
        raise ArmError("NotFound", f"The entity was not found: operation {call.names['operation'][:80]}.")
    body: Json = {"name": operation.operation_id, "startTime": time_text(operation.started), "status": operation.status}
    if operation.error is not None:
        body |= operation.error.body()
    going = operation.status == "InProgress"
    return Reply(body, headers={"Retry-After": "0"} if going else {})


def _skus(call: Call) -> Reply:
    text = call.query.get("$filter", "")
    wanted = text.split("'")[1] if text.count("'") == 2 and text.replace(" ", "").lower().startswith("locationeq'") else ""
    if text and not wanted:
        raise ArmError("InvalidParameter", f"The filter '{text[:100]}' is not valid: only location eq 'name' is.")
    types = types_of(call.account.datacenter.config.all_instance_types(), "azure")
    items = [
        (f"{location} {name}", _sku(call, name, kind, location))
        for location in call.account.locations()
        for name, kind in types.items()
        if not wanted or same(location, wanted)
    ]
    return Reply(page(items, call.query, call.origin + call.path))


def _sku(call: Call, name: str, kind: InstanceType, location: str) -> Json:
    market = call.account.datacenter.market
    zones = [zone for zone in call.account.zones(location) if Pool(f"{location}-{zone}", name, "spot") in market.pools]
    restrictions = [] if zones else [{"type": "Location", "values": [location], "reasonCode": "NotAvailableForSubscription"}]
    capabilities = {
        "vCPUs": str(kind.vcpus),
        "MemoryGB": f"{kind.memory_mib / 1024:g}",
        "LowPriorityCapable": "True",
        "PremiumIO": "True",
    } | ({"GPUs": str(kind.gpu_count)} if kind.gpu_count else {})
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "tier": "Standard",
        "size": name.removeprefix("Standard_"),
        "family": f"standard{name.removeprefix('Standard_')}_{kind.gpu_name}Family",
        "locations": [location],
        "locationInfo": [{"location": location, "zones": zones}],
        "capabilities": [{"name": key, "value": value} for key, value in capabilities.items()],
        "restrictions": restrictions,
    }


def _usages(call: Call) -> Reply:
    """What the subscription uses and may use. This cloud's limit on spot counts machines, not cores."""
    location = call.location(call.names["location"])
    datacenter = call.account.datacenter
    alive = [machine for machine in datacenter.machines.values() if machine.alive and machine.provider == "azure"]
    spot = sum(machine.pool.market == "spot" for machine in alive)
    rows = (
        ("virtualMachines", "Virtual Machines", sum(machine.region == location for machine in alive), 25_000),
        ("lowPriorityCores", "Total Regional Low-priority vCPUs", spot, datacenter.config.spot_instance_limit),
    )
    usages = [
        (value, {"name": {"value": value, "localizedValue": text}, "currentValue": now, "limit": limit, "unit": "Count"})
        for value, text, now, limit in rows
    ]
    return Reply(page(usages, call.query, call.origin + call.path))


def _strings(values: Any, most: int) -> list[str]:
    if not isinstance(values, list) or not 1 <= len(values) <= most or not all(isinstance(each, str) for each in values):
        raise ArmError("BadRequest", f"Between 1 and {most} values are required.")
    return values


def _scores(call: Call) -> Reply:
    call.location(call.names["location"])
    locations = _strings(call.body.get("desiredLocations"), LOCATIONS_MAX)
    asked = call.body.get("desiredSizes")
    sizes = _strings([part(each, "sku") for each in asked] if isinstance(asked, list) else None, SIZES_MAX)
    count = call.body.get("desiredCount")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArmError("BadRequest", "desiredCount must be a positive number.")
    zonal = call.body.get("availabilityZones") is True
    scores = [score for size in sizes for location in locations for score in _score(call, size, location.lower(), count, zonal)]
    said = {key: call.body[key] for key in ("desiredLocations", "desiredSizes", "desiredCount")}
    return Reply(said | {"availabilityZones": zonal, "placementScores": scores})


def _score(call: Call, size: str, location: str, count: int, zonal: bool) -> Iterator[Json]:
    """High where twice as much as asked for is free, Medium where there is as much; Azure does not publish its way."""
    market, zones = call.account.datacenter.market, call.account.zones(location)
    pools = {zone: Pool(f"{location}-{zone}", size, "spot") for zone in zones}
    known = {zone: pool for zone, pool in pools.items() if pool in market.pools}
    free = {zone: market.free(pool, call.now) for zone, pool in known.items()}
    entry = {"sku": size, "region": location, "isQuotaAvailable": True}
    for zone, room in free.items() if zonal else [("", sum(free.values()))]:
        score = "High" if room >= 2 * count else "Medium" if room >= count else "Low"
        score = score if known else "DataNotFoundOrStale"
        yield entry | {"score": score} | ({"availabilityZone": zone} if zone else {})


def _cards(call: Call) -> Reply:
    """The network interface of each machine: made and deleted with it."""
    items = []
    for key, each in call.account.machines.items():
        if each.machine is None or not call.in_group(key):
            continue
        group = each.resource_id.rpartition("/providers/")[0]
        card = f"{group}/providers/Microsoft.Network/networkInterfaces/{each.name}-nic"
        address = {"name": "ip", "properties": {"privateIPAddress": each.machine.ip, "primary": True}}
        body = {"virtualMachine": {"id": each.resource_id}, "primary": True, "ipConfigurations": [address]}
        items.append((" ".join(key), {"id": card, "name": f"{each.name}-nic", "location": each.location, "properties": body}))
    return Reply(page(items, call.query, call.origin + call.path))


_HERE = "{sub}/providers/Microsoft.Compute/locations/{location}"
OPERATIONS: dict[str, tuple[str, str, Handler]] = {
    "Operations_Get": ("GET", f"{_HERE}/operations/{{operation}}", _operation),
    "ResourceSkus_List": ("GET", "{sub}/providers/Microsoft.Compute/skus", _skus),
    "Usage_List": ("GET", f"{_HERE}/usages", _usages),
    "SpotPlacementScores_Post": ("POST", f"{_HERE}/placementScores/spot/generate", _scores),
    "NetworkInterfaces_List": ("GET", "{group}/providers/Microsoft.Network/networkInterfaces", _cards),
}
