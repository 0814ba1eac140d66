"""What Azure tells a VM of itself, below `/metadata/`: the instance document, and the scheduled events, which the VM may approve."""

import base64
import json
import uuid
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.machine import Machine, ScheduledEvent

VERSIONS = ("2019-08-01", "2020-07-01", "2021-01-01", "2021-02-01", "2021-12-13")
MAX_EVENTS_APPROVED = 100


def instance(machine: Machine) -> dict[str, Any]:
    """The document at /metadata/instance."""
    about = machine.spec.attributes
    number = about.get("zone", machine.pool.zone.removeprefix(f"{machine.region}-"))
    compute = {
        "azEnvironment": "AzurePublicCloud",
        "location": machine.region,
        "name": machine.name,
        "osType": "Linux",
        "priority": "Spot" if machine.pool.market == "spot" else "Regular",
        "evictionPolicy": "Delete" if machine.pool.market == "spot" else "",
        "resourceGroupName": about.get("resourceGroupName", ""),
        "subscriptionId": about.get("subscriptionId", ""),
        "tags": ";".join(f"{key}:{value}" for key, value in machine.tags.items()),
        "tagsList": [{"name": key, "value": value} for key, value in machine.tags.items()],
        "userData": base64.b64encode(machine.spec.user_data).decode(),
        "vmId": machine.instance_id,
        "vmScaleSetName": about.get("vmScaleSetName", ""),
        "vmSize": machine.pool.instance_type,
        "zone": number,
    }
    address = {"ipAddress": [{"privateIpAddress": machine.ip, "publicIpAddress": ""}], "subnet": []}
    return {"compute": compute, "network": {"interface": [{"ipv4": address, "ipv6": {"ipAddress": []}}]}}


def events(machine: Machine) -> list[ScheduledEvent]:
    """All events of the VM: those that were ordered, and its eviction."""
    found = list(machine.scheduled_events)
    if machine.deadline is not None and machine.notice is not None and machine.pool.market == "spot":
        event_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{machine.instance_id} {machine.notice}")).upper()
        found.append(ScheduledEvent(event_id, "Preempt", machine.deadline, (machine.name,)))
    return found


def document(machine: Machine, now: float) -> dict[str, Any]:
    """The document at /metadata/scheduledevents."""
    found = events(machine)
    started = sum(event.has_started(now) for event in found)
    return {
        "DocumentIncarnation": machine.changes * 1000 + started + 1,  # another number for each other document, also as events start
        "Events": [_shown(event, now) for event in found],
    }


def _shown(event: ScheduledEvent, now: float) -> dict[str, Any]:
    begun = event.has_started(now)
    return {
        "EventId": event.id,
        "EventType": event.kind,
        "ResourceType": "VirtualMachine",
        "Resources": list(event.resources),
        "EventStatus": "Started" if begun else "Scheduled",
        "NotBefore": "" if begun else format_datetime(datetime.fromtimestamp(int(event.not_before), UTC), usegmt=True),
        "Description": "",
        "EventSource": "Platform",
        "DurationInSeconds": event.duration_s,
    }


class AzureMetadata:
    """The service in Azure's dialect."""

    provider = "azure"
    prefix = "metadata"

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter

    def garbled(self) -> web.Response:
        """An answer that breaks off."""
        return web.Response(text='{"DocumentIncarnation": 7, "Even', content_type="application/json")

    async def answer(self, machine: Machine, path: str, request: web.Request) -> web.StreamResponse:
        """Answer a request for a path below /metadata/."""
        if request.headers.get("Metadata", "").lower() != "true" or "X-Forwarded-For" in request.headers:
            return _bad("Bad request. Required metadata header not specified")
        if path == "versions":
            return web.json_response({"apiVersions": VERSIONS})
        if request.query.get("api-version") not in VERSIONS:
            return _bad("Bad request. api-version was not specified or is not supported", **{"newest-versions": VERSIONS[::-1]})
        if path == "scheduledevents" and request.method == "POST":
            return self._approve(machine, await request.text())
        if request.method != "GET":
            return web.Response(status=405)
        if path == "scheduledevents":
            return web.json_response(document(machine, self._datacenter.now()))
        return web.json_response(instance(machine)) if path == "instance" else web.Response(status=404)

    def _approve(self, machine: Machine, text: str) -> web.Response:
        """Let events start now, for all the VMs that they name."""
        try:
            wanted = [str(each["EventId"]) for each in json.loads(text)["StartRequests"][:MAX_EVENTS_APPROVED]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return _bad("Bad request. StartRequests could not be read")
        known = {event.id: event for event in events(machine)}
        if not known.keys() >= set(wanted):
            return _bad("Bad request. No such event")
        for event_id in wanted:
            event = known[event_id]
            event.approved = True
            self._datacenter.record.write("event_approved", instance_id=machine.instance_id, event_id=event_id, event_type=event.kind)
            if event.kind == "Preempt":  # whoever approves that gives up what is left of the notice
                self._datacenter.reclaim(machine, 0.0)
        machine.touch()
        return web.Response()


def _bad(fault: str, **more: Any) -> web.Response:
    return web.json_response({"error": fault, **more}, status=400)
