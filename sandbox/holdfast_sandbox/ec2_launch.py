"""EC2 actions that launch: CreateFleet (type instant) and RunInstances."""

import secrets
from dataclasses import replace
from typing import Any

from holdfast_sandbox.ec2_account import Call, Handler, subnet_of
from holdfast_sandbox.ec2_fleet import Candidate, Placed, Refused, fill, groups, placed_capacity, ranked, spread
from holdfast_sandbox.ec2_instances import OWNER, instance_wire
from holdfast_sandbox.ec2_templates import LaunchTemplate, Params, launch_spec, specified_tags
from holdfast_sandbox.ec2_types import types_of
from holdfast_sandbox.ec2_wire import Ec2Error
from holdfast_sandbox.machine import LaunchSpec, Machine
from holdfast_sandbox.market import MarketKind, Pool, Quote

SPOT_STRATEGIES = frozenset(
    ("lowest-price", "diversified", "capacity-optimized", "capacity-optimized-prioritized", "price-capacity-optimized")
)
LEAST_FLEET_PRICE = 0.001  # what CreateFleet's documentation demands of MaxPrice
MOST_MINIMUM = 1000  # and of MinTargetCapacity
NO_IMAGE = Quote(0, "MissingParameter", "The request must contain the parameter ImageId")


