"""What Azure says of machines and their interfaces, in our words. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast_common.policy_checks import pool_name

from holdfast_controller.providers.azure_wire import is_vm_id, last_part, region_of, strings, table, unix
from holdfast_controller.providers.base import Instance, Market
from holdfast_controller.providers.tags import TAG_LAUNCH

NO_POWER = "none"
"""Our word for an instance view without a power state, which Azure gives of a machine that has never had a host."""
_STOPPED = {"stopped", "stopping", "deallocated", "deallocating"}
_NEVER_MADE = {NO_POWER, "stopped", "deallocated"}

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine as Azure told it, with what its instance does not hold."""

    instance: Instance
    name: str
    """Of the resource; with its set, what it is deleted by."""
    set_name: str
    """Empty for a machine of no set."""
    resource_id: str
    """In lower case."""
    provisioning: str
    """In lower case: creating, succeeded, failed, deleting…"""
    power: str
    """Running, stopped, deallocated…, NO_POWER; empty: not told."""
    ran: bool = False
    """Whether this process has ever seen it placed."""

    @property
    def placed(self) -> bool:
        """Whether Azure has found it a host: the rest is booting."""
        return self.power == "running" or self.provisioning == "succeeded"

    @property
    def shut_down(self) -> bool:
        """Whether its own guest shut it down: Azure keeps such a machine on its host, and bills it."""
        return self.power == "stopped" and (self.provisioning == "succeeded" or (self.provisioning == "failed" and self.ran))

    @property
    def litter(self) -> bool:
        """Whether it looks like what Azure leaves of a machine that it could not make.

        Failed says many things, of machines that run as well: only one that Azure positively shows without power, and that nobody here
        has ever seen placed, is such. A power state that is unknown, or not told, says nothing.
        """
        return self.provisioning == "failed" and self.power in _NEVER_MADE and not self.ran


def seen_of(
    said: Json, provider: str, *, tags: Mapping[str, str] | None = None, power: str = "", address: str = "", launch_id: str = ""
) -> Seen | None:
    """Return a machine as Azure describes it; None for one without a vmId.

    `tags` are its set's, `launch_id` the one that was asked for: whether Azure copies a set's tags to its machines does not matter.
    """
    properties = table(said, "properties")
    vm_id = str(properties.get("vmId") or "").lower()
    if not is_vm_id(vm_id):
        return None
    own = {**(tags or {}), **strings(table(said, "tags"))}
    power = power_of(properties) or power
    provisioning = str(properties.get("provisioningState") or "").lower()
    zones = said.get("zones")
    market = Market.SPOT if str(properties.get("priority", "")).lower() == "spot" else Market.ON_DEMAND
    region, size = region_of(said.get("location")), str(table(properties, "hardwareProfile").get("vmSize", ""))
    instance = Instance(
        instance_id=vm_id,
        launch_id=own.get(TAG_LAUNCH, launch_id),
        pool=pool_name(provider, region, str(zones[0]) if isinstance(zones, list) and zones else "", size, market),
        state=state_of(provisioning, power),
        address=address,
        launched=unix(properties.get("timeCreated")),
        state_reason=reason_of(properties),
        tags=own,
    )
    owner = last_part(table(properties, "virtualMachineScaleSet").get("id"))
    return Seen(instance, str(said.get("name", "")), owner, str(said.get("id", "")).lower(), provisioning, power)


def remembered(seen: Seen) -> Seen:
    """Return a machine as one that was once seen placed."""
    return replace(seen, ran=True, instance=replace(seen.instance, state=state_of(seen.provisioning, seen.power, ran=True)))


def state_of(provisioning: str, power: str, *, ran: bool = False) -> str:
    """Return our word for a provisioning and a power state. What Azure may invent later counts as running: unknown is not gone."""
    if provisioning == "deleting" or power in _STOPPED:
        return "stopping"
    if provisioning == "failed" and power == NO_POWER and not ran:
        return "stopping"
    return "pending" if provisioning == "creating" else "running"


def statuses(properties: Json) -> list[Json]:
    """Return the statuses of a machine's instance view."""
    found = table(properties, "instanceView").get("statuses")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def power_of(properties: Json) -> str:
    """Return what comes after `PowerState/`, in lower case; NO_POWER for an instance view without, empty where there is no view."""
    codes = [str(each.get("code", "")) for each in statuses(properties)]
    return next((code.partition("/")[2].lower() for code in codes if code.lower().startswith("powerstate/")), NO_POWER if codes else "")


def reason_of(properties: Json) -> str:
    """Return why a machine could not be made, as its instance view says: `AllocationFailed: …`."""
    for each in statuses(properties):
        code = str(each.get("code", ""))
        if code.lower().startswith("provisioningstate/failed/"):
            return f"{code.split('/')[2]}: {each.get('message', '')}"[:2000]
    return ""


def addresses(cards: Iterable[Json]) -> dict[str, str]:
    """Return machine's resource id (lower case) → private address of its primary interface."""
    found: dict[str, str] = {}
    for card in cards:
        properties = table(card, "properties")
        machine = str(table(properties, "virtualMachine").get("id", "")).lower()
        settings = properties.get("ipConfigurations")
        first = next((each for each in settings if isinstance(each, Mapping)), {}) if isinstance(settings, list) else {}
        address = table(first, "properties").get("privateIPAddress")
        if machine and isinstance(address, str) and (properties.get("primary") is not False or machine not in found):
            found[machine] = address
    return found
