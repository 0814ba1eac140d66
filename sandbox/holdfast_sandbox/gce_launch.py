"""bulkInsert and insert: machines of the datacenter, named by whoever asks for them."""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2_types import types_of
from holdfast_sandbox.gce_operations import Operation, Operations
from holdfast_sandbox.gce_wire import GceError, Json, code_of, count, existing, launch_spec, text
from holdfast_sandbox.machine import LaunchSpec
from holdfast_sandbox.market import MarketKind, Pool

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
BULK_MAX = 1000
MIN_COUNT_NOT_REACHED = "VM_MIN_COUNT_NOT_REACHED"


@dataclass(frozen=True)
class Order:
    """What one request asks for; zones in any order, machine types best first."""

    names: list[str]
    least: int
    zones: list[str]
    types: list[str]
    market: MarketKind
    spec: LaunchSpec
    one_zone: bool = True


@dataclass
class Filled:
    """How many each pool of a zone gives, and what it said where that was too few."""

    zone: str
    counts: dict[Pool, int]
    refused: list[tuple[str, str]]

    @property
    def total(self) -> int:
        """Instances in all."""
        return sum(self.counts.values())


class Launches:
    """Fills orders from the market."""

    def __init__(self, datacenter: Datacenter, operations: Operations, deleted: set[str]) -> None:
        self._datacenter = datacenter
        self._operations = operations
        self._deleted = deleted

    def bulk(self, scope: str, zones: list[str], body: Json, request_id: str) -> Operation:
        """Carry out a bulkInsert; raises GceError for what is refused before it becomes an operation."""
        order = self._order(zones, body, regional=scope.startswith("regions/"))
        self._check(order)
        operation = Operation("bulkInsert", scope, self._datacenter.now(), group=secrets.token_hex(8), client_id=request_id)
        self._fill(order, operation)
        return self._operations.add(operation)

    def single(self, zone: str, body: Json, request_id: str) -> Operation:
        """Carry out an insert."""
        machine_type = text(body, "machineType").rpartition("/")[2]
        properties = {key: value for key, value in body.items() if key not in ("name", "machineType")}
        spec = launch_spec(properties, "")
        order = Order([text(body, "name")], 1, [zone], [machine_type], market_of(properties), spec)
        self._check(order)
        operation = Operation("insert", f"zones/{zone}", self._datacenter.now(), client_id=request_id)
        operation.target = f"zones/{zone}/instances/{order.names[0]}"
        self._fill(order, operation)
        return self._operations.add(operation)

    def _order(self, zones: list[str], body: Json, *, regional: bool) -> Order:
        properties = body.get("instanceProperties") or {}
        names = [*(body.get("perInstanceProperties") or {})] or self._numbered(text(body, "namePattern"), zones, count(body, "count", 0))
        wanted = count(body, "count", len(names))
        if wanted != len(names) or not 1 <= wanted <= BULK_MAX:
            raise GceError("invalid", f"Invalid value for field 'resource.count': '{wanted}'.")
        policy = body.get("locationPolicy") or {}
        if not regional and (policy or body.get("instanceFlexibilityPolicy")):
            raise GceError("invalid", "A location policy and an instance flexibility policy are for regional requests.")
        shape = policy.get("targetShape", "ANY_SINGLE_ZONE")
        if shape not in ("ANY", "ANY_SINGLE_ZONE"):
            raise GceError("invalid", "This cloud knows the target shapes ANY and ANY_SINGLE_ZONE.")
        spec = launch_spec(properties, text(body, "sourceInstanceTemplate"))
        return Order(
            names,
            count(body, "minCount", wanted),
            allowed(zones, policy),
            machine_types(body),
            market_of(properties),
            spec,
            one_zone=shape == "ANY_SINGLE_ZONE",
        )

    def _numbered(self, pattern: str, zones: list[str], wanted: int) -> list[str]:
        """Names by a pattern such as `gpu-###`, from the number after the highest that is taken."""
        found = re.fullmatch(r"([a-z][-a-z0-9]*)(#{1,18})", pattern)
        if found is None or wanted > BULK_MAX:
            raise GceError("invalid", "Invalid value for field 'resource.namePattern'.")
        taken = [name.removeprefix(found[1]) for name in self._taken(zones) if name.startswith(found[1])]
        first = max((int(each) for each in taken if each.isascii() and each.isdigit()), default=0) + 1
        return [f"{found[1]}{number:0{len(found[2])}d}" for number in range(first, first + wanted)]

    def _taken(self, zones: list[str]) -> set[str]:
        return {each.name for each in existing(self._datacenter, self._deleted) if each.pool.zone in zones}

    def _check(self, order: Order) -> None:
        known = types_of(self._datacenter.config.all_instance_types(), "gcp")
        sold = {(pool.zone, pool.instance_type) for pool in self._datacenter.market.pools}
        for kind in order.types:
            if kind not in known or not any((zone, kind) in sold for zone in order.zones):
                where = ", ".join(order.zones)
                raise GceError("invalid", f"Invalid value for field 'machineType': '{kind[:60]}' does not exist in {where}.")
        for name in order.names:
            if not NAME.fullmatch(name):
                raise GceError("invalid", f"Invalid value for field 'resource.name': '{name[:80]}'.")
        taken = self._taken(order.zones).intersection(order.names)
        if taken:
            raise GceError("alreadyExists", f"The resource 'instances/{min(taken)}' already exists")

    def _fill(self, order: Order, operation: Operation) -> None:
        """Start what can be had, or nothing where that is less than the least; the operation says what came of it."""
        filled = self._best(order)
        total = sum(each.total for each in filled)
        refused = [said for each in filled for said in each.refused]
        starts = total >= order.least
        names = iter(order.names)
        for each in filled:
            made = self._start(order, each, names, operation) if starts else 0
            said = {"targetVmCount": each.total, "createdVmCount": made, "failedToCreateVmCount": 0, "deletedVmCount": 0, "status": "DONE"}
            operation.made[f"zones/{each.zone}"] = said
        if not starts:
            operation.errors = refused or [(MIN_COUNT_NOT_REACHED, "Requested minimum count of VMs could not be created.")]
        for name, (code, message) in zip(names, refused * len(order.names), strict=False) if starts else ():
            one = Operation("insert", f"zones/{filled[0].zone}", operation.began, group=operation.group, errors=[(code, message)])
            one.target = f"zones/{filled[0].zone}/instances/{name}"
            self._operations.add(one)
        self._record(order, filled)

    def _best(self, order: Order) -> list[Filled]:
        """The zone that gives most, or for the shape ANY one after the other until there are enough."""
        market, now = self._datacenter.market, self._datacenter.now()
        wanted = len(order.names)

        def room(zone: str) -> int:
            return min(wanted, sum(market.free(Pool(zone, kind, order.market), now) for kind in order.types))

        best: list[Filled] = []
        for zone in sorted(order.zones, key=lambda zone: -room(zone)):
            so_far = 0 if order.one_zone else sum(each.total for each in best)
            filled = self._in_zone(order, zone, wanted - so_far, so_far)
            if not order.one_zone:
                best.append(filled)
            elif not best or filled.total > best[0].total:
                best = [filled]
            if sum(each.total for each in best) >= wanted:
                break
        return best

    def _in_zone(self, order: Order, zone: str, wanted: int, elsewhere: int) -> Filled:
        filled = Filled(zone, {}, [])
        for kind in order.types:
            missing = wanted - filled.total
            if missing > 0:
                pool = Pool(zone, kind, order.market)
                quote = self._datacenter.quote(pool, missing, None, elsewhere + filled.total)
                filled.counts[pool] = quote.count
                if quote.code is not None:
                    filled.refused.append((code_of(quote.code), quote.message))
        return filled

    def _start(self, order: Order, filled: Filled, names: Iterator[str], operation: Operation) -> int:
        for pool, number in filled.counts.items():
            if number:
                named = {new_id(): next(names) for _ in range(number)}
                for machine in self._datacenter.launch(pool, number, order.spec, operation.client_id, named):
                    target = f"zones/{pool.zone}/instances/{machine.name}"
                    one = Operation("insert", f"zones/{pool.zone}", operation.began, target, machine.instance_id, operation.group)
                    if operation.kind == "insert":
                        operation.target_id = machine.instance_id
                    else:
                        self._operations.add(one)
        return filled.total

    def _record(self, order: Order, filled: list[Filled]) -> None:
        record = self._datacenter.record
        record.write("launch_request", action="bulkInsert", zones=order.zones, wanted=len(order.names))
        for each in filled:
            for code, _ in each.refused:
                record.write("refused", zone=each.zone, instance_types=order.types, lifecycle=order.market, code=code)


