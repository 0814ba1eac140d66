"""What EC2 tells an instance of itself: IMDSv2, below `/latest/`."""

import json
import secrets
from datetime import UTC, datetime

from aiohttp import web

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2_instances import OWNER
from holdfast_sandbox.ec2_wire import timestamp_text
from holdfast_sandbox.machine import Machine

TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 - the name of a header
MAX_TTL_S = 21_600
MAX_TOKENS = 1000


def seconds_text(unix_s: float) -> str:
    """A time as metadata writes it: 2026-01-31T12:00:00Z."""
    return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def content(machine: Machine) -> dict[str, str | bytes]:
    """All that a machine may read, by path below /latest/; what is absent answers 404."""
    spot = machine.pool.market == "spot"
    tree: dict[str, str | bytes] = {
        "meta-data/ami-id": machine.spec.image_id,
        "meta-data/instance-id": machine.instance_id,
        "meta-data/instance-type": machine.pool.instance_type,
        "meta-data/instance-life-cycle": "spot" if spot else "on-demand",
        "meta-data/local-ipv4": machine.ip,
        "meta-data/reservation-id": machine.reservation_id,
        "meta-data/placement/availability-zone": machine.pool.zone,
        "meta-data/placement/region": machine.region,
        "meta-data/events/maintenance/scheduled": json.dumps(machine.maintenance),
        "dynamic/instance-identity/document": json.dumps(_identity(machine)),
    }
    if machine.spec.user_data:
        tree["user-data"] = machine.spec.user_data
    if machine.deadline is not None and spot:
        when = seconds_text(machine.deadline)
        tree["meta-data/spot/instance-action"] = json.dumps({"action": "terminate", "time": when})
        tree["meta-data/spot/termination-time"] = when
    if machine.rebalance is not None:
        notice = json.dumps({"noticeTime": seconds_text(machine.rebalance)})
        tree["meta-data/events/recommendations/rebalance"] = notice
    if machine.spec.metadata_tags == "enabled":  # EC2 shows tags only where the launch asked for it
        for key, value in machine.tags.items():
            tree[f"meta-data/tags/instance/{key}"] = value
    return tree


def _identity(machine: Machine) -> dict[str, str | None]:
    return {
        "accountId": OWNER,
        "architecture": "x86_64",
        "availabilityZone": machine.pool.zone,
        "imageId": machine.spec.image_id,
        "instanceId": machine.instance_id,
        "instanceType": machine.pool.instance_type,
        "pendingTime": timestamp_text(float(int(machine.requested)))[:19] + "Z",
        "privateIp": machine.ip,
        "region": machine.region,
        "version": "2017-09-30",
    }


def read(machine: Machine, path: str) -> str | bytes | None:
    """The value at a path below /latest/, or the listing of a folder, or None."""
    tree = content(machine)
    if path in tree:
        return tree[path]
    folder = f"{path.rstrip('/')}/" if path else ""
    below = sorted(key.removeprefix(folder) for key in tree if key.startswith(folder))
    names = dict.fromkeys(name.split("/")[0] + ("/" if "/" in name else "") for name in below)
    return "\n".join(names) if names else None


class Ec2Metadata:
    """The service in EC2's dialect: tokens first, 404 while there is nothing to say."""

    provider = "aws"
    prefix = "latest"

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        self._tokens: dict[str, dict[str, float]] = {}  # instance id: token: when it expires

    def garbled(self) -> web.Response:
        """An answer that breaks off."""
        return web.Response(text='{"action": "termin', content_type="text/plain")

    async def answer(self, machine: Machine, path: str, request: web.Request) -> web.StreamResponse:
        """Answer a request for a path below /latest/."""
        if machine.spec.http_endpoint == "disabled" or "X-Forwarded-For" in request.headers:
            return web.Response(status=403)
        if path == "api/token":
            return self._token(machine, request)
        if request.method != "GET":
            return web.Response(status=405)
        if not self._authorized(machine, request):
            return web.Response(status=401)
        value = read(machine, path)
        if value is None:
            return web.Response(status=404)
        return web.Response(body=value.encode() if isinstance(value, str) else value, content_type="text/plain")

    def _token(self, machine: Machine, request: web.Request) -> web.Response:
        if request.method != "PUT":
            return web.Response(status=405)
        ttl = request.headers.get(TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl[:9]) <= MAX_TTL_S):
            return web.Response(status=400)
        now = self._datacenter.now()
        tokens = self._tokens.setdefault(machine.instance_id, {})
        for old in [token for token, expires in tokens.items() if expires <= now]:
            del tokens[old]
        if len(tokens) >= MAX_TOKENS:
            return web.Response(status=503)
        token = secrets.token_urlsafe(40)
        tokens[token] = now + int(ttl)
        return web.Response(text=token, headers={TTL_HEADER: ttl})

    def _authorized(self, machine: Machine, request: web.Request) -> bool:
        token = request.headers.get(TOKEN_HEADER)
        if token is None:
            return machine.spec.http_tokens == "optional"
        return self._tokens.get(machine.instance_id, {}).get(token, 0.0) > self._datacenter.now()
