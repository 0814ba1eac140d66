"""EC2 actions on instances that exist: describe, terminate, tag."""

import re
from itertools import groupby
from typing import Any

from holdfast_sandbox.ec2_account import Call, Filters, Handler, page, subnet_of, zone_id
from holdfast_sandbox.ec2_templates import Params, checked_tags, tag_list
from holdfast_sandbox.ec2_wire import Ec2Error, timestamp_text
from holdfast_sandbox.machine import STATE_CODES, Machine, StateName

OWNER = "000000000000"


def state(name: StateName) -> Params:
    """An instance state as EC2 writes it."""
    return {"Name": name, "Code": STATE_CODES[name]}


def instance_wire(call: Call, machine: Machine) -> Params:
    """An Instance as DescribeInstances and RunInstances give it."""
    spec, zone = machine.spec, machine.pool.zone
    dns = f"ip-{machine.ip.replace('.', '-')}.{machine.region}.compute.internal"
    result: Params = {
        "InstanceId": machine.instance_id,
        "ImageId": spec.image_id,
        "InstanceType": machine.pool.instance_type,
        "State": state(machine.state),
        "StateTransitionReason": "",
        "LaunchTime": float(int(machine.requested)),
        "AmiLaunchIndex": 0,
        "Placement": {
            "AvailabilityZone": zone,
            "AvailabilityZoneId": zone_id(call.region, call.zone_names(), zone),
            "GroupName": spec.attributes.get("group", ""),
            "Tenancy": "default",
        },
        "SubnetId": subnet_of(zone),
        "VpcId": f"vpc-{machine.region}",
        "Architecture": "x86_64",
        "Hypervisor": "xen",
        "VirtualizationType": "hvm",
        "RootDeviceType": "ebs",
        "ClientToken": machine.client_token,
        "KeyName": spec.key_name,
        "SecurityGroups": [{"GroupId": group, "GroupName": group} for group in spec.security_group_ids],
        "MetadataOptions": {
            "State": "applied",
            "HttpTokens": spec.http_tokens,
            "HttpEndpoint": spec.http_endpoint,
            "InstanceMetadataTags": spec.metadata_tags,
        },
        "Tags": tag_list(machine.tags),
        "Monitoring": {"State": "disabled"},
    }
    if spec.iam_instance_profile:
        result["IamInstanceProfile"] = {"Arn": spec.iam_instance_profile, "Id": "AIPASANDBOX"}
    if target := spec.attributes.get("reservation"):
        result["CapacityReservationSpecification"] = {"CapacityReservationTarget": target}
    if spec.attributes.get("lifecycle") == "capacity-block":
        result["InstanceLifecycle"] = "capacity-block"
    if machine.spot_request_id:
        result |= {"InstanceLifecycle": "spot", "SpotInstanceRequestId": machine.spot_request_id}
    if machine.alive:
        result |= {"PrivateIpAddress": machine.ip, "PrivateDnsName": dns}
    if machine.reason_code:
        result["StateReason"] = {"Code": machine.reason_code, "Message": machine.reason}
        ended = machine.terminating or machine.gone or call.now
        when = timestamp_text(ended)[:19].replace("T", " ")
        result["StateTransitionReason"] = f"{machine.reason_code.partition('.')[2]} ({when} GMT)"
    return result | {"NetworkInterfaces": _interfaces(machine)}


def _interfaces(machine: Machine) -> list[Params]:
    """The interfaces that it was asked for with; only the primary has an address."""
    return [
        {
            "InterfaceType": one.get("InterfaceType", "interface"),
            "SubnetId": one.get("SubnetId", subnet_of(machine.pool.zone)),
            "Groups": [{"GroupId": group, "GroupName": group} for group in one.get("Groups", [])],
            "PrivateIpAddress": machine.ip if machine.alive and not one.get("NetworkCardIndex") else None,
            "Attachment": {
                "NetworkCardIndex": one.get("NetworkCardIndex", 0),
                "DeviceIndex": one.get("DeviceIndex", 0),
                "DeleteOnTermination": one.get("DeleteOnTermination", True),
                "Status": "attached",
            },
        }
        for one in machine.spec.attributes.get("interfaces", [])
    ]


def reservations(call: Call, machines: list[Machine]) -> list[Params]:
    """Machines grouped by the launch that made them."""
    return [
        {
            "ReservationId": reservation,
            "OwnerId": OWNER,
            "Groups": [],
            "Instances": [instance_wire(call, machine) for machine in group],
        }
        for reservation, group in groupby(machines, key=lambda machine: machine.reservation_id)
    ]


def visible(call: Call) -> list[Machine]:
    """The region's machines that EC2 would show now: not too new, not gone too long."""
    config = call.account.datacenter.config
    return [
        machine
        for machine in call.account.datacenter.machines.values()
        if machine.region == call.region
        and (machine.gone is None or call.now - machine.gone < config.terminated_visible_s)
        and call.now - machine.requested >= config.describe_lag_s
    ]


