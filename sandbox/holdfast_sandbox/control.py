"""The control API: what one may do to the cloud that no cloud would let its customers do. JSON in, JSON out."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from holdfast_sandbox import control_requests as requests
from holdfast_sandbox.cloud_config import Strict
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.faults import ApiFault, BootFault, MetadataFault, Refusal
from holdfast_sandbox.machine import Machine, ScheduledEvent
from holdfast_sandbox.market import Pool

Reply = dict[str, Any]


class ControlError(Exception):
    """A request that cannot be granted; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """Serves `/control/...` for a datacenter."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter

    def routes(self) -> list[web.RouteDef]:
        """The routes of the control API."""
        posts: dict[str, tuple[type[Strict], Callable[[Any], Reply]]] = {
            "reclaim": (requests.Reclaim, self._reclaim),
            "reclaim/cancel": (requests.Target, self._cancel_reclaim),
            "kill": (requests.Kill, self._kill),
            "rebalance": (requests.Target, self._rebalance),
            "maintenance": (requests.Maintenance, self._maintenance),
            "maintenance-event": (requests.MaintenanceEvent, self._maintenance_event),
            "scheduled-events": (requests.ScheduledEvents, self._scheduled_events),
            "refuse": (requests.Refuse, self._refuse),
            "throttle": (requests.Throttle, self._throttle),
            "fail": (requests.Fail, self._fail),
            "fail/metadata": (requests.FailMetadata, self._fail_metadata),
            "fail/boot": (requests.FailBoot, self._fail_boot),
            "clear": (requests.Empty, self._clear),
        }
        routes = [web.post(f"/control/{path}", _posted(model, act)) for path, (model, act) in posts.items()]
        return [*routes, web.get("/control/state", self._get_state), web.post("/control/zones/{zone}", self._post_zone)]

    async def _get_state(self, request: web.Request) -> web.Response:
        return web.json_response(self.state())

    def state(self) -> Reply:
        """Zones, pools and instances as they are now."""
        cloud, market = self._datacenter, self._datacenter.market
        now = cloud.now()
        pools = [
            {
                "zone": pool.zone,
                "instance_type": pool.instance_type,
                "lifecycle": pool.market,
                "capacity": market.capacity(pool, now),
                "used": len(state.held),
                "price_usd_h": market.price_usd_h(pool, now),
            }
            for pool, state in sorted(market.pools.items())
        ]
        return {
            "now": now,
            "record": str(cloud.record.path),
            "zones": [{"name": zone.name, "region": zone.region} for zone in market.zones.values()],
            "pools": pools,
            "instances": [self._instance(machine, now) for machine in cloud.machines.values()],
        }

    def _instance(self, machine: Machine, now: float) -> Reply:
        end = machine.gone or now
        prices = self._datacenter.market.pools[machine.pool].price_usd_h.between(machine.requested, end)
        history = [{"t": moment, "usd_h": price} for moment, price in prices]
        return machine.describe() | {"cost_usd": self._datacenter.cost_usd(machine), "price_history": history}

    async def _post_zone(self, request: web.Request) -> web.StreamResponse:
        def change(wanted: requests.PoolChange) -> Reply:
            zone = request.match_info["zone"]
            pools = [
                pool
                for pool in self._datacenter.market.pools
                if (pool.zone, pool.market) == (zone, wanted.lifecycle) and wanted.instance_type in (None, pool.instance_type)
            ]
            return self._change(pools, wanted)

        return await _posted(requests.PoolChange, change)(request)

    def _change(self, pools: list[Pool], wanted: requests.PoolChange) -> Reply:
        if not pools:
            raise ControlError(404, "no such pool")
        for pool in pools:
            self._datacenter.set_pool(pool, wanted.capacity, wanted.price_usd_h)
        return {"pools": len(pools)}

    def _find(self, target: requests.Target) -> Machine:
        machines = self._datacenter.machines.values()
        if target.tag is None:
            found = [machine for machine in machines if machine.instance_id == target.instance_id]
        else:
            tag = target.tag
            found = [machine for machine in machines if machine.alive and machine.tags.get(tag.key) == tag.value]
        if not found:
            raise ControlError(404, "no such instance")
        if len(found) > 1:
            raise ControlError(409, f"{len(found)} instances have this tag")
        if not found[0].alive:
            raise ControlError(409, f"{found[0].instance_id} is gone")
        return found[0]

    def _reclaim(self, wanted: requests.Reclaim) -> Reply:
        machine = self._find(wanted)
        notice_s = self._datacenter.config.notice_s if wanted.notice_s is None else wanted.notice_s
        deadline = self._datacenter.reclaim(machine, notice_s)
        return {"instance_id": machine.instance_id, "notice": machine.notice, "deadline": deadline}

    def _cancel_reclaim(self, wanted: requests.Target) -> Reply:
        machine = self._find(wanted)
        if not self._datacenter.cancel_reclaim(machine):
            raise ControlError(409, f"{machine.instance_id} has no notice")
        return {"instance_id": machine.instance_id}

    def _kill(self, wanted: requests.Kill) -> Reply:
        machine = self._find(wanted)
        self._datacenter.kill(machine, wanted.reason)
        return {"instance_id": machine.instance_id, "killed": self._datacenter.now()}

    def _rebalance(self, wanted: requests.Target) -> Reply:
        machine = self._find(wanted)
        machine.rebalance = self._datacenter.now()
        self._datacenter.record.write("rebalance", instance_id=machine.instance_id)
        self._datacenter.tell("rebalance", machine)
        return {"instance_id": machine.instance_id, "notice": machine.rebalance}

    def _maintenance(self, wanted: requests.Maintenance) -> Reply:
        machine = self._find(wanted)
        machine.maintenance = list(wanted.events)
        self._datacenter.record.write("maintenance", instance_id=machine.instance_id, events=wanted.events)
        return {"instance_id": machine.instance_id}

    def _maintenance_event(self, wanted: requests.MaintenanceEvent) -> Reply:
        machine = self._find(wanted)
        machine.maintenance_event = wanted.event
        machine.touch()
        self._datacenter.record.write("maintenance_event", instance_id=machine.instance_id, maintenance_event=wanted.event)
        return {"instance_id": machine.instance_id}

    def _scheduled_events(self, wanted: requests.ScheduledEvents) -> Reply:
        machine, now = self._find(wanted), self._datacenter.now()
        machine.scheduled_events = [
            ScheduledEvent(
                str(uuid.uuid4()).upper(), event.type, now + event.due_s, tuple(event.resources or (machine.name,)), event.duration_s
            )
            for event in wanted.events
        ]
        machine.touch()
        ids = [event.id for event in machine.scheduled_events]
        kinds = [event.type for event in wanted.events]
        self._datacenter.record.write("scheduled_events", instance_id=machine.instance_id, event_ids=ids, event_types=kinds)
        return {"instance_id": machine.instance_id, "event_ids": ids}

    def _refuse(self, wanted: requests.Refuse) -> Reply:
        refusal = Refusal(wanted.count, wanted.zone, wanted.instance_type, wanted.lifecycle, wanted.code)
        self._datacenter.faults.refusals.append(refusal)
        return {}

    def _throttle(self, wanted: requests.Throttle) -> Reply:
        fault = ApiFault(wanted.count, wanted.action, "error", "RequestLimitExceeded", 0.0, after=False)
        self._datacenter.faults.api.append(fault)
        return {}

    def _fail(self, wanted: requests.Fail) -> Reply:
        fault = ApiFault(wanted.count, wanted.action, wanted.mode, wanted.code, wanted.seconds, wanted.when == "after")
        self._datacenter.faults.api.append(fault)
        return {}

    def _fail_metadata(self, wanted: requests.FailMetadata) -> Reply:
        fault = MetadataFault(wanted.count, wanted.instance_id, wanted.prefix, wanted.mode, wanted.seconds)
        self._datacenter.faults.metadata.append(fault)
        return {}

    def _fail_boot(self, wanted: requests.FailBoot) -> Reply:
        self._datacenter.faults.boot.append(BootFault(wanted.count, wanted.zone, wanted.seconds))
        return {}

    def _clear(self, wanted: requests.Empty) -> Reply:
        self._datacenter.faults.clear()
        return {}


def _posted(model: type[Strict], act: Callable[[Any], Reply]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            reply = act(model.model_validate_json(await request.text() or "{}"))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            return web.json_response({"error": faults}, status=400)
        except ControlError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        return web.json_response(reply)

    return handle