def _price(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 < price < 1e6:
        raise Ec2Error("InvalidParameterValue", f"Value ({text[:50]}) for parameter price is invalid.")
    return price


def _with_template(call: Call, reference: Params) -> tuple[LaunchTemplate, Params, dict[str, str]]:
    """A template, the data of the version that is meant, and the tags that EC2 itself puts on what is launched from it."""
    template = call.account.templates.find(call.region, reference)
    version = template.version_number(reference.get("Version"))
    tags = {"aws:ec2launchtemplate:id": template.template_id, "aws:ec2launchtemplate:version": str(version)}
    return template, template.versions[version - 1], tags


def _quoter(call: Call) -> Any:
    def quote(candidate: Candidate, wanted: int, elsewhere: int) -> Quote:
        ceiling = candidate.spec.max_price_usd_h
        return call.account.datacenter.quote(candidate.pool, wanted, ceiling, elsewhere)

    return quote


def _launch(call: Call, placed: list[Placed], tags: dict[str, str]) -> list[tuple[Placed, list[Machine]]]:
    token = call.params.get("ClientToken", "")
    launched = []
    for one in placed:
        spec = replace(one.candidate.spec, tags=one.candidate.spec.tags | tags)
        machines = call.account.datacenter.launch(one.candidate.pool, one.count, spec, token)
        launched.append((one, machines))
    return launched


def _log(call: Call, wanted: int, refused: list[Refused]) -> None:
    record = call.account.datacenter.record
    token = call.params.get("ClientToken", "")
    record.write("launch_request", action=call.action, region=call.region, wanted=wanted, client_token=token)
    for one in refused:
        pool = one.candidate.pool
        record.write(
            "refused",
            zone=pool.zone,
            instance_type=pool.instance_type,
            lifecycle=pool.market,
            code=one.quote.code,
            client_token=token,
        )


def _candidates(call: Call, market: MarketKind) -> list[Candidate]:
    """Every pool that the launch template configurations name, in order."""
    result = []
    for config in call.params["LaunchTemplateConfigs"]:
        template, data, tags = _with_template(call, config.get("LaunchTemplateSpecification", {}))
        if "InstanceMarketOptions" in data:
            raise Ec2Error("InvalidFleetConfig", "A launch template for a fleet must not contain InstanceMarketOptions.")
        spec = launch_spec(data)
        spec = replace(spec, tags=spec.tags | tags)
        reference = {
            "LaunchTemplateId": template.template_id,
            "LaunchTemplateName": template.name,
            "Version": tags["aws:ec2launchtemplate:version"],
        }
        for override in config.get("Overrides") or [{}]:
            result.extend(_override(call, market, data, spec, {"specification": reference, "of": override}))
    if len({candidate.pool for candidate in result}) < len(result):
        raise Ec2Error("InvalidFleetConfig", "The fleet configuration contains duplicate instance pools.")
    return result


def _override(call: Call, market: MarketKind, data: Params, spec: LaunchSpec, wire: Params) -> list[Candidate]:
    override: Params = wire["of"]
    if "InstanceRequirements" in override or "InstanceRequirements" in data:
        raise Ec2Error("UnsupportedOperation", "This cloud does not choose instance types by requirements.")
    instance_type = override.get("InstanceType", data.get("InstanceType"))
    if instance_type is None:
        raise Ec2Error("InvalidFleetConfig", "An override or its launch template must name an instance type.")
    if "SubnetId" in override:
        zones = [call.zone_of_subnet(subnet.strip()) for subnet in override["SubnetId"].split(",")]
    elif "AvailabilityZone" in override:
        zones = [call.require_zone(zone.strip()) for zone in override["AvailabilityZone"].split(",")]
    else:
        zones = call.zone_names()
    ceiling = _price(override.get("MaxPrice"))
    if ceiling is not None and ceiling <= LEAST_FLEET_PRICE:
        raise Ec2Error("InvalidParameterValue", f"MaxPrice {ceiling:g} must be more than USD {LEAST_FLEET_PRICE:g}.")
    group = {"group": override["Placement"]["GroupName"]} if override.get("Placement", {}).get("GroupName") else {}
    spec = replace(
        spec,
        image_id=override.get("ImageId", spec.image_id),
        max_price_usd_h=ceiling,
        attributes=spec.attributes | group,
    )
    weight = override.get("WeightedCapacity", 1)
    if weight < 1 or weight != int(weight):
        raise Ec2Error("InvalidParameterValue", f"Value ({weight}) for parameter WeightedCapacity is invalid.")
    return [
        _candidate(
            call,
            Candidate(
                pool=Pool(zone, instance_type, market),
                spec=spec,
                wire=_override_wire(wire, instance_type, zone),
                price_usd_h=0.0,
                free=0,
                priority=override.get("Priority", 0.0),
                weight=int(weight),
                fault=None if spec.image_id else NO_IMAGE,
            ),
        )
        for zone in zones
    ]


def _override_wire(wire: Params, instance_type: str, zone: str) -> Params:
    kept = {key: value for key, value in wire["of"].items() if key in ("MaxPrice", "WeightedCapacity", "Priority")}
    place = {"InstanceType": instance_type, "AvailabilityZone": zone, "SubnetId": subnet_of(zone)}
    return {"LaunchTemplateSpecification": wire["specification"], "Overrides": kept | place}


def _candidate(call: Call, candidate: Candidate) -> Candidate:
    """The candidate with what the market says of it now."""
    market = call.account.datacenter.market
    known = candidate.pool in market.pools
    price = market.price_usd_h(candidate.pool, call.now) if known else float("inf")
    return replace(candidate, price_usd_h=price, free=market.free(candidate.pool, call.now))


def _targets(params: Params) -> dict[MarketKind, int]:
    wanted = params["TargetCapacitySpecification"]
    total = wanted["TotalTargetCapacity"]
    split: dict[MarketKind, int] = {
        "on_demand": wanted.get("OnDemandTargetCapacity", 0),
        "spot": wanted.get("SpotTargetCapacity", 0),
    }
    default = wanted.get("DefaultTargetCapacityType", "on-demand")
    if default not in ("spot", "on-demand"):
        raise Ec2Error("InvalidParameterValue", f"Value ({default[:50]}) for DefaultTargetCapacityType is invalid.")
    if total < 1 or min(split.values()) < 0 or sum(split.values()) > total:
        raise Ec2Error("InvalidTargetCapacitySpecification", "The target capacities are negative or exceed the total.")
    split["spot" if default == "spot" else "on_demand"] += total - sum(split.values())
    return split


def _fulfil(call: Call, market: MarketKind, target: int) -> tuple[list[Placed], list[Refused]]:
    options = call.params.get("SpotOptions" if market == "spot" else "OnDemandOptions", {})
    strategy = options.get("AllocationStrategy", "lowest-price")
    if strategy not in (SPOT_STRATEGIES if market == "spot" else {"lowest-price", "prioritized"}):
        raise Ec2Error("InvalidParameterValue", f"Value ({strategy[:50]}) for AllocationStrategy is invalid.")
    one_type, one_zone = options.get("SingleInstanceType", False), options.get("SingleAvailabilityZone", False)
    least = options.get("MinTargetCapacity", 0)
    if least and not (one_type or one_zone):
        message = "MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone."
        raise Ec2Error("InvalidParameterCombination", message)
    if least > MOST_MINIMUM:
        raise Ec2Error("InvalidParameterValue", f"MinTargetCapacity {least} exceeds {MOST_MINIMUM}.")
    if "MaxTotalPrice" in options:
        raise Ec2Error("UnsupportedOperation", "This cloud knows MaxPrice in overrides, but not MaxTotalPrice.")
    candidates = ranked(_candidates(call, market), strategy, target)
    best: list[Placed] = []
    errors: list[Refused] = []
    split = groups(candidates, one_type, one_zone)
    split.sort(key=lambda group: -min(target, sum(candidate.free * candidate.weight for candidate in group)))
    for group in split:
        placed, refused = (spread if strategy == "diversified" else fill)(group, target, _quoter(call))
        errors.extend(refused)
        if placed_capacity(placed) > placed_capacity(best):
            best = placed
        if placed_capacity(best) >= target:
            break
    return (best if placed_capacity(best) >= least else []), errors


def create_fleet(call: Call) -> Params:
    """CreateFleet, type instant: what can be had now, and an error for each override that gave less than asked."""
    params = call.params
    if params.get("Type", "maintain") != "instant":
        raise Ec2Error("UnsupportedOperation", "This cloud has only fleets of type instant.")
    fleet_id = f"fleet-{secrets.token_hex(16)}"
    tags = specified_tags(params.get("TagSpecifications"), "instance") | {"aws:ec2:fleet-id": fleet_id}
    instances: list[Params] = []
    errors: list[Params] = []
    for market, target in _targets(params).items():
        if target == 0:
            continue
        placed, refused = _fulfil(call, market, target)
        _log(call, target, refused)
        lifecycle = {"Lifecycle": "spot" if market == "spot" else "on-demand"}
        for one, machines in _launch(call, placed, tags):
            pool = one.candidate.pool
            place = {"InstanceType": pool.instance_type, "AvailabilityZone": pool.zone, "SubnetId": subnet_of(pool.zone)}
            ids = {"InstanceIds": [machine.instance_id for machine in machines]}
            instances.append({"LaunchTemplateAndOverrides": one.candidate.wire} | lifecycle | ids | place)
        for bad in refused:
            error = {"ErrorCode": bad.quote.code, "ErrorMessage": bad.quote.message}
            errors.append({"LaunchTemplateAndOverrides": bad.candidate.wire} | lifecycle | error)
    return {"FleetId": fleet_id, "Instances": instances, "Errors": errors}


def _merged(call: Call) -> tuple[Params, dict[str, str]]:
    """RunInstances' own parameters over those of its launch template, tags of both together; and EC2's own tags."""
    if "LaunchTemplate" not in call.params:
        return call.params, {}
    _, data, own_tags = _with_template(call, call.params["LaunchTemplate"])
    tags = specified_tags(data.get("TagSpecifications"), "instance")
    tags |= specified_tags(call.params.get("TagSpecifications"), "instance")
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return data | call.params | {"TagSpecifications": [{"ResourceType": "instance", "Tags": pairs}]}, own_tags


def _market_options(data: Params) -> tuple[MarketKind, float | None]:
    options = data.get("InstanceMarketOptions")
    if options is None:
        return "on_demand", None
    if options.get("MarketType", "spot") == "capacity-block":
        if not data.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget", {}).get("CapacityReservationId"):
            raise Ec2Error("MissingParameter", "The market type capacity-block needs the id of a capacity reservation.")
        return "on_demand", None
    if options.get("MarketType", "spot") != "spot":
        raise Ec2Error("InvalidParameterValue", "This cloud has only the market types spot and capacity-block.")
    return "spot", _price(options.get("SpotOptions", {}).get("MaxPrice"))


def run_instances(call: Call) -> Params:
    """RunInstances: at most MaxCount and at least MinCount in one zone, or an error and nothing."""
    least, most = call.params["MinCount"], call.params["MaxCount"]
    if not 1 <= least <= most:
        raise Ec2Error("InvalidParameterValue", f"Invalid instance counts: MinCount {least}, MaxCount {most}.")
    data, tags = _merged(call)
    for name in ("ImageId", "InstanceType"):
        if not data.get(name):
            raise Ec2Error("MissingParameter", f"The request must contain the parameter {name}")
    if data.get("NetworkInterfaces") and (data.get("SubnetId") or data.get("SecurityGroupIds")):
        message = "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request"
        raise Ec2Error("InvalidParameterCombination", message)
    market, ceiling = _market_options(data)
    spec = replace(launch_spec(data), max_price_usd_h=ceiling)
    _known_type(call, data["InstanceType"])
    candidates = [_candidate(call, Candidate(Pool(zone, data["InstanceType"], market), spec, {}, 0.0, 0)) for zone in _zones(call, data)]
    refused: list[Refused] = []
    for candidate in ranked(candidates, "price-capacity-optimized", most):
        placed, no = fill([candidate], most, _quoter(call))
        refused.extend(no)
        if placed_capacity(placed) >= least:
            _log(call, most, no)
            machines = _launch(call, placed, tags)[0][1]
            instances = [instance_wire(call, machine) for machine in machines]
            first = machines[0].reservation_id
            return {"ReservationId": first, "OwnerId": OWNER, "Groups": [], "Instances": instances}
    _log(call, most, refused)
    quote = refused[0].quote
    raise Ec2Error(quote.code or "InsufficientInstanceCapacity", quote.message)


def _known_type(call: Call, name: str) -> None:
    if name not in types_of(call.account.datacenter.config.all_instance_types(), "aws"):
        raise Ec2Error("InvalidParameterValue", f"Invalid value '{name[:50]}' for InstanceType.")


def _zones(call: Call, data: Params) -> list[str]:
    interfaces = data.get("NetworkInterfaces") or [{}]
    subnet = data.get("SubnetId") or interfaces[0].get("SubnetId")
    if subnet:
        return [call.zone_of_subnet(subnet)]
    if "AvailabilityZone" in data.get("Placement", {}):
        return [call.require_zone(data["Placement"]["AvailabilityZone"])]
    return call.zone_names()


HANDLERS: dict[str, Handler] = {"CreateFleet": create_fleet, "RunInstances": run_instances}
