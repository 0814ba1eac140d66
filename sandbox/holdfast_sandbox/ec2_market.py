"""EC2 actions that tell what there is: zones, subnets, instance types, prices, placement scores, launch templates."""

from holdfast_sandbox.ec2_account import Call, Filters, Handler, page, subnet_of, zone_id
from holdfast_sandbox.ec2_instances import OWNER
from holdfast_sandbox.ec2_templates import LaunchTemplate, Params
from holdfast_sandbox.ec2_types import types_of
from holdfast_sandbox.ec2_wire import Ec2Error
from holdfast_sandbox.market import Pool

PRODUCT = "Linux/UNIX"
# EC2's documentation: with fewer than three instance types the score is always low.
LEAST_TYPES_FOR_A_SCORE = 3
LOW_SCORE = 3


def describe_availability_zones(call: Call) -> Params:
    """DescribeAvailabilityZones of the region."""
    names = call.zone_names()
    for name in call.params.get("ZoneNames", []):
        call.require_zone(name)
    filters = Filters(call.params.get("Filters"), ("zone-name", "zone-id", "region-name", "state"))
    zones = []
    for name in names:
        one = zone_id(call.region, names, name)
        if call.params.get("ZoneNames") and name not in call.params["ZoneNames"]:
            continue
        attributes = {"zone-name": [name], "zone-id": [one], "region-name": [call.region], "state": ["available"]}
        if filters.accept(attributes, {}):
            zones.append(
                {
                    "ZoneName": name,
                    "ZoneId": one,
                    "RegionName": call.region,
                    "State": "available",
                    "OptInStatus": "opt-in-not-required",
                    "ZoneType": "availability-zone",
                    "Messages": [],
                }
            )
    return {"AvailabilityZones": zones}


def describe_subnets(call: Call) -> Params:
    """DescribeSubnets: one for each zone of the region."""
    names = call.zone_names()
    vpc = f"vpc-{call.region}"
    wanted = call.params.get("SubnetIds", [])
    for subnet in wanted:
        call.zone_of_subnet(subnet)
    filters = Filters(call.params.get("Filters"), ("availability-zone", "subnet-id", "vpc-id", "state"))
    keyed = []
    for index, name in enumerate(names):
        subnet = subnet_of(name)
        attributes = {"availability-zone": [name], "subnet-id": [subnet], "vpc-id": [vpc], "state": ["available"]}
        if (not wanted or subnet in wanted) and filters.accept(attributes, {}):
            description = {
                "SubnetId": subnet,
                "VpcId": vpc,
                "State": "available",
                "AvailabilityZone": name,
                "AvailabilityZoneId": zone_id(call.region, names, name),
                "CidrBlock": f"10.{index}.0.0/16",
                "AvailableIpAddressCount": 65531,
                "OwnerId": OWNER,
                "Tags": [],
            }
            keyed.append((name, description))
    subnets, token = page(call.params, keyed, least=5)
    return {"Subnets": subnets, "NextToken": token}


def describe_instance_types(call: Call) -> Params:
    """DescribeInstanceTypes."""
    types = types_of(call.account.datacenter.config.all_instance_types(), "aws")
    wanted = call.params.get("InstanceTypes") or list(types)
    unknown = [name for name in wanted if name not in types]
    if unknown:
        message = f"The following supplied instance types do not exist: [{', '.join(unknown)}]"
        raise Ec2Error("InvalidInstanceType", message)
    filters = Filters(call.params.get("Filters"), ("instance-type",))
    keyed = [(name, types[name].describe(name)) for name in wanted if filters.accept({"instance-type": [name]}, {})]
    found, token = page(call.params, keyed, least=5, most=100)
    return {"InstanceTypes": found, "NextToken": token}


def describe_instance_type_offerings(call: Call) -> Params:
    """DescribeInstanceTypeOfferings by region, zone or zone id."""
    kind = call.params.get("LocationType", "region")
    names = call.zone_names()
    filters = Filters(call.params.get("Filters"), ("instance-type", "location"))
    found = set()
    for pool in call.account.datacenter.market.pools:
        if pool.zone in names:
            place = {"region": call.region, "availability-zone": pool.zone}.get(kind) or zone_id(call.region, names, pool.zone)
            if filters.accept({"instance-type": [pool.instance_type], "location": [place]}, {}):
                found.add((pool.instance_type, place))
    keyed = [(f"{name} {place}", {"InstanceType": name, "LocationType": kind, "Location": place}) for name, place in found]
    offerings, token = page(call.params, keyed, least=5)
    return {"InstanceTypeOfferings": offerings, "NextToken": token}


def describe_spot_price_history(call: Call) -> Params:
    """DescribeSpotPriceHistory, newest first; headed back to the price that was in force at StartTime."""
    params, market = call.params, call.account.datacenter.market
    filters = Filters(params.get("Filters"), ("availability-zone", "instance-type", "product-description"))
    names = call.zone_names()
    start = params.get("StartTime", 0.0)
    end = min(params.get("EndTime", call.now), call.now)
    if PRODUCT not in params.get("ProductDescriptions", [PRODUCT]):
        return {"SpotPriceHistory": []}
    keyed = []
    for pool, state in market.pools.items():
        if pool.market != "spot" or pool.zone not in names or not _asked_for(params, pool):
            continue
        attributes = {"availability-zone": [pool.zone], "instance-type": [pool.instance_type]}
        if not filters.accept(attributes | {"product-description": [PRODUCT]}, {}):
            continue
        for moment, price in state.price_usd_h.between(start, end):
            newest_first = f"{int((1e11 - moment) * 1e6):018d} {pool.zone} {pool.instance_type}"
            entry = {
                "AvailabilityZone": pool.zone,
                "InstanceType": pool.instance_type,
                "ProductDescription": PRODUCT,
                "SpotPrice": f"{price:.6f}",
                "Timestamp": moment,
            }
            keyed.append((newest_first, entry))
    history, token = page(params, keyed)
    return {"SpotPriceHistory": history, "NextToken": token}