def new_id() -> str:
    """A number that no other resource has."""
    return str(secrets.randbits(61) + (1 << 61))


def market_of(properties: Json) -> MarketKind:
    """How the instances are bought; raises GceError for scheduling that Compute Engine would not take."""
    scheduling = properties.get("scheduling") or {}
    spot = scheduling.get("provisioningModel", "STANDARD") == "SPOT"
    if spot and scheduling.get("automaticRestart", False):
        raise GceError("invalid", "Scheduling must have automaticRestart be false when using a Spot VM.")
    if not spot and ("instanceTerminationAction" in scheduling or "preemptionNoticeDuration" in scheduling):
        raise GceError("invalid", "A termination action and a preemption notice duration are for Spot VMs.")
    return "spot" if spot else "on_demand"


def machine_types(body: Json) -> list[str]:
    """The machine types that will do, best first; raises GceError where there is none."""
    selections = (body.get("instanceFlexibilityPolicy") or {}).get("instanceSelections") or {}
    ranked = sorted(selections.values(), key=lambda each: count(each, "rank", 0))
    types = [kind for each in ranked for kind in each.get("machineTypes") or []]
    types = types or [text(body.get("instanceProperties") or {}, "machineType").rpartition("/")[2]]
    if not all(types):
        raise GceError("required", "Required field 'resource.instanceProperties.machineType' not specified")
    return types


def allowed(zones: list[str], policy: Json) -> list[str]:
    """The zones that a location policy leaves of a region's: those that it names in `zones`, without those that it denies."""
    named = [text(each, "zone").rpartition("/")[2] for each in policy.get("zones") or []]
    preferences = policy.get("locations") or {}
    denied = {location.rpartition("/")[2] for location, said in preferences.items() if text(said, "preference") == "DENY"}
    found = [zone for zone in zones if zone not in denied and (not named or zone in named)]
    if not found or set(named) - set(zones):
        raise GceError("invalid", "Invalid value for field 'resource.locationPolicy': no such zone is left in this region.")
    return found
