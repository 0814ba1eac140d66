"""Compute Engine's metadata service. Paths and values: Google's documentation.

- Every request carries `Metadata-Flavor: Google`, and so does every answer of the real service: one without it is somebody else's.
- `instance/preempted`: TRUE once the Spot VM is taken back. No time is told: the deadline is counted from when TRUE was first seen.
  Without a `preemptionNoticeDuration` the ACPI soft-off (G2) comes at that moment and the end (G3) 30 s after it; with one the soft-off
  comes that much later. The service does not say whether the VM has one: whoever sets it says so in the item `holdfast-notice-s`.
- `instance/maintenance-event`: NONE, MIGRATE_ON_HOST_MAINTENANCE (the VM goes on elsewhere) or TERMINATE_ON_HOST_MAINTENANCE, set 60 s
  ahead, and an hour ahead for VMs with GPUs. No time is told here either.
- `?wait_for_change=true&last_etag=E&timeout_sec=N` answers when the value is another than that of E, or after N seconds.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from urllib.parse import quote

from holdfast_common.clock import Clock
from holdfast_common.errors import InputError, Temporary
from holdfast_common.notice import NoticeKind

from holdfast_nodeagent.notices.base import Answer, Identity, Seen, Unclear
from holdfast_nodeagent.notices.http import MetadataHttp, Reply
from holdfast_nodeagent.notices.reading import shown, word
from holdfast_nodeagent.userdata import MAX_USER_DATA_BYTES, parse_user_data

FLAVOR = {"Metadata-Flavor": "Google"}
SOFT_OFF_S = 30.0
"""From the soft-off to the end of a Spot VM."""
MIGRATION_LEAD_S = 60.0
GPU_LEAD_S = 3600.0
WAIT_S = 10
"""A long poll is answered after this time even if nothing has changed: so long may a service that hangs go unnoticed."""
SLACK_S = 3.0
"""How much later than promised the answer to a long poll may be."""
PAUSE_S = 0.25
"""Between two requests, where the service does not wait for a change although it was asked to."""
FAULT_PAUSE_S = 1.0
NOTICE_ITEM = "holdfast-notice-s"
THREADS = 3
"""Two long polls, and a request beside them."""

_ROOT = "/computeMetadata/v1/instance/"
_ETAG = re.compile(r"[\x21-\x7e]{1,256}")
_ACCELERATED = re.compile(r"[ag]\d+[a-z]*-")
"""Machine types that have GPUs of themselves. An N1 with GPUs added to it looks like any other: it is evacuated an hour early."""

log = logging.getLogger(__name__)


def parse_preempted(text: str, now: float, window_s: float) -> tuple[Seen, ...]:
    """Read `instance/preempted` at `now`. Raises InputError."""
    if text not in ("TRUE", "FALSE"):
        raise InputError(f"neither TRUE nor FALSE: {shown(text)}")
    return (Seen(NoticeKind.PREEMPT, now + window_s, "Google takes the Spot VM back", counted=True),) if text == "TRUE" else ()


def parse_maintenance_event(text: str, now: float, machine_type: str) -> tuple[Seen, ...]:
    """Read `instance/maintenance-event` at `now`. Raises InputError.

    A live migration costs the VM a short pause, so it only asks for a save. A termination does so until it comes near (`Notice.evacuates`).
    """
    if text == "NONE":
        return ()
    if text == "MIGRATE_ON_HOST_MAINTENANCE":
        return (Seen(NoticeKind.ADVISE, now, "Google is about to migrate the VM", counted=True),)
    if text != "TERMINATE_ON_HOST_MAINTENANCE":
        raise InputError(f"no event that we know: {shown(text)}")
    lead_s = GPU_LEAD_S if _ACCELERATED.match(machine_type) else MIGRATION_LEAD_S
    return (Seen(NoticeKind.MAINTENANCE, now + lead_s, "Google ends the VM for maintenance of its host", counted=True),)


def parse_notice_s(text: str) -> float:
    """Read the metadata item that says how long before the soft-off the notice comes, in seconds. Raises InputError."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= 3600:
        raise InputError(f"{NOTICE_ITEM} is not a number of seconds: {shown(text)}")
    return float(text)


