"""How machines are asked for on Azure, and got: the profile of a machine or a set, checked; capacity, taken.

Azure refuses some things at once (a wrong profile, a quota, a price, a size that a zone has not) and finds out about others only while it
works: where there is no room, the resource is there, and its operation fails. What it could start of several machines stays.
"""

import base64
import binascii
import re
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from holdfast_sandbox.arm_account import Call, ScaleSet, VirtualMachine
from holdfast_sandbox.arm_wire import ArmError, Json, part
from holdfast_sandbox.ec2_types import types_of
from holdfast_sandbox.machine import LaunchSpec
from holdfast_sandbox.market import MarketKind, Pool, Quote

USER_DATA_MAX_BYTES = 65_536
_SUBNET = re.compile(r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/virtualNetworks/[^/]+/subnets/[^/]+")
_NETWORK_APIS = ("2020-11-01", "2022-11-01")
_LATER = {"InsufficientInstanceCapacity"}
"""The market's codes that Azure finds out only while it works."""


@dataclass(frozen=True)
class Order:
    """Machines of one kind."""

    location: str
    zones: list[str]
    size: str
    market: MarketKind
    ceiling: float | None
    image: str
    user_data: bytes
    body: Json
    """Properties of each machine, as they are told back."""
    tags: dict[str, str]


def ordered(call: Call, profile: Json, size: object, tags: dict[str, str]) -> Order:
    """An order from a checked profile; raises ArmError."""
    location = call.location(call.body.get("location"))
    zones = _zones(call, location)
    if size not in types_of(call.account.datacenter.config.all_instance_types(), "azure"):
        raise ArmError("InvalidParameter", f"The value {str(size)[:50]} provided for the VM size is not valid.")
    market, ceiling = _priced(profile)
    _check_login(profile)
    _check_network(profile)
    user_data = profile.get("userData")
    body = {key: value for key, value in profile.items() if key != "userData"} | {"hardwareProfile": {"vmSize": size}}
    return Order(location, zones, str(size), market, ceiling, _image(profile), _decoded(user_data), body, tags)


def _zones(call: Call, location: str) -> list[str]:
    known, asked = call.account.zones(location), call.body.get("zones") or []
    if not isinstance(asked, list) or not set(map(str, asked)) <= set(known):
        message = f"The zone(s) '{asked}' for resource is not supported. The supported zones for location '{location}' are '{known}'."
        raise ArmError("InvalidAvailabilityZone", message)
    return [str(zone) for zone in asked]


def _priced(profile: Json) -> tuple[MarketKind, float | None]:
    priority = profile.get("priority", "Regular")
    policy, price = profile.get("evictionPolicy"), part(profile, "billingProfile", "maxPrice")
    if priority != "Spot":
        if policy is not None:
            raise ArmError(
                "EvictionPolicyCanBeSetOnlyOnAzureSpotVirtualMachines", "Eviction policy can be set only on Azure Spot Virtual Machines."
            )
        return "on_demand", None
    if policy != "Delete":
        raise ArmError("InvalidParameter", "This simulated cloud evicts by deletion only: evictionPolicy must be Delete.")
    if price is None or price == -1:
        return "spot", None
    if isinstance(price, bool) or not isinstance(price, int | float) or price <= 0:
        raise ArmError("MaxPriceValueInvalid", "Invalid max price value. The only supported values are -1 or a decimal greater than zero.")
    return "spot", float(price)


def _check_login(profile: Json) -> None:
    if not part(profile, "osProfile", "adminUsername"):
        raise ArmError("InvalidParameter", "Required parameter 'adminUsername' is missing (null).")
    keys = part(profile, "osProfile", "linuxConfiguration", "ssh", "publicKeys")
    if not part(profile, "osProfile", "adminPassword") and not (isinstance(keys, list) and keys):
        message = "Authentication using either SSH or by user name and password must be enabled in Linux profile."
        raise ArmError("InvalidParameter", message)


def _check_network(profile: Json) -> None:
    cards = part(profile, "networkProfile", "networkInterfaceConfigurations")
    if part(profile, "networkProfile", "networkInterfaces"):
        return
    if part(profile, "networkProfile", "networkApiVersion") not in _NETWORK_APIS:
        raise ArmError("InvalidParameter", f"The value of parameter networkApiVersion is not one of {_NETWORK_APIS}.")
    if not isinstance(cards, list) or not cards:
        raise ArmError("InvalidParameter", "Required parameter 'networkProfile.networkInterfaceConfigurations' is missing (null).")
    for card in cards:
        for address in part(card, "properties", "ipConfigurations") or []:
            subnet = part(address, "properties", "subnet", "id")
            if not isinstance(subnet, str) or not _SUBNET.fullmatch(subnet):
                raise ArmError("LinkedInvalidPropertyId", f"Property id '{str(subnet)[:200]}' of a subnet is invalid.")


def _image(profile: Json) -> str:
    reference = part(profile, "storageProfile", "imageReference")
    if not isinstance(reference, dict) or not reference:
        raise ArmError("InvalidParameter", "Required parameter 'imageReference' is missing (null).")
    return str(reference.get("id") or ":".join(str(reference.get(key, "")) for key in ("publisher", "offer", "sku", "version")))


def _decoded(user_data: Any) -> bytes:
    try:
        content = base64.b64decode(user_data or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise ArmError("InvalidParameter", "The value of parameter userData is invalid: it must be base64-encoded.") from None
    if len(content) > USER_DATA_MAX_BYTES:
        raise ArmError("InvalidParameter", f"User data is longer than {USER_DATA_MAX_BYTES} bytes.")
    return content


def start(call: Call, order: Order, names: list[str], scale_set: ScaleSet | None) -> tuple[list[VirtualMachine], ArmError | None]:
    """Make resources of these names and start what there is room for; the error says why not all. Raises ArmError where none is made."""
    left = list(names)
    made: list[VirtualMachine] = []
    error: ArmError | None = None
    datacenter = call.account.datacenter
    datacenter.record.write("launch_request", action=call.action, region=order.location, wanted=len(names), client_token=call.key[2])
    for pool in _pools(call, order):
        quote = datacenter.quote(pool, len(left), order.ceiling)
        if quote.count < len(left):
            error = _refused(call, order, pool, quote)
            if quote.code not in _LATER:
                if made:
                    break
                raise error
        granted, left = left[: quote.count], left[quote.count :]
        made.extend(_launch(call, order, pool, granted, scale_set))
        if not left:
            return made, None
    for name in left:
        made.append(_resource(call, order, name, order.zones[0] if len(order.zones) == 1 else "", scale_set))
        made[-1].failure = error
    call.account.machines.update((call.key_of(each.name), each) for each in made)
    return made, error


def _pools(call: Call, order: Order) -> Iterator[Pool]:
    """The pools to try: the order's zones (any where it names none), those with most room first."""
    market = call.account.datacenter.market
    zones = order.zones or call.account.zones(order.location)
    pools = [Pool(f"{order.location}-{zone}", order.size, order.market) for zone in zones]
    yield from sorted(pools, key=lambda pool: -market.free(pool, call.now))


def _refused(call: Call, order: Order, pool: Pool, quote: Quote) -> ArmError:
    token = call.key[2]
    place = {"zone": pool.zone, "instance_type": pool.instance_type, "lifecycle": pool.market}
    call.account.datacenter.record.write("refused", **place, code=quote.code, client_token=token)
    if quote.code == "InsufficientInstanceCapacity":
        code = "ZonalAllocationFailed" if order.zones else "AllocationFailed"
        return ArmError(
            code, f"Allocation failed. We do not have sufficient capacity for the requested VM size in this zone. {quote.message}"
        )
    if quote.code == "Unsupported":
        message = f"The requested size for resource is currently not available in location '{order.location}' zones '{order.zones}'."
        return ArmError("SkuNotAvailable", message)
    if quote.code == "SpotMaxPriceTooLow":
        return ArmError("SpotPriceGreaterThanProvidedMaxPrice", f"Unable to perform operation: {quote.message}")
    if quote.code == "MaxSpotInstanceCountExceeded":
        message = "Operation could not be completed as it results in exceeding approved LowPriorityCores quota."
        return ArmError("OperationNotAllowed", message)
    return ArmError(quote.code or "InternalServerError", quote.message)


def _launch(call: Call, order: Order, pool: Pool, names: list[str], scale_set: ScaleSet | None) -> list[VirtualMachine]:
    if not names:
        return []
    zone = pool.zone.removeprefix(f"{order.location}-") if order.zones else ""
    made = [_resource(call, order, name, zone, scale_set) for name in names]
    spec = LaunchSpec(
        image_id=order.image,
        user_data=order.user_data,
        tags=order.tags,
        max_price_usd_h=order.ceiling,
        attributes={
            "subscriptionId": call.names["subscription"],
            "resourceGroupName": call.names["group"],
            "vmScaleSetName": scale_set.name if scale_set else "",
            "zone": zone,
            "properties": order.body,
        },
    )
    machines = call.account.datacenter.launch(pool, len(names), spec, call.key[2], named={each.vm_id: each.name for each in made})
    for each, machine in zip(made, machines, strict=True):
        each.machine = machine
        call.account.machines[call.key_of(each.name)] = each
    return made


def _resource(call: Call, order: Order, name: str, zone: str, scale_set: ScaleSet | None) -> VirtualMachine:
    return VirtualMachine(
        resource_id=call.resource_id("virtualMachines", name),
        name=name,
        vm_id=str(uuid.uuid4()),
        location=order.location,
        zone=zone,
        body=order.body,
        tags=dict(order.tags),
        created=call.now,
        scale_set=scale_set,
    )


def member_names(scale_set: str, count: int) -> list[str]:
    """Names for new machines of a set, as Azure makes them: the set's and eight characters."""
    return [f"{scale_set}_{secrets.token_hex(4)}" for _ in range(count)]