def _asked_for(params: Params, pool: Pool) -> bool:
    types = params.get("InstanceTypes")
    return params.get("AvailabilityZone", pool.zone) == pool.zone and (not types or pool.instance_type in types)


def get_spot_placement_scores(call: Call) -> Params:
    """GetSpotPlacementScores, 1 to 10: how much of the target the pools could hold now (EC2 does not publish its way)."""
    params, market = call.params, call.account.datacenter.market
    target = params["TargetCapacity"]
    types = params.get("InstanceTypes", [])
    if target < 1 or not types:
        raise Ec2Error("InvalidParameterValue", "TargetCapacity and InstanceTypes must not be empty.")
    by_zone = params.get("SingleAvailabilityZone", False)
    places: dict[tuple[str, str], int] = {}
    for zone in sorted(market.zones.values(), key=lambda zone: zone.name):
        if zone.provider != "aws" or zone.region not in params.get("RegionNames", [zone.region]):
            continue
        names = sorted(other.name for other in market.zones.values() if other.region == zone.region)
        place = (zone.region, zone_id(zone.region, names, zone.name) if by_zone else "")
        free = sum(market.free(Pool(zone.name, name, "spot"), call.now) for name in set(types))
        places[place] = places.get(place, 0) + free
    ceiling = 10 if len(set(types)) >= LEAST_TYPES_FOR_A_SCORE else LOW_SCORE
    keyed = []
    for (region, one), free in places.items():
        score = max(1, min(ceiling, 9 * free // target + (free > target)))
        zone_entry = {"AvailabilityZoneId": one} if one else {}
        keyed.append((f"{10 - score:02d} {region} {one}", {"Region": region, "Score": score} | zone_entry))
    scores, token = page(params, keyed, least=10)
    return {"SpotPlacementScores": scores, "NextToken": token}


def create_launch_template(call: Call) -> Params:
    """CreateLaunchTemplate."""
    return {"LaunchTemplate": call.account.templates.create(call.region, call.params, call.now).describe()}


def _version(call: Call, template: LaunchTemplate, number: int) -> Params:
    known = call.account.wire.members("ResponseLaunchTemplateData")
    data = {key: value for key, value in template.versions[number - 1].items() if key in known}
    return {
        "LaunchTemplateId": template.template_id,
        "LaunchTemplateName": template.name,
        "VersionNumber": number,
        "VersionDescription": template.descriptions[number - 1],
        "CreateTime": template.created,
        "DefaultVersion": number == template.default_version,
        "LaunchTemplateData": data,
    }


def create_launch_template_version(call: Call) -> Params:
    """CreateLaunchTemplateVersion."""
    template = call.account.templates.add_version(call.region, call.params)
    return {"LaunchTemplateVersion": _version(call, template, len(template.versions))}


def describe_launch_template_versions(call: Call) -> Params:
    """DescribeLaunchTemplateVersions of one template."""
    template = call.account.templates.find(call.region, call.params)
    numbers = [template.version_number(text) for text in call.params.get("Versions", [])]
    keyed = [(f"{number:06d}", _version(call, template, number)) for number in numbers or range(1, len(template.versions) + 1)]
    versions, token = page(call.params, keyed)
    return {"LaunchTemplateVersions": versions, "NextToken": token}


def modify_launch_template(call: Call) -> Params:
    """ModifyLaunchTemplate: the default version."""
    template = call.account.templates.find(call.region, call.params)
    template.default_version = template.version_number(call.params.get("DefaultVersion"))
    return {"LaunchTemplate": template.describe()}


def describe_launch_templates(call: Call) -> Params:
    """DescribeLaunchTemplates by ids, names, filters."""
    params, templates = call.params, call.account.templates
    ids = [{"LaunchTemplateId": one} for one in params.get("LaunchTemplateIds", [])]
    names = [{"LaunchTemplateName": one} for one in params.get("LaunchTemplateNames", [])]
    wanted = [templates.find(call.region, reference) for reference in ids + names] or templates.all(call.region)
    filters = Filters(params.get("Filters"), ("launch-template-name",))
    keyed = [
        (template.template_id, template.describe())
        for template in wanted
        if filters.accept({"launch-template-name": [template.name]}, template.tags)
    ]
    found, token = page(params, keyed, most=200)
    return {"LaunchTemplates": found, "NextToken": token}


def delete_launch_template(call: Call) -> Params:
    """DeleteLaunchTemplate with all its versions."""
    template = call.account.templates.find(call.region, call.params)
    call.account.templates.delete(template)
    return {"LaunchTemplate": template.describe()}


HANDLERS: dict[str, Handler] = {
    "DescribeAvailabilityZones": describe_availability_zones,
    "DescribeSubnets": describe_subnets,
    "DescribeInstanceTypes": describe_instance_types,
    "DescribeInstanceTypeOfferings": describe_instance_type_offerings,
    "DescribeSpotPriceHistory": describe_spot_price_history,
    "GetSpotPlacementScores": get_spot_placement_scores,
    "CreateLaunchTemplate": create_launch_template,
    "CreateLaunchTemplateVersion": create_launch_template_version,
    "DescribeLaunchTemplates": describe_launch_templates,
    "DescribeLaunchTemplateVersions": describe_launch_template_versions,
    "ModifyLaunchTemplate": modify_launch_template,
    "DeleteLaunchTemplate": delete_launch_template,
}