def _check_id(instance_id: str) -> None:
    if not re.fullmatch(r"i-[0-9a-f]{8}([0-9a-f]{9})?", instance_id):
        raise Ec2Error("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')


def _by_ids(machines: list[Machine], ids: list[str]) -> list[Machine]:
    for instance_id in ids:
        _check_id(instance_id)
    known = {machine.instance_id: machine for machine in machines}
    missing = [instance_id for instance_id in ids if instance_id not in known]
    if len(missing) == 1:
        raise Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{missing[0]}' does not exist")
    if missing:
        raise Ec2Error("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(missing)}' do not exist")
    return [known[instance_id] for instance_id in dict.fromkeys(ids)]


FILTERS = frozenset(
    (
        "instance-id",
        "instance-state-name",
        "instance-state-code",
        "instance-type",
        "availability-zone",
        "client-token",
        "instance-lifecycle",
        "reservation-id",
        "image-id",
        "subnet-id",
        "private-ip-address",
        "spot-instance-request-id",
        "state-reason-code",
    )
)


def _filter_values(machine: Machine) -> dict[str, list[str]]:
    return {
        "instance-id": [machine.instance_id],
        "instance-state-name": [machine.state],
        "instance-state-code": [str(STATE_CODES[machine.state])],
        "instance-type": [machine.pool.instance_type],
        "availability-zone": [machine.pool.zone],
        "client-token": [machine.client_token],
        "instance-lifecycle": ["spot"] if machine.pool.market == "spot" else [],
        "reservation-id": [machine.reservation_id],
        "image-id": [machine.spec.image_id],
        "subnet-id": [subnet_of(machine.pool.zone)],
        "private-ip-address": [machine.ip] if machine.alive else [],
        "spot-instance-request-id": [machine.spot_request_id] if machine.spot_request_id else [],
        "state-reason-code": [machine.reason_code] if machine.reason_code else [],
    }


def _selected(call: Call, names: frozenset[str] | None = None) -> tuple[list[Machine], str | None]:
    params = call.params
    ids = params.get("InstanceIds", [])
    if ids and "MaxResults" in params:
        message = "The parameter instancesSet cannot be used with the parameter maxResults"
        raise Ec2Error("InvalidParameterCombination", message)
    machines = visible(call)
    if ids:
        machines = _by_ids(machines, ids)
    filters = Filters(params.get("Filters"), FILTERS)
    keyed = [
        (f"{machine.ordinal:012d}", machine)
        for machine in machines
        if (names is None or machine.state in names) and filters.accept(_filter_values(machine), machine.tags)
    ]
    return page(params, keyed, least=5)


def describe_instances(call: Call) -> Params:
    """DescribeInstances."""
    machines, token = _selected(call)
    return {"Reservations": reservations(call, machines), "NextToken": token}


def describe_instance_status(call: Call) -> Params:
    """DescribeInstanceStatus: running instances, unless IncludeAllInstances."""
    names = None if call.params.get("IncludeAllInstances") else frozenset({"running"})
    machines, token = _selected(call, names)
    statuses = []
    for machine in machines:
        status = "ok" if machine.state == "running" else "not-applicable"
        statuses.append(
            {
                "InstanceId": machine.instance_id,
                "AvailabilityZone": machine.pool.zone,
                "InstanceState": state(machine.state),
                "InstanceStatus": {"Status": status, "Details": []},
                "SystemStatus": {"Status": status, "Details": []},
            }
        )
    return {"InstanceStatuses": statuses, "NextToken": token}


def terminate_instances(call: Call) -> Params:
    """TerminateInstances: all of the ids or, where one is unknown, none."""
    datacenter = call.account.datacenter
    shown = [
        machine
        for machine in datacenter.machines.values()
        if machine.region == call.region and (machine.gone is None or call.now - machine.gone < datacenter.config.terminated_visible_s)
    ]
    changes = []
    for machine in _by_ids(shown, call.params["InstanceIds"]):
        before = machine.state
        datacenter.terminate(machine)
        change = {"PreviousState": state(before), "CurrentState": state(machine.state)}
        changes.append({"InstanceId": machine.instance_id, **change})
    return {"TerminatingInstances": changes}


def _tags_of(call: Call, resource_id: str) -> dict[str, str]:
    if resource_id.startswith("i-"):
        return _by_ids(visible(call), [resource_id])[0].tags
    tags = call.account.templates.tags_of(resource_id)
    if tags is None:
        raise Ec2Error("InvalidID", f"The ID '{resource_id}' is not valid")
    return tags


def create_tags(call: Call) -> Params:
    """CreateTags on instances and launch templates: all of them, or none where one is unknown."""
    new = checked_tags(call.params["Tags"])
    targets = [_tags_of(call, resource_id) for resource_id in call.params["Resources"]]
    for tags in targets:
        if sum(not key.startswith("aws:") for key in tags.keys() | new.keys()) > 50:
            raise Ec2Error("TagLimitExceeded", "The maximum number of tags for this resource is 50.")
    for tags in targets:
        tags.update(new)
    call.account.datacenter.record.write("tagged", resources=call.params["Resources"], tags=new)
    return {}


def delete_tags(call: Call) -> Params:
    """DeleteTags: by key, or by key and value; without tags, all that are not EC2's own."""
    targets = [_tags_of(call, resource_id) for resource_id in call.params["Resources"]]
    for tags in targets:
        pairs: list[dict[str, Any]] = call.params.get("Tags") or [{"Key": k} for k in tags if not k.startswith("aws:")]
        for pair in pairs:
            if pair.get("Key") in tags and pair.get("Value") in (None, tags[pair["Key"]]):
                del tags[pair["Key"]]
    return {}


HANDLERS: dict[str, Handler] = {
    "DescribeInstances": describe_instances,
    "DescribeInstanceStatus": describe_instance_status,
    "TerminateInstances": terminate_instances,
    "CreateTags": create_tags,
    "DeleteTags": delete_tags,
}
