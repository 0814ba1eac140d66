"""The Compute Engine endpoint: Google's REST paths in, its JSON out, with its errors, operations and idempotent request ids.

All below `/compute/v1/projects/<project>/`. Every project is the same one, and no credentials are looked at.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from holdfast_sandbox import gce_market
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.faults import ApiFault
from holdfast_sandbox.gce_launch import Launches
from holdfast_sandbox.gce_lists import aggregated, plain_list
from holdfast_sandbox.gce_operations import Operation, Operations
from holdfast_sandbox.gce_wire import GceError, Json, existing, instance_json, listed
from holdfast_sandbox.machine import Machine

PATH = "/compute/v1/projects/{project}/{path:.*}"
_log = logging.getLogger(__name__)


class HungUpError(Exception):
    """The connection is to be dropped without an answer."""


@dataclass(frozen=True)
class Call:
    """One request."""

    project: str
    query: Mapping[str, str]
    body: Json
    parts: Mapping[str, str]

    @property
    def zone(self) -> str:
        """The zone of the path."""
        return self.parts["zone"]

    @property
    def request_id(self) -> str:
        """By which a repeated request is known; empty: it is not to be."""
        return self.query.get("requestId", "")


class GceEndpoint:
    """Serves Compute Engine's REST interface."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        self._operations = Operations()
        self._deleted: set[str] = set()
        self._launches = Launches(datacenter, self._operations, self._deleted)
        zone, instance = "zones/(?P<zone>[^/]+)", "instances/(?P<instance>[^/]+)"
        region, operation = "regions/(?P<region>[^/]+)", "operations/(?P<operation>[^/]+)"
        routes: list[tuple[str, str, str, Callable[[Call], Json]]] = [
            ("POST", f"{zone}/instances/bulkInsert", "bulkInsert", self._bulk_insert),
            ("POST", f"{region}/instances/bulkInsert", "bulkInsert", self._bulk_insert_in_region),
            ("POST", f"{zone}/instances", "insert", self._insert),
            ("GET", f"{zone}/instances", "list", self._list),
            ("GET", f"{zone}/{instance}", "get", self._get),
            ("DELETE", f"{zone}/{instance}", "delete", self._delete),
            ("POST", f"{zone}/{instance}/simulateMaintenanceEvent", "simulateMaintenanceEvent", self._simulate),
            ("GET", "aggregated/instances", "aggregatedList", self._aggregated),
            ("GET", "aggregated/operations", "globalOperations.aggregatedList", self._operations_everywhere),
            ("GET", f"{zone}/operations", "zoneOperations.list", self._operations_in),
            ("GET", f"{region}/operations", "regionOperations.list", self._operations_in),
            ("GET", f"{zone}/{operation}", "zoneOperations.get", self._operation),
            ("GET", f"{region}/{operation}", "regionOperations.get", self._operation),
            ("POST", f"{zone}/{operation}/wait", "zoneOperations.wait", self._operation),
            ("POST", f"{region}/{operation}/wait", "regionOperations.wait", self._operation),
            ("GET", "aggregated/machineTypes", "machineTypes.aggregatedList", self._machine_types),
            ("GET", "zones", "zones.list", self._zones),
            ("GET", "regions", "regions.list", self._regions),
            ("POST", f"{region}/advice/capacity", "advice.capacity", self._capacity),
            ("POST", f"{region}/advice/capacityHistory", "advice.capacityHistory", self._capacity_history),
        ]
        self._routes = [(method, re.compile(pattern), action, act) for method, pattern, action, act in routes]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if self._datacenter.config.api_latency_s:
            await asyncio.sleep(self._datacenter.config.api_latency_s)
        try:
            said, status = await self._answer(request), 200
        except GceError as error:
            said, status = error.body(), error.status
        except (AttributeError, KeyError, TypeError):  # a body of another shape than the interface has
            _log.exception("a request that is not understood")
            wrong = GceError("badRequest", "The request body is not what this method takes.")
            said, status = wrong.body(), wrong.status
        except HungUpError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=500)
        return web.json_response(said, status=status)

    async def _answer(self, request: web.Request) -> Json:
        path = request.match_info["path"]
        for method, pattern, action, act in self._routes:
            found = pattern.fullmatch(path)
            if found is None or method != request.method:
                continue
            call = Call(request.match_info["project"], request.query, await _body(request), found.groupdict())
            fault = self._datacenter.faults.api_fault(action)
            if fault is not None:
                self._datacenter.record.write("api_fault", action=action, mode=fault.mode, code=fault.code)
                if not fault.after:
                    await _suffer(fault)
            said = act(call)
            if fault is not None and fault.after:
                await _suffer(fault)
            return said
        raise GceError("notFound", f"The requested URL {path[:200]} was not found on this simulated cloud.")

    def _zones_in(self, region: str) -> list[str]:
        zones = [zone.name for zone in gce_market.zones_of(self._datacenter) if zone.region == region]
        if not zones:
            raise GceError("invalid", f"Invalid value for field 'region': '{region[:60]}'. Unknown region.")
        return zones

    def _require_zone(self, zone: str) -> str:
        if zone not in {each.name for each in gce_market.zones_of(self._datacenter)}:
            raise GceError("invalid", f"Invalid value for field 'zone': '{zone[:60]}'. Unknown zone.")
        return zone

    def _bulk_insert(self, call: Call) -> Json:
        zone = self._require_zone(call.zone)
        return self._once(call, "bulkInsert", lambda: self._launches.bulk(f"zones/{zone}", [zone], call.body, call.request_id))

    def _bulk_insert_in_region(self, call: Call) -> Json:
        region = call.parts["region"]
        zones = self._zones_in(region)
        return self._once(call, "bulkInsert", lambda: self._launches.bulk(f"regions/{region}", zones, call.body, call.request_id))

    def _insert(self, call: Call) -> Json:
        zone = self._require_zone(call.zone)
        return self._once(call, "insert", lambda: self._launches.single(zone, call.body, call.request_id))

    def _once(self, call: Call, kind: str, act: Callable[[], Operation]) -> Json:
        """What is done for a request id is done once: later ones get the operation as it is by now, whatever they ask for."""
        known = self._operations.known(kind, call.request_id)
        return known.json(call.project) if known is not None else act().json(call.project, fresh=True)

    def _find(self, call: Call) -> Machine:
        """The instance of the path, by its name or its id."""
        wanted = call.parts["instance"]
        for machine in existing(self._datacenter, self._deleted):
            if machine.pool.zone == call.zone and wanted in (machine.name, machine.instance_id):
                return machine
        raise GceError("notFound", f"The resource 'zones/{call.zone}/instances/{wanted[:80]}' was not found")

    def _get(self, call: Call) -> Json:
        return instance_json(self._find(call), call.project, self._datacenter.now())

    def _list(self, call: Call) -> Json:
        zone, now = self._require_zone(call.zone), self._datacenter.now()
        machines = [each for each in listed(self._datacenter, self._deleted, now) if each.pool.zone == zone]
        return plain_list("instance", ((each.name, instance_json(each, call.project, now)) for each in machines), call.query)

    def _aggregated(self, call: Call) -> Json:
        now = self._datacenter.now()
        machines = listed(self._datacenter, self._deleted, now)
        found = ((f"zones/{each.pool.zone}", each.name, instance_json(each, call.project, now)) for each in machines)
        return aggregated("instance", "instances", gce_market.scopes_of(self._datacenter), found, call.query)

    def _delete(self, call: Call) -> Json:
        machine = self._find(call)
        if machine.gone is not None:
            self._deleted.add(machine.instance_id)
        self._datacenter.terminate(machine)
        return self._done("delete", machine, call)

    def _simulate(self, call: Call) -> Json:
        """On a Spot VM a simulated maintenance event is a preemption."""
        machine = self._find(call)
        if machine.pool.market == "spot" and machine.alive:
            self._datacenter.reclaim(machine, self._datacenter.config.notice_s)
        return self._done("compute.instances.simulateMaintenanceEvent", machine, call)

    def _done(self, kind: str, machine: Machine, call: Call) -> Json:
        zone = f"zones/{machine.pool.zone}"
        operation = Operation(kind, zone, self._datacenter.now(), f"{zone}/instances/{machine.name}", machine.instance_id)
        return self._operations.add(operation).json(call.project, fresh=True)

    def _told(self, call: Call) -> list[tuple[str, str, Json]]:
        machines = [each for each in self._datacenter.machines.values() if each.provider == "gcp"]
        return [(each.scope, each.name, each.json(call.project)) for each in self._operations.all(machines, self._datacenter.now())]

    def _operations_everywhere(self, call: Call) -> Json:
        regions = {f"regions/{zone.region}" for zone in gce_market.zones_of(self._datacenter)}
        scopes = [*gce_market.scopes_of(self._datacenter), *sorted(regions)]
        return aggregated("operation", "operations", scopes, self._told(call), call.query)

    def _operations_in(self, call: Call) -> Json:
        found = ((name, said) for scope, name, said in self._told(call) if scope == _scope(call))
        return plain_list("operation", found, call.query)

    def _operation(self, call: Call) -> Json:
        return self._operations.get(_scope(call), call.parts["operation"]).json(call.project)

    def _machine_types(self, call: Call) -> Json:
        return gce_market.machine_types(self._datacenter, call.project, call.query)

    def _zones(self, call: Call) -> Json:
        return gce_market.zones(self._datacenter, call.project, call.query)

    def _regions(self, call: Call) -> Json:
        return gce_market.regions(self._datacenter, call.project, call.query)

    def _capacity(self, call: Call) -> Json:
        region = call.parts["region"]
        return gce_market.capacity(self._datacenter, region, call.body, self._zones_in(region))

    def _capacity_history(self, call: Call) -> Json:
        return gce_market.capacity_history(self._datacenter, call.project, call.body, self._zones_in(call.parts["region"]))


def _scope(call: Call) -> str:
    return f"zones/{call.zone}" if "zone" in call.parts else f"regions/{call.parts['region']}"


async def _body(request: web.Request) -> Json:
    try:
        body = json.loads(await request.text() or "{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise GceError("parseError", "The request body is not a JSON object.")
    return body


async def _suffer(fault: ApiFault) -> None:
    """Live through a fault: raises what the caller is to see; returns where the call was only slow."""
    if fault.mode in ("slow", "hang"):
        await asyncio.sleep(fault.seconds)
    if fault.mode == "hang":
        raise HungUpError
    if fault.mode == "500":
        raise GceError("internalError", "An internal error has occurred.")
    if fault.mode == "error":
        raise GceError(fault.code, f"{fault.code} on demand.")
