"""EC2's metadata service (IMDSv2). Paths and payloads: AWS's documentation and the amazon-ec2-metadata-mock repository.

- A token is fetched by PUT and carried by every read; 401 means that it is no longer good. Absence is 404.
- `spot/instance-action`: two minutes ahead at best; `action` is terminate, stop or hibernate: the instance is lost to the job in each case.
- `events/recommendations/rebalance`: the risk has risen; no deadline.
- `events/maintenance/scheduled`: a list (the mock sends one object alone); times as `21 Jan 2019 09:00:43 GMT`.
"""

import math
import re
from collections.abc import Callable, Mapping

from holdfast_common.clock import Clock
from holdfast_common.errors import InputError, Temporary
from holdfast_common.notice import NoticeKind

from holdfast_nodeagent.notices.base import Answer, Identity, Seen, Unclear
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_nodeagent.notices.reading import http_date, iso_time, json_object, json_value, shown
from holdfast_nodeagent.userdata import parse_user_data

TOKEN_TTL_S = 3600
TOKEN_EARLY_S = 15.0
SLOW_EVERY = 5
"""The sources with minutes or days of warning are asked at each fifth look."""

SPOT = "spot/instance-action"
MAINTENANCE = "events/maintenance/scheduled"

_META = "/latest/meta-data/"
_ACTIONS = ("terminate", "stop", "hibernate")


def parse_instance_action(body: bytes) -> tuple[Seen, ...]:
    """Read `spot/instance-action`. Raises InputError."""
    content = json_object(body)
    action = content.get("action")
    if action not in _ACTIONS:
        raise InputError(f"unknown action {shown(action)}")
    return (Seen(NoticeKind.PREEMPT, iso_time(content.get("time")), f"EC2 takes the spot instance back ({action})"),)


def parse_rebalance(body: bytes) -> tuple[Seen, ...]:
    """Read `events/recommendations/rebalance`. Raises InputError."""
    return (Seen(NoticeKind.ADVISE, iso_time(json_object(body).get("noticeTime")), "EC2 recommends to rebalance"),)


def parse_maintenance(body: bytes) -> Answer:
    """Read `events/maintenance/scheduled`: those that are still to come; a malformed one hides no other. Raises InputError for no JSON."""
    content = json_value(body)
    found: list[Seen] = []
    fault = ""
    for event in content if isinstance(content, list) else [content]:
        try:
            found.extend(_to_come(event))
        except InputError as error:
            fault = fault or str(error)
    return Unclear(f"{MAINTENANCE}: {fault}", tuple(found)) if fault else tuple(found)


def _to_come(event: object) -> tuple[Seen, ...]:
    """Read one event; empty where it is over. Raises InputError."""
    if not isinstance(event, dict):
        raise InputError("an event is no object")
    if event.get("State", "active") != "active":
        return ()
    code = event.get("Code")
    if not isinstance(code, str):
        raise InputError("an event has no Code")
    return (Seen(NoticeKind.MAINTENANCE, http_date(event.get("NotBefore")), f"EC2 has scheduled {code[:60]}"),)


_SOURCES: Mapping[str, Callable[[bytes], Answer]] = {
    SPOT: parse_instance_action,
    "events/recommendations/rebalance": parse_rebalance,
    MAINTENANCE: parse_maintenance,
}


class AwsMetadata:
    """The metadata service of this instance."""

    window_s = 120.0

    def __init__(self, http: MetadataHttp, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._token = ""
        self._token_until = -math.inf
        self._looks = 0

    async def identity(self) -> Identity:
        """Return what the instance is. Raises Temporary."""
        instance_id = await self._text("instance-id")
        if not instance_id:
            raise Temporary("the metadata service names no instance id")
        life_cycle = await self._text("instance-life-cycle")
        user_data = parse_user_data(await self._get("/latest/user-data") or b"")
        return Identity(
            instance_id=instance_id,
            provider="aws",
            zone=await self._text("placement/availability-zone"),
            instance_type=await self._text("instance-type"),
            market={"spot": "spot", "on-demand": "on_demand"}.get(life_cycle, ""),
            address=await self._text("local-ipv4"),
            cluster=user_data.cluster,
            launch_id=user_data.launch_id,
            launch_token=user_data.launch_token,
        )

    def close(self) -> None:
        """End what is under way."""
        self._http.close()

    async def look(self) -> Mapping[str, Answer]:
        """Ask each source that is due. The spot notice is asked for every time, and first."""
        due = list(_SOURCES) if self._looks % SLOW_EVERY == 0 else [SPOT]
        self._looks += 1
        return {name: await self._ask(name) for name in due}

    async def _ask(self, name: str) -> Answer:
        try:
            body = await self._get(_META + name)
            return () if body is None else _SOURCES[name](body)
        except (Temporary, InputError) as error:
            return Unclear(f"{name}: {error}")

    async def _text(self, name: str) -> str:
        body = await self._get(_META + name)
        text = (body or b"").decode(errors="replace").strip()
        if not re.fullmatch(r"[\x21-\x7e]{0,256}", text):
            raise Temporary(f"{name}: not one word")
        return text

    async def _get(self, path: str) -> bytes | None:
        """Return a path's content, None for 404. Raises Temporary for all else; an old token is renewed once."""
        for _ in range(2):
            if self._clock.monotonic() >= self._token_until - TOKEN_EARLY_S:
                await self._renew()
            reply = await self._http.request("GET", path, {"X-aws-ec2-metadata-token": self._token})
            if reply.status == 200:
                return reply.body
            if reply.status == 404:
                return None
            self._token_until = -math.inf
            if reply.status != 401:
                break
        raise Temporary(f"{path}: HTTP {reply.status}")

    async def _renew(self) -> None:
        header = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        reply = await self._http.request("PUT", "/latest/api/token", header)
        token = reply.body.decode("ascii", errors="replace").strip()
        if reply.status != 200 or not re.fullmatch(r"[\x21-\x7e]{1,1024}", token):
            raise Temporary(f"no metadata token: HTTP {reply.status}")
        self._token = token
        self._token_until = self._clock.monotonic() + TOKEN_TTL_S
