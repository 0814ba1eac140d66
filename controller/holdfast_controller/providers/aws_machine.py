"""What RunInstances and a fleet's launch templates alike say of a machine in a pool: template, network, placement, reservation. Pure."""

from typing import Any

from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.base import LaunchRequest, Market, Pool

METADATA = {"HttpTokens": "required", "HttpEndpoint": "enabled", "InstanceMetadataTags": "enabled"}
"""The agent reads its cluster and launch from the metadata service; version 1 of that lets any proxy read it."""
ON_SHUTDOWN = "terminate"
"""A machine that shuts itself down is paid for no longer, nor are its disks."""


def template_of(config: AwsConfig, request: LaunchRequest, pool: Pool) -> str:
    """Return the launch template that a machine of the request in this pool starts from; empty: none."""
    own = request.template if pool is request.pool else pool.template
    return own or config.launch_templates.get(pool.name, config.launch_template)


def reference(text: str) -> dict[str, str]:
    """Return a template's name or id and version, as EC2 takes them."""
    name, _, version = text.partition(":")
    key = "LaunchTemplateId" if name.startswith("lt-") else "LaunchTemplateName"
    return {key: name, "Version": version or "$Default"}


def efa_interfaces(config: AwsConfig, pool: Pool, subnet: str = "", groups: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return an instance's network interfaces where its type gets Elastic Fabric Adapters, or none.

    One per network card: the primary on device 0 with an address, the others on device 1 and, since none but the primary needs an address,
    of type `efa-only` ("Maximize network bandwidth on Amazon EC2 instances with multiple network cards", EC2 User Guide).
    """
    place = {"SubnetId": subnet} if subnet else {}
    guarded = {"Groups": list(groups)} if groups else {}
    return [
        {
            "NetworkCardIndex": card,
            "DeviceIndex": min(card, 1),
            "InterfaceType": "efa-only" if card else "efa",
            "DeleteOnTermination": True,
            **guarded,
            **place,
        }
        for card in range(config.efa_interfaces.get(pool.instance_type, 0))
    ]


def reservation(config: AwsConfig, pool: Pool) -> dict[str, Any]:
    """Return the parameters that put an instance into its pool's capacity reservation or block; none for spot, which cannot be in one."""
    if pool.market is Market.SPOT:
        return {}
    target = config.capacity_blocks.get(pool.name) or config.capacity_reservations.get(
        pool.name, config.capacity_reservations.get(pool.zone, "")
    )
    if not target:
        return {}
    key = "CapacityReservationResourceGroupArn" if target.startswith("arn:") else "CapacityReservationId"
    return {"CapacityReservationSpecification": {"CapacityReservationTarget": {key: target}}}


def price(price_cap_usd_h: float) -> str:
    """Return a price as EC2 reads it."""
    return f"{price_cap_usd_h:.6f}"
