"""What Compute Engine says of its market: machine types, zones, regions, and its advice on capacity."""

from collections.abc import Mapping, Sequence

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2_types import InstanceType, types_of
from holdfast_sandbox.gce_lists import aggregated, plain_list
from holdfast_sandbox.gce_wire import GceError, Json, count, text, time_text, url
from holdfast_sandbox.market import Pool, Zone

HISTORY_S = 30 * 86_400.0
UPTIMES_S = (3600, 600)
"""The estimates that are given: an hour where more is free than was asked for, ten minutes where it is just enough."""
ACCELERATORS = {("A100", 40960): "nvidia-tesla-a100", ("L4", 24576): "nvidia-l4"}
"""By model and MiB; all others have their size in their name."""


def zones_of(datacenter: Datacenter) -> list[Zone]:
    """The zones that are reached through this endpoint."""
    return sorted((zone for zone in datacenter.market.zones.values() if zone.provider == "gcp"), key=lambda zone: zone.name)


def scopes_of(datacenter: Datacenter) -> list[str]:
    """The scopes of an aggregated list."""
    return [f"zones/{zone.name}" for zone in zones_of(datacenter)]


def accelerator_of(kind: InstanceType) -> str:
    """The accelerator type of a machine type's GPUs."""
    default = f"nvidia-{kind.gpu_name.lower()}-{kind.gpu_memory_mib // 1024}gb"
    return ACCELERATORS.get((kind.gpu_name, kind.gpu_memory_mib), default)


def machine_types(datacenter: Datacenter, project: str, query: Mapping[str, str]) -> Json:
    """The machine types that each zone sells."""
    known = types_of(datacenter.config.all_instance_types(), "gcp")
    zones = {zone.name for zone in zones_of(datacenter)}
    sold = sorted(
        {(pool.zone, pool.instance_type) for pool in datacenter.market.pools if pool.zone in zones and pool.instance_type in known}
    )
    found = [(f"zones/{zone}", name, machine_type(known[name], name, zone, project)) for zone, name in sold]
    return aggregated("machineType", "machineTypes", scopes_of(datacenter), found, query)


def machine_type(kind: InstanceType, name: str, zone: str, project: str) -> Json:
    """One machine type."""
    said: Json = {
        "kind": "compute#machineType",
        "name": name,
        "guestCpus": kind.vcpus,
        "memoryMb": kind.memory_mib,
        "zone": zone,
        "selfLink": url(project, f"zones/{zone}/machineTypes/{name}"),
    }
    if kind.gpu_count:
        said["accelerators"] = [{"guestAcceleratorType": accelerator_of(kind), "guestAcceleratorCount": kind.gpu_count}]
    return said


def zones(datacenter: Datacenter, project: str, query: Mapping[str, str]) -> Json:
    """All zones."""
    found = zones_of(datacenter)
    return plain_list("zone", ((each.name, _place("zone", each.name, project, each.region)) for each in found), query)


def regions(datacenter: Datacenter, project: str, query: Mapping[str, str]) -> Json:
    """All regions."""
    found = sorted({zone.region for zone in zones_of(datacenter)})
    return plain_list("region", ((name, _place("region", name, project)) for name in found), query)


def _place(kind: str, name: str, project: str, region: str = "") -> Json:
    said: Json = {"kind": f"compute#{kind}", "name": name, "status": "UP", "selfLink": url(project, f"{kind}s/{name}")}
    return said | ({"region": url(project, f"regions/{region}")} if region else {})


def capacity(datacenter: Datacenter, region: str, body: Json, named: Sequence[str]) -> Json:
    """advice.capacity: how likely it is that all can be had, as one recommendation. Raises GceError."""
    if text((body.get("instanceProperties") or {}).get("scheduling") or {}, "provisioningModel") != "SPOT":
        raise GceError("invalid", "Invalid value for field 'instanceProperties.scheduling.provisioningModel': must be SPOT.")
    policy = body.get("distributionPolicy") or {}
    zones = [text(each, "zone").rpartition("/")[2] for each in policy.get("zones") or []] or list(named)
    if set(zones) - set(named):
        raise GceError("invalid", f"Invalid value for field 'distributionPolicy.zones': not in {region}.")
    selections = (body.get("instanceFlexibilityPolicy") or {}).get("instanceSelections") or {}
    types = [kind for each in selections.values() for kind in each.get("machineTypes") or []]
    size = count(body, "size", 1)
    if not types or size < 1:
        raise GceError("invalid", "Invalid value for field 'instanceFlexibilityPolicy' or 'size'.")
    free = {(zone, kind): datacenter.market.free(Pool(zone, kind, "spot"), datacenter.now()) for zone in zones for kind in types}
    (zone, kind), most = max(free.items(), key=lambda each: each[1])
    uptime_s = UPTIMES_S[0] if most > size else UPTIMES_S[1]
    shard = {"zone": zone, "machineType": kind, "provisioningModel": "SPOT", "instanceCount": min(most, size)}
    scores = {"obtainability": min(1.0, most / size), "estimatedUptime": f"{uptime_s}s"}
    return {"recommendations": [{"scores": scores, "shards": [shard]}]}


def capacity_history(datacenter: Datacenter, project: str, body: Json, named: Sequence[str]) -> Json:
    """advice.capacityHistory: a zone's spot prices, and how many of the Spot VMs that ended were taken back. Raises GceError."""
    properties = body.get("instanceProperties") or {}
    if text(properties.get("scheduling") or {}, "provisioningModel") != "SPOT":
        raise GceError("invalid", "Invalid value for field 'instanceProperties.scheduling.provisioningModel': must be SPOT.")
    kind = text(properties, "machineType")
    zone = text(body.get("locationPolicy") or {}, "location").rpartition("/")[2]
    pool, now = Pool(zone, kind, "spot"), datacenter.now()
    if zone not in named or pool not in datacenter.market.pools:
        raise GceError("invalid", f"Invalid value for field 'locationPolicy.location': no {kind[:60]} there.")
    said: Json = {"machineType": kind, "location": url(project, f"zones/{zone}")}
    if "PRICE" in (body.get("types") or []):
        points = datacenter.market.pools[pool].price_usd_h.between(now - HISTORY_S, now)
        ends = [*(at for at, _ in points[1:]), now]
        said["priceHistory"] = [
            {"interval": _interval(at, end), "listPrice": money(price)} for (at, price), end in zip(points, ends, strict=True)
        ]
    if "PREEMPTION" in (body.get("types") or []):
        ended = [each for each in datacenter.machines.values() if each.pool == pool and each.gone is not None]
        taken = sum(each.reason_code == "Server.SpotInstanceTermination" for each in ended)
        said["preemptionHistory"] = [{"interval": _interval(now - 86_400, now), "preemptionRate": taken / len(ended) if ended else 0.0}]
    return said


def _interval(start_s: float, end_s: float) -> Json:
    return {"startTime": time_text(start_s), "endTime": time_text(end_s)}


def money(usd: float) -> Json:
    """An amount of US dollars; 64-bit numbers are strings in JSON."""
    nanos = round(usd * 1e9)
    return {"currencyCode": "USD", "units": str(nanos // 1_000_000_000), "nanos": nanos % 1_000_000_000}