class GcpMetadata:
    """The metadata service of this instance. `http` must have `THREADS` threads."""

    def __init__(self, http: MetadataHttp, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self.window_s = SOFT_OFF_S
        self._machine_type = ""
        self._window_known = False
        self._learning: asyncio.Task[None] | None = None
        self._watches = {
            "preempted": _Watch(self._value, "preempted", self._preempted, clock),
            "maintenance-event": _Watch(self._value, "maintenance-event", self._maintenance, clock),
        }
        self._tasks: dict[str, asyncio.Task[Answer]] = {}

    async def identity(self) -> Identity:
        """Return what the instance is. Raises Temporary."""
        instance_id = await self._word("id")
        if not re.fullmatch(r"\d{1,20}", instance_id):
            raise Temporary(f"the metadata service names no instance id: {shown(instance_id)}")
        user_data = parse_user_data(await self._optional("attributes/user-data", MAX_USER_DATA_BYTES) or b"")
        preemptible = await self._word("scheduling/preemptible")
        identity = Identity(
            instance_id=instance_id,
            provider="gcp",
            zone=_last(await self._word("zone")),
            instance_type=_last(await self._word("machine-type")),
            market={"TRUE": "spot", "FALSE": "on_demand"}.get(preemptible, ""),
            address=await self._word("network-interfaces/0/ip"),
        )
        await self._have_learnt()
        return replace(identity, cluster=user_data.cluster, launch_id=user_data.launch_id, launch_token=user_data.launch_token)

    async def look(self) -> Mapping[str, Answer]:
        """Return as soon as either value is another than the last time, or cannot be had; both are followed side by side meanwhile."""
        await self._have_learnt()
        for name, watch in self._watches.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.ensure_future(watch.news())
        try:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._end_tasks()
            raise
        return {name: self._tasks.pop(name).result() for name, task in list(self._tasks.items()) if task.done()}

    def close(self) -> None:
        """End what is under way."""
        self._end_tasks()
        self._http.close()

    def _end_tasks(self) -> None:
        for task in (*self._tasks.values(), self._learning):
            if task is not None:
                task.cancel()
        self._tasks.clear()

    async def _have_learnt(self) -> None:
        """The first look waits for what can be learnt; later ones do not, since a value that hangs must not delay a notice."""
        learning = self._learning is not None and not self._learning.done()
        if learning or (self._window_known and self._machine_type):
            return
        first, self._learning = self._learning is None, asyncio.ensure_future(self._learn())
        if first:
            await self._learning

    async def _learn(self) -> None:
        """Learn what the deadlines depend on. What cannot be had now is asked for again later: until then the shorter time counts."""
        try:
            if not self._window_known:
                said = await self._optional(f"attributes/{NOTICE_ITEM}")
                self._window_known = True
                if said is not None:
                    self.window_s = parse_notice_s(_text(said))
        except (Temporary, InputError) as error:
            log.warning("how long a notice is: %s", error)
        try:
            self._machine_type = self._machine_type or _last(await self._word("machine-type"))
        except Temporary as error:
            log.warning("how long before maintenance we are told: %s", error)

    def _preempted(self, text: str) -> tuple[Seen, ...]:
        return parse_preempted(text, self._clock.now(), self.window_s)

    def _maintenance(self, text: str) -> tuple[Seen, ...]:
        return parse_maintenance_event(text, self._clock.now(), self._machine_type)

    async def _word(self, name: str) -> str:
        try:
            return word(_text(await self._optional(name) or b""))
        except InputError as error:
            raise Temporary(f"{name}: {error}") from None

    async def _optional(self, name: str, limit: int | None = None) -> bytes | None:
        """Return a value, None where there is none. Raises Temporary."""
        reply = await self._ask(name, "", 0.0, limit)
        if reply.status == 404:
            return None
        return _good(name, reply).body

    async def _value(self, name: str, query: str, waits_s: float) -> Reply:
        return _good(name, await self._ask(name, query, waits_s))

    async def _ask(self, name: str, query: str, waits_s: float, limit: int | None = None) -> Reply:
        timeout_s = waits_s + SLACK_S if waits_s else None
        path = f"{_ROOT}{name}{query}"
        if limit is None:
            reply = await self._http.request("GET", path, FLAVOR, timeout_s=timeout_s)
        else:
            reply = await self._http.request("GET", path, FLAVOR, timeout_s=timeout_s, limit=limit)
        if reply.headers.get("metadata-flavor") != "Google":
            raise Temporary(f"{name}: an answer without Metadata-Flavor: Google, so not from the metadata service")
        return reply


class _Watch:
    """Follows one value. `ask(name, query, seconds that the answer may be held back)` makes one request."""

    def __init__(
        self,
        ask: Callable[[str, str, float], Awaitable[Reply]],
        name: str,
        read: Callable[[str], tuple[Seen, ...]],
        clock: Clock,
    ) -> None:
        self._ask = ask
        self._name = name
        self._read = read
        self._clock = clock
        self._etag = ""
        self._text: str | None = None
        self._not_before = clock.monotonic()

    async def news(self) -> Answer:
        """Return the next value that differs from the last one returned, or what is wrong. A fault is returned each time."""
        while True:
            await self._clock.sleep(self._not_before - self._clock.monotonic())
            began = self._clock.monotonic()
            try:
                text = await self._next()
                if text != self._text:
                    answer = self._read(text)
                    self._text = text
                    return answer
            except (Temporary, InputError) as error:
                self._etag, self._text = "", None
                self._not_before = self._clock.monotonic() + FAULT_PAUSE_S
                return Unclear(f"{self._name}: {error}")
            if self._clock.monotonic() - began < PAUSE_S:
                self._not_before = began + PAUSE_S

    async def _next(self) -> str:
        """Return the value: now, if it is not known what it was (at first, and after a fault), else once it has changed."""
        query = f"?wait_for_change=true&last_etag={quote(self._etag, safe='')}&timeout_sec={WAIT_S}" if self._etag else ""
        reply = await self._ask(self._name, query, WAIT_S if query else 0.0)
        etag = reply.headers.get("etag", "")
        self._etag = etag if _ETAG.fullmatch(etag) else ""
        return _text(reply.body)


def _good(name: str, reply: Reply) -> Reply:
    if reply.status != 200:
        raise Temporary(f"{name}: HTTP {reply.status}")
    return reply


def _text(body: bytes) -> str:
    try:
        return body.decode("ascii").strip()
    except UnicodeDecodeError:
        raise InputError("not ASCII") from None


def _last(path: str) -> str:
    """Return the name in `projects/12/zones/us-central1-a`."""
    return path.rpartition("/")[2]
