"""What the handlers of Azure's operations share: the resources of all subscriptions, and one call to them.

A virtual machine is a resource of its own: it is there before its machine runs, stays where none could be had (Failed), and goes
when the machine is deleted or evicted. One that its own guest shut down stays, stopped, as Azure keeps it (and bills it).
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from holdfast_sandbox.arm_wire import ArmError, Json, Reply, same
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.machine import Machine

GUEST_SHUTDOWN = "Client.InstanceInitiatedShutdown"
Key = tuple[str, str, str]
"""Subscription, resource group and name, in lower case."""


@dataclass
class ScaleSet:
    """A flexible scale set: how its machines are made, and a name to find them by."""

    resource_id: str
    name: str
    location: str
    zones: list[str]
    body: Json
    tags: dict[str, str]
    created: float
    operation: "Operation | None" = None
    deleting: bool = False


@dataclass
class VirtualMachine:
    """A virtual machine, of a set or alone."""

    resource_id: str
    name: str
    vm_id: str
    location: str
    zone: str
    body: Json
    tags: dict[str, str]
    created: float
    scale_set: ScaleSet | None = None
    machine: Machine | None = None
    failure: ArmError | None = None

    @property
    def stopped(self) -> bool:
        """Whether its own guest shut it down."""
        return self.machine is not None and not self.machine.alive and self.machine.reason_code == GUEST_SHUTDOWN

    @property
    def vanished(self) -> bool:
        """Whether the resource went with its machine."""
        return self.machine is not None and not self.machine.alive and not self.stopped

    @property
    def provisioning(self) -> str:
        """Its provisioning state."""
        if self.machine is None:
            return "Failed"
        return {"pending": "Creating", "running": "Succeeded", "shutting-down": "Deleting"}.get(self.machine.state, "Succeeded")


@dataclass
class Operation:
    """Something that goes on after its call was answered."""

    operation_id: str
    started: float
    machines: list[VirtualMachine]
    deletes: bool = False
    error: ArmError | None = None

    @property
    def status(self) -> str:
        """InProgress, Succeeded or Failed."""
        if self.error is not None:
            return "Failed"
        running = (each.machine for each in self.machines if each.machine is not None)
        if self.deletes:
            return "InProgress" if any(machine.alive for machine in running) else "Succeeded"
        return "InProgress" if any(machine.state == "pending" for machine in running) else "Succeeded"


@dataclass
class Account:
    """The state behind the endpoint."""

    datacenter: Datacenter
    sets: dict[Key, ScaleSet] = field(default_factory=dict)
    machines: dict[Key, VirtualMachine] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)

    def settle(self) -> None:
        """Drop what has vanished since the last look."""
        self.machines = {key: each for key, each in self.machines.items() if not each.vanished}
        self.sets = {key: each for key, each in self.sets.items() if not each.deleting or any(self.members(each))}

    def members(self, scale_set: ScaleSet) -> Iterator[VirtualMachine]:
        """The machines of a set."""
        return (each for each in self.machines.values() if each.scale_set is scale_set)

    def locations(self) -> list[str]:
        """The regions that this cloud has."""
        return sorted({zone.region for zone in self.datacenter.market.zones.values() if zone.provider == "azure"})

    def zones(self, location: str) -> list[str]:
        """The numbers of a region's zones."""
        zones = self.datacenter.market.zones.values()
        found = (zone.name for zone in zones if zone.provider == "azure" and zone.region == location)
        return sorted(name.removeprefix(f"{location}-") for name in found)


@dataclass(frozen=True)
class Call:
    """One request: what its path names, its query, its headers (names in lower case) and body, its moment."""

    account: Account
    action: str
    names: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: Json
    origin: str
    path: str
    now: float

    @property
    def key(self) -> Key:
        """The key of the resource that the path names."""
        return self._key(self.names["name"])

    def _key(self, name: str) -> Key:
        return self.names["subscription"].lower(), self.names["group"].lower(), name.lower()

    def in_group(self, key: Key) -> bool:
        """Whether a resource is in the subscription, and in the resource group where the path names one."""
        return same(key[0], self.names["subscription"]) and same(key[1], self.names.get("group", key[1]))

    def key_of(self, name: str) -> Key:
        """The key of a resource of that name in the path's resource group."""
        return self._key(name)

    def resource_id(self, kind: str, name: str) -> str:
        """The id of a resource of Microsoft.Compute in the path's resource group."""
        group = f"/subscriptions/{self.names['subscription']}/resourceGroups/{self.names['group']}"
        return f"{group}/providers/Microsoft.Compute/{kind}/{name}"

    def location(self, name: object) -> str:
        """A location as this cloud writes it; raises ArmError for one that it has not."""
        found = str(name).lower().replace(" ", "")
        if found not in self.account.locations():
            message = f"The provided location '{str(name)[:50]}' is not available. The available regions are '{self.account.locations()}'."
            raise ArmError("LocationNotAvailableForResourceType", message)
        return found

    def begin(self, location: str, machines: list[VirtualMachine], *, deletes: bool = False, error: ArmError | None = None) -> Operation:
        """Note that something goes on."""
        operation = Operation(secrets.token_hex(16), self.now, machines, deletes, error)
        self.account.operations[f"{location} {operation.operation_id}"] = operation
        return operation

    def goes_on(self, operation: Operation, location: str, body: Json | None, status: int) -> Reply:
        """The answer to a call whose work goes on, with where to ask for it."""
        path = f"/subscriptions/{self.names['subscription']}/providers/Microsoft.Compute/locations/{location}"
        link = f"{self.origin}{path}/operations/{operation.operation_id}?api-version={self.query['api-version']}"
        return Reply(body, status, {"Azure-AsyncOperation": link, "Retry-After": "0"})


Handler = Callable[[Call], Reply]
