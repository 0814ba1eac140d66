"""Azure's metadata service and its scheduled events. Paths and payloads: Azure's documentation (azure-compute-docs).

- Every request carries `Metadata: true`. `/metadata/instance` says what the VM is.
- `/metadata/scheduledevents` is turned on for the VM by the first request, whose answer may take two minutes, and off again after a day
  without one: it is asked each second, from boot on.
- A document lists events for all VMs of an availability set or scale set: ours are those whose `Resources` name us. `NotBefore` is blank
  once an event has Started. Notice: Preempt 30 s at best, Terminate 5 to 15 minutes, Redeploy 10, Reboot and Freeze 15 minutes.
- `StartRequests` approves an event for all its VMs and ends its notice. A Preempt is never approved; another event only if it concerns
  our VM alone and no job is here or can come.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from holdfast_common.clock import Clock
from holdfast_common.errors import InputError, Temporary
from holdfast_common.notice import NoticeKind

from holdfast_nodeagent.notices.base import Answer, Identity, Seen, Unclear
from holdfast_nodeagent.notices.http import MetadataHttp, Reply
from holdfast_nodeagent.notices.reading import json_object, rfc1123_date, shown, word
from holdfast_nodeagent.userdata import MAX_USER_DATA_BYTES, parse_base64_user_data

HEADER = {"Metadata": "true"}
INSTANCE = "/metadata/instance?api-version=2021-02-01"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
POLL_S = 1.0
FIRST_TIMEOUT_S = 150.0
"""Of a request for events until one was answered: the first one turns the service on."""
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""A scale set has up to 1,000 VMs, and the reclaim of a region is an event of 400 to 700 bytes for each of them."""
MAX_OURS = 100
"""Events that name our VM; there is no bound on those that do not but the document's."""
SOURCE = "scheduledevents"

