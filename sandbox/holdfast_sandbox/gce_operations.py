"""Operations of the Compute Engine endpoint: of requests that were accepted, and of what the system did by itself."""

import secrets
from dataclasses import dataclass, field

from holdfast_sandbox.datacenter import USER_SHUTDOWN
from holdfast_sandbox.gce_wire import GceError, Json, preempted, soft_off, time_text, url
from holdfast_sandbox.machine import Machine

PREEMPTED = "compute.instances.preempted"
GUEST_STOP = "compute.instances.guestTerminate"
HOST_ERROR = "compute.instances.hostError"


@dataclass
class Operation:
    """One operation, which is done as soon as anybody asks for it: the sandbox does at once what it accepts."""

    kind: str
    scope: str  # "zones/us-central1-a" or "regions/us-central1"
    began: float
    target: str = ""  # path below the project
    target_id: str = ""
    group: str = ""
    client_id: str = ""
    errors: list[tuple[str, str]] = field(default_factory=list)
    made: dict[str, Json] = field(default_factory=dict)  # bulkInsert: status by location
    name: str = field(default_factory=lambda: f"operation-{secrets.token_hex(12)}")
    number: str = field(default_factory=lambda: str(secrets.randbits(62) | 1 << 61))

    def json(self, project: str, *, fresh: bool = False) -> Json:
        """As it is told; `fresh` is the first answer, which promises nothing yet."""
        said: Json = {
            "kind": "compute#operation",
            "id": self.number,
            "name": self.name,
            self.scope.partition("s/")[0]: url(project, self.scope),
            "operationType": self.kind,
            "status": "RUNNING" if fresh else "DONE",
            "progress": 0 if fresh else 100,
            "insertTime": time_text(self.began),
            "startTime": time_text(self.began),
            "user": "system" if self.kind.startswith("compute.") else "sandbox",
            "selfLink": url(project, f"{self.scope}/operations/{self.name}"),
        }
        said |= {key: value for key, value in (("operationGroupId", self.group), ("clientOperationId", self.client_id)) if value}
        if self.target:
            said |= {"targetLink": url(project, self.target)} | ({"targetId": self.target_id} if self.target_id else {})
        return said if fresh else said | self._outcome()

    def _outcome(self) -> Json:
        said: Json = {"endTime": time_text(self.began)}
        if self.made:
            said["instancesBulkInsertOperationMetadata"] = {"perLocationStatus": self.made}
        if self.errors:
            said["error"] = {"errors": [{"code": code, "message": message} for code, message in self.errors]}
            said |= {"httpErrorStatusCode": 503, "httpErrorMessage": "SERVICE UNAVAILABLE"}
        return said


class Operations:
    """All operations of a project, by name; those of requests can be found by their request id."""

    def __init__(self) -> None:
        self._all: dict[str, Operation] = {}
        self._by_request: dict[tuple[str, str], Operation] = {}

    def add(self, operation: Operation) -> Operation:
        """Keep one."""
        self._all[operation.name] = operation
        if operation.client_id:
            self._by_request[operation.kind, operation.client_id] = operation
        return operation

    def known(self, kind: str, request_id: str) -> Operation | None:
        """The operation of a request that came before; its body does not matter, and nor does how it ended."""
        return self._by_request.get((kind, request_id)) if request_id else None

    def get(self, scope: str, name: str) -> Operation:
        """One of a zone or region; raises GceError."""
        found = self._all.get(name)
        if found is None or found.scope != scope:
            raise GceError("notFound", f"The resource '{scope}/operations/{name}' was not found")
        return found

    def all(self, machines: list[Machine], now: float) -> list[Operation]:
        """All of them, oldest first, those of the system among them."""
        system = [said for machine in machines if (said := _of_system(machine, now)) is not None]
        return sorted([*self._all.values(), *system], key=lambda each: (each.began, each.name))


def _of_system(machine: Machine, now: float) -> Operation | None:
    """What the system did to a machine; nothing where its end was asked for."""
    signal = soft_off(machine)
    if signal is not None and preempted(machine, now):
        kind, began = PREEMPTED, signal
    elif machine.gone is not None and machine.reason_code != USER_SHUTDOWN:
        kind, began = GUEST_STOP if machine.reason_code.startswith("Client.") else HOST_ERROR, machine.gone
    else:
        return None
    zone = f"zones/{machine.pool.zone}"
    return Operation(
        kind,
        zone,
        began,
        target=f"{zone}/instances/{machine.name}",
        target_id=machine.instance_id,
        name=f"systemevent-{machine.instance_id}-{kind.rpartition('.')[2].lower()}",
        number=machine.instance_id,
    )
