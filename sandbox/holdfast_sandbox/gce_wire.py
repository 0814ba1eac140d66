"""How Compute Engine writes things in JSON: errors, times, URLs, instances."""

import json
from datetime import UTC, datetime
from typing import Any

from holdfast_sandbox.datacenter import SPOT_TERMINATION, USER_SHUTDOWN, Datacenter
from holdfast_sandbox.machine import LaunchSpec, Machine

Json = dict[str, Any]
SOFT_OFF_S = 30.0
"""From the ACPI soft-off signal to the end of a Spot VM; whatever the notice before it, that much is seen from outside."""
TAGS_ITEM = "holdfast-tags"
"""The metadata item in which our provider keeps the full tags: the control API finds instances by them."""
USER_DATA_ITEM = "user-data"
STATUSES = {
    "quotaExceeded": 403,
    "rateLimitExceeded": 403,
    "userRateLimitExceeded": 403,
    "forbidden": 403,
    "accessNotConfigured": 403,
    "authError": 401,
    "notFound": 404,
    "alreadyExists": 409,
    "resourceNotReady": 400,
    "backendError": 503,
    "internalError": 500,
    "ZONE_RESOURCE_POOL_EXHAUSTED": 503,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": 503,
}
"""Of a request that is refused, by its reason; any other is 400."""
CODES = {
    "InsufficientInstanceCapacity": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
    "MaxSpotInstanceCountExceeded": "QUOTA_EXCEEDED",
    "RequestLimitExceeded": "rateLimitExceeded",
    "InternalError": "internalError",
}
"""The market and the control API speak EC2's language; this is what Google says instead."""


class GceError(Exception):
    """A request that Compute Engine refuses; `reason` is its own word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = code_of(reason)
        self.status = STATUSES.get(self.reason, 400)

    def body(self) -> Json:
        """The answer's body."""
        domain = "usageLimits" if self.status == 403 else "global"
        said = {"message": str(self), "domain": domain, "reason": self.reason}
        return {"error": {"code": self.status, "message": str(self), "errors": [said]}}


def code_of(code: str) -> str:
    """Google's word for what went wrong."""
    return CODES.get(code, code)


def time_text(unix_s: float) -> str:
    """A time as Compute Engine writes it: 2026-01-31T12:00:00.000+00:00."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def url(project: str, path: str) -> str:
    """A resource's full URL. It names Google's host, as Google's answers do; nobody asks there."""
    return f"https://www.googleapis.com/compute/v1/projects/{project}/{path}"


def metadata_of(properties: Json) -> dict[str, str]:
    """The metadata items of an instance's properties, by key; raises GceError."""
    items = (properties.get("metadata") or {}).get("items") or []
    return {text(item, "key"): text(item, "value") for item in items}


def text(said: Any, key: str) -> str:
    """A string field, empty where it is missing; raises GceError for anything else."""
    value = said.get(key, "") if isinstance(said, dict) else None
    if not isinstance(value, str):
        raise GceError("invalid", f"Invalid value for field '{key}': a string is expected.")
    return value


def count(said: Json, key: str, default: int) -> int:
    """A number field: Compute Engine writes 64-bit ones as strings, and takes both."""
    value = said.get(key, default)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise GceError("invalid", f"Invalid value for field '{key}': a whole number is expected.")
    return value


def launch_spec(properties: Json, template: str) -> LaunchSpec:
    """How an instance was asked for; raises GceError."""
    metadata = metadata_of(properties)
    labels = {key: text(properties["labels"], key) for key in properties.get("labels") or {}}
    start = [(disk.get("initializeParams") or {}) for disk in properties.get("disks") or [] if isinstance(disk, dict)]
    image = next((text(each, "sourceImage") for each in start if each.get("sourceImage")), template)
    if not image:
        raise GceError("invalid", "Invalid value for field 'resource.instanceProperties.disks': a source image or a template is needed.")
    return LaunchSpec(
        image_id=image,
        user_data=metadata.get(USER_DATA_ITEM, "").encode(),
        tags=labels | _tags(metadata.get(TAGS_ITEM, "")),
        attributes={"metadata": metadata, "resource": properties},
    )


def _tags(written: str) -> dict[str, str]:
    try:
        tags = json.loads(written or "{}")
    except ValueError:
        return {}
    return {key: value for key, value in tags.items() if isinstance(value, str)} if isinstance(tags, dict) else {}


def soft_off(machine: Machine) -> float | None:
    """When its soft-off signal came or will come; None where nobody takes it back."""
    taken_at = machine.gone if machine.reason_code == SPOT_TERMINATION else None
    if machine.deadline is None or machine.notice is None:
        return taken_at
    signal = max(machine.notice, machine.deadline - SOFT_OFF_S)
    return signal if taken_at is None else min(signal, taken_at)


def preempted(machine: Machine, now: float) -> bool:
    """Whether it is being taken back, or has been: its signal came before anything else ended it."""
    signal = soft_off(machine)
    ends = [moment for moment in (machine.gone, machine.terminating) if moment is not None]
    return signal is not None and now >= signal and all(moment >= signal for moment in ends)


def status_of(machine: Machine, now: float) -> str:
    """Its status."""
    if machine.state == "terminated":
        return "TERMINATED"
    if machine.state == "shutting-down" or preempted(machine, now):
        return "STOPPING"
    return "RUNNING" if machine.state == "running" else "STAGING"


def vanished(machine: Machine) -> bool:
    """Whether it is listed no more: deleted, or taken back with the termination action DELETE. One that only stopped stays."""
    if machine.gone is None:
        return False
    scheduling = machine.spec.attributes["resource"].get("scheduling") or {}
    deleted_for = preempted(machine, machine.gone) and scheduling.get("instanceTerminationAction") == "DELETE"
    return machine.reason_code == USER_SHUTDOWN or deleted_for


def existing(datacenter: Datacenter, deleted: set[str]) -> list[Machine]:
    """The instances that there are, by zone and name."""
    machines = [each for each in datacenter.machines.values() if each.provider == "gcp"]
    there = [each for each in machines if each.instance_id not in deleted and not vanished(each)]
    return sorted(there, key=lambda each: (each.pool.zone, each.name))


def listed(datacenter: Datacenter, deleted: set[str], now: float) -> list[Machine]:
    """Those of them that the lists have: lists lag behind births."""
    return [each for each in existing(datacenter, deleted) if each.requested <= now - datacenter.config.describe_lag_s]


def instance_json(machine: Machine, project: str, now: float) -> Json:
    """An instance."""
    resource, zone = machine.spec.attributes["resource"], f"zones/{machine.pool.zone}"
    items = [{"key": key, "value": value} for key, value in machine.spec.attributes["metadata"].items()]
    said: Json = {
        "kind": "compute#instance",
        "id": machine.instance_id,
        "name": machine.name,
        "zone": url(project, zone),
        "machineType": url(project, f"{zone}/machineTypes/{machine.pool.instance_type}"),
        "selfLink": url(project, f"{zone}/instances/{machine.name}"),
        "creationTimestamp": time_text(machine.requested),
        "status": status_of(machine, now),
        "labels": resource.get("labels") or {},
        "metadata": {"kind": "compute#metadata", "items": items},
        "scheduling": resource.get("scheduling") or {},
        "networkInterfaces": [{"kind": "compute#networkInterface", "name": "nic0", "networkIP": machine.ip}],
        "resourceStatus": {},
    }
    if machine.running is not None:
        said["lastStartTimestamp"] = time_text(machine.running)
    return said