_KINDS = {
    "Preempt": (NoticeKind.PREEMPT, "Azure evicts the spot VM"),
    "Terminate": (NoticeKind.DRAIN, "the VM is being deleted"),
    "Reboot": (NoticeKind.MAINTENANCE, "Azure reboots the VM"),
    "Redeploy": (NoticeKind.MAINTENANCE, "Azure moves the VM to another host, and its local disks are lost"),
    # A pause of some seconds, memory kept: worth a save, but no reason to leave.
    "Freeze": (NoticeKind.ADVISE, "Azure is about to pause the VM"),
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_EVENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One event that concerns our VM."""

    id: str
    seen: Seen
    may_approve: bool
    """It has not started, is no Preempt, and concerns no other VM."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of scheduled events, as far as it concerns our VM."""

    incarnation: int
    events: tuple[Event, ...]
    faults: tuple[str, ...] = ()
    """Of events that could not be read."""

    @property
    def answer(self) -> Answer:
        """What the document says: all of it, or what could be read."""
        seen = tuple(event.seen for event in self.events)
        return Unclear(f"{SOURCE}: {self.faults[0]}", seen) if self.faults else seen


def parse_incarnation(body: bytes) -> tuple[int, list[object]]:
    """Return a document's number, and its events as they are. Raises InputError."""
    content = json_object(body)
    number, events = content.get("DocumentIncarnation"), content.get("Events")
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError("no DocumentIncarnation")
    if not isinstance(events, list):
        raise InputError("Events is no list")
    return number, events


def concerns(event: object, vm_name: str) -> bool | None:
    """Return whether an event is for the VM of that name, whatever else it says; None where it does not say for whom it is."""
    resources = event.get("Resources") if isinstance(event, dict) else None
    if not isinstance(resources, list):
        return None
    ours = vm_name.casefold()
    return any(isinstance(name, str) and name.casefold() == ours for name in resources)


def parse_event(event: Mapping[str, object], vm_name: str, now: float) -> Event:
    """Read one event for the VM of that name, at `now`. Raises InputError."""
    resources = event.get("Resources")
    if not isinstance(resources, list) or not all(isinstance(name, str) for name in resources):
        raise InputError("an event's Resources are no list of names")
    names = {name.casefold() for name in resources}
    kind, status, event_id = event.get("EventType"), event.get("EventStatus"), event.get("EventId")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise InputError(f"no EventId: {shown(event_id)}")
    if not isinstance(kind, str) or status not in ("Scheduled", "Started"):
        raise InputError(f"an event of {shown(kind)} that is {shown(status)}")
    notice, reason = _KINDS.get(kind, (NoticeKind.ADVISE, f"Azure announces {word(kind)[:40]}, which we do not know"))
    at = event.get("NotBefore")
    begun = status == "Started" and at in ("", None)
    seen = Seen(notice, now if begun else rfc1123_date(at), reason, counted=begun)
    ours_alone = names == {vm_name.casefold()}
    return Event(event_id, seen, status == "Scheduled" and kind in _KINDS and kind != "Preempt" and ours_alone)


def parse_document(body: bytes, vm_name: str, now: float) -> Document:
    """Read a document at `now`. Raises InputError where it is none; an event that is malformed hides no other."""
    incarnation, listed = parse_incarnation(body)
    ours: list[dict[str, object]] = []
    strange = False
    for each in listed:
        is_ours = concerns(each, vm_name)
        strange = strange or is_ours is None
        if is_ours and isinstance(each, dict):
            ours.append(each)
    faults = ["an event does not say for which VMs it is"] if strange else []
    ours.sort(key=lambda event: event.get("EventType") != "Preempt")  # should there be too many
    if len(ours) > MAX_OURS:
        faults.append(f"{len(ours)} events for one VM")
    events = []
    for event in ours[:MAX_OURS]:
        try:
            events.append(parse_event(event, vm_name, now))
        except InputError as error:
            faults.append(str(error))
    return Document(incarnation, tuple(events), tuple(faults))


def parse_instance(body: bytes) -> tuple[Identity, str]:
    """Read `/metadata/instance`: what the VM is, and its name. Raises InputError."""
    compute = _table(json_object(body).get("compute"))
    vm_id, name = word(compute.get("vmId")), word(compute.get("name"))
    if not _UUID.fullmatch(vm_id) or not name:
        raise InputError("no vmId, or no name")
    region, number = word(compute.get("location", "")), word(compute.get("zone", ""))
    user_data = parse_base64_user_data(str(compute.get("userData") or ""))
    identity = Identity(
        instance_id=vm_id.lower(),
        provider="azure",
        zone=f"{region}-{number}" if number else region,
        instance_type=word(compute.get("vmSize", "")),
        market={"Spot": "spot", "Low": "spot", "Regular": "on_demand", "": "on_demand"}.get(word(compute.get("priority", "")), ""),
        address=_address(json_object(body)),
    )
    identity = replace(identity, cluster=user_data.cluster, launch_id=user_data.launch_id, launch_token=user_data.launch_token)
    return identity, name


def _address(content: Mapping[str, object]) -> str:
    """Return the private address of the first interface, empty where there is none."""
    interface = _table(_first(_table(content.get("network", {})).get("interface")))
    return word(_table(_first(_table(interface.get("ipv4", {})).get("ipAddress"))).get("privateIpAddress", ""))


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InputError("an object is missing")
    return value


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else {}


class AzureMetadata:
    """The metadata service of this VM. Events have an `MetadataHttp` of their own: their first answer may be minutes in coming.

    `is_empty` says whether no job is on this node and none can come; the agent sets it.
    """

    window_s = 30.0

    def __init__(self, http: MetadataHttp, events_http: MetadataHttp, clock: Clock) -> None:
        self._http = http
        self._events_http = events_http
        self._clock = clock
        self.is_empty: Callable[[], bool] = lambda: False
        self._name = ""
        self._due_at = clock.monotonic()
        self._answered = False
        self._last: Document | None = None
        self._approved: set[str] = set()
        self._asking: asyncio.Task[Answer] | None = None

    async def identity(self) -> Identity:
        """Return what the VM is. Raises Temporary."""
        self._ask_for_events()
        reply = await self._http.request("GET", INSTANCE, HEADER, limit=2 * MAX_USER_DATA_BYTES)
        try:
            identity, self._name = parse_instance(_good("instance", reply).body)
        except InputError as error:
            raise Temporary(f"instance: {error}") from None
        return identity

    async def look(self) -> Mapping[str, Answer]:
        """Return the next answer, at most one a second."""
        if self._asking is None:
            await self._clock.sleep(self._due_at - self._clock.monotonic())
        asked = self._ask_for_events()
        await asyncio.wait({asked})
        self._asking = None
        return {SOURCE: asked.result()}

    def close(self) -> None:
        """End what is under way."""
        if self._asking is not None:
            self._asking.cancel()
        self._http.close()
        self._events_http.close()

    def _ask_for_events(self) -> "asyncio.Task[Answer]":
        """Begin to ask, where that is not under way: even before it is known who we are, since it may take long."""
        if self._asking is None:
            self._due_at = self._clock.monotonic() + POLL_S
            self._asking = asyncio.ensure_future(self._ask())
        return self._asking

    async def _ask(self) -> Answer:
        try:
            timeout_s = None if self._answered else FIRST_TIMEOUT_S
            reply = _good(SOURCE, await self._events_http.request("GET", EVENTS, HEADER, timeout_s=timeout_s, limit=MAX_DOCUMENT_BYTES))
            self._answered = True
            if not self._name:
                await self.identity()
            document = self._read(reply.body)
            await self._approve(document)
        except (Temporary, InputError) as error:
            return Unclear(f"{SOURCE}: {error}")
        return document.answer

    def _read(self, body: bytes) -> Document:
        """Return the document; one that has not changed is not read again. Raises InputError."""
        number, _ = parse_incarnation(body)
        if self._last is None or self._last.faults or number != self._last.incarnation:
            self._last = parse_document(body, self._name, self._clock.now())
        return self._last

    async def _approve(self, document: Document) -> None:
        """Let start what may start: a node without jobs need not wait for it."""
        due = [event.id for event in document.events if event.may_approve and event.id not in self._approved]
        if not due or not self.is_empty():
            return
        body = json.dumps({"StartRequests": [{"EventId": event_id} for event_id in due]}).encode()
        try:
            reply = await self._events_http.request("POST", EVENTS, {**HEADER, "Content-Type": "application/json"}, body=body)
            _good("StartRequests", reply)
        except Temporary as error:
            log.warning("the node is empty, but %s is not approved: %s", ", ".join(due), error)
            return
        self._approved = {event.id for event in document.events if event.id in self._approved} | set(due)
        log.warning("the node is empty: %s may start", ", ".join(due))


def _good(name: str, reply: Reply) -> Reply:
    if reply.status != 200:
        raise Temporary(f"{name}: HTTP {reply.status}")
    return reply
