"""Between our words and Azure's: names, tags, the body of a scale set, and how to read what Azure says. Pure."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.base import LaunchRequest, Market, Pool
from holdfast_controller.providers.tags import TAG_CLUSTER, own_tags

COUNT_MAX = 1000
"""Machines of one flexible scale set ("Orchestration modes for Virtual Machine Scale Sets")."""
USER_DATA_MAX_BYTES = 65_535
TAGS_MAX, TAG_VALUE_MAX = 50, 256
"""Of one resource ("Use tags to organize your Azure resources")."""
TAG_REQUEST = "holdfast:request"
"""A hash of what was asked for, so that a launch id is not used for two different requests."""
NETWORK_API = "2022-11-01"
"""Of the network interfaces that a scale set makes for its machines; there are two (azure-mgmt-compute's NetworkApiVersion)."""
PREFIX = "holdfast-"
_RESERVED = ("microsoft", "azure", "windows")
_VM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Json = Mapping[str, Any]


def set_name(cluster: str, launch_id: str) -> str:
    """Return the name of a launch's scale set: names have fewer characters than launch ids, and their case does not count."""
    return PREFIX + hashlib.sha256(f"{cluster}\n{launch_id}".encode(errors="replace")).hexdigest()[:32]


def fingerprint(request: LaunchRequest) -> str:
    """Return a hash of what makes a request the same as another."""
    pool = request.pool
    parts = [pool.name, pool.price_cap_usd_h, request.count, request.minimum, request.user_data, sorted(request.tags.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def all_tags(config: AzureConfig, request: LaunchRequest) -> dict[str, str]:
    """Return the tags of a launch's set and machines."""
    return own_tags(config.cluster, request) | {TAG_REQUEST: fingerprint(request)}


def tags_fault(tags: Mapping[str, str]) -> str:
    """Return why Azure would not take these tags; empty where it would. Any key that `tags.TAG_KEY` lets pass is fit for Azure."""
    if len(tags) > TAGS_MAX:
        return f"{len(tags)} tags; Azure takes {TAGS_MAX}"
    if len({key.lower() for key in tags}) != len(tags):
        return "two tag keys differ in case only; to Azure they are the same"
    for key, value in tags.items():
        if len(value) > TAG_VALUE_MAX:
            return f"the value of tag {key[:80]} has {len(value)} characters; Azure takes {TAG_VALUE_MAX}"
        if key.lower().startswith(_RESERVED):
            return f"tag key {key[:80]} begins with a word that Azure keeps for itself"
    return ""


def set_body(config: AzureConfig, request: LaunchRequest, name: str) -> dict[str, Any]:
    """Return the scale set of a launch."""
    pool = request.pool
    properties: dict[str, Any] = {
        "orchestrationMode": "Flexible",
        "singlePlacementGroup": False,
        "platformFaultDomainCount": 1,  # more would allow 200 machines of the N series only, and zones take no other
        "virtualMachineProfile": _profile(config, request, name),
    }
    if group := config.proximity_placement_groups.get(f"{pool.region}/{pool.zone}"):
        properties["proximityPlacementGroup"] = {"id": group}
    body: dict[str, Any] = {
        "location": pool.region,
        "zones": [pool.zone],
        "tags": all_tags(config, request),
        "sku": {"name": pool.instance_type, "tier": "Standard", "capacity": request.count},
        "properties": properties,
    }
    if config.identities:
        body["identity"] = {"type": "UserAssigned", "userAssignedIdentities": {identity: {} for identity in config.identities}}
    return body


def _profile(config: AzureConfig, request: LaunchRequest, name: str) -> dict[str, Any]:
    pool = request.pool
    key = {"path": f"/home/{config.admin_user}/.ssh/authorized_keys", "keyData": config.ssh_public_key}
    disk: dict[str, Any] = {
        "createOption": "FromImage",
        "deleteOption": "Delete",
        "caching": "ReadOnly",
        "managedDisk": {"storageAccountType": config.os_disk_type},
    }
    if config.os_disk_gb is not None:
        disk["diskSizeGB"] = config.os_disk_gb
    profile: dict[str, Any] = {
        "osProfile": {
            "computerNamePrefix": name[:20],
            "adminUsername": config.admin_user,
            "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
        },
        "storageProfile": {"imageReference": _image(config.images[pool.region]), "osDisk": disk},
        "networkProfile": {"networkApiVersion": NETWORK_API, "networkInterfaceConfigurations": [_card(config, pool)]},
    }
    if request.user_data:
        profile["userData"] = base64.b64encode(request.user_data.encode()).decode()
    if config.security_type is not None:
        profile["securityProfile"] = {"securityType": config.security_type}
    if config.terminate_notice_minutes is not None:
        notice = {"enable": True, "notBeforeTimeout": f"PT{config.terminate_notice_minutes}M"}
        profile["scheduledEventsProfile"] = {"terminateNotificationProfile": notice}
    if pool.market is Market.SPOT:
        # Azure takes five decimals; -1 means up to the on-demand price
        ceiling = -1 if pool.price_cap_usd_h is None else round(pool.price_cap_usd_h, 5)
        profile |= {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": ceiling}}
    elif group := config.capacity_reservation_groups.get(pool.name) or config.capacity_reservation_groups.get(f"{pool.region}/{pool.zone}"):
        profile["capacityReservation"] = {"capacityReservationGroup": {"id": group}}
    return profile


def _image(text: str) -> dict[str, str]:
    if text.startswith("/"):
        return {"id": text}
    publisher, offer, sku, version = text.split(":")
    return {"publisher": publisher, "offer": offer, "sku": sku, "version": version}


def _card(config: AzureConfig, pool: Pool) -> dict[str, Any]:
    address = {"name": "primary", "properties": {"primary": True, "subnet": {"id": config.subnets[pool.region]}}}
    properties: dict[str, Any] = {
        "primary": True,
        "deleteOption": "Delete",
        "enableAcceleratedNetworking": config.accelerated_networking,
        "ipConfigurations": [address],
    }
    if group := config.security_groups.get(pool.region):
        properties["networkSecurityGroup"] = {"id": group}
    return {"name": "primary", "properties": properties}


def is_vm_id(text: str) -> bool:
    """Whether a text is a vmId, in lower case."""
    return _VM_ID.fullmatch(text) is not None


def ours(tags: Mapping[str, str], cluster: str) -> bool:
    """Whether a resource is of this cluster."""
    return tags.get(TAG_CLUSTER) == cluster


def region_of(location: object) -> str:
    """Return a location as its short name: `East US` is eastus."""
    return str(location or "").lower().replace(" ", "")


def last_part(resource_id: object) -> str:
    """Return the name at the end of a resource id, in lower case: some answers spell ids in capitals."""
    return resource_id.rpartition("/")[2].lower() if isinstance(resource_id, str) else ""


def table(said: Json, key: str) -> Json:
    """Return the object under a key; an empty one for anything else."""
    found = said.get(key)
    return found if isinstance(found, Mapping) else {}


def strings(said: Json) -> dict[str, str]:
    """Return what of an object are texts."""
    return {str(key): value for key, value in said.items() if isinstance(value, str)}


def unix(text: object) -> float:
    """Return a time of Azure's as Unix seconds; 0 for none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
