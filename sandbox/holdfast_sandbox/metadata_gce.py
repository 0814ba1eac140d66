"""What Compute Engine tells a VM of itself, below `/computeMetadata/v1/`: values as text with an ETag each, long polls for a change."""

import asyncio
import hashlib
from contextlib import suppress

from aiohttp import web

from holdfast_sandbox.machine import Machine

FLAVOR = {"Metadata-Flavor": "Google"}
PROJECT = "holdfast-sandbox"
PROJECT_NUMBER = "123456789012"


def content(machine: Machine) -> dict[str, str | bytes]:
    """All that a VM may read, by path below /computeMetadata/v1/; what is absent answers 404."""
    spot = machine.pool.market == "spot"
    tree: dict[str, str | bytes] = {
        "instance/id": machine.instance_id,
        "instance/name": machine.name,
        "instance/zone": f"projects/{PROJECT_NUMBER}/zones/{machine.pool.zone}",
        "instance/machine-type": f"projects/{PROJECT_NUMBER}/machineTypes/{machine.pool.instance_type}",
        "instance/network-interfaces/0/ip": machine.ip,
        "instance/scheduling/preemptible": "TRUE" if spot else "FALSE",
        "instance/scheduling/on-host-maintenance": "TERMINATE",
        "instance/scheduling/automatic-restart": "FALSE" if spot else "TRUE",
        "instance/preempted": "TRUE" if spot and machine.deadline is not None else "FALSE",
        "instance/maintenance-event": machine.maintenance_event,
        "project/project-id": PROJECT,
        "project/numeric-project-id": PROJECT_NUMBER,
    }
    items: dict[str, str] = machine.spec.attributes.get("metadata", {})
    tree.update({f"instance/attributes/{key}": value for key, value in items.items()})
    if machine.spec.user_data:
        tree["instance/attributes/user-data"] = machine.spec.user_data
    return tree


def read(machine: Machine, path: str) -> bytes | None:
    """The value at a path below /computeMetadata/v1/, or the listing of a folder, or None."""
    tree = content(machine)
    if path in tree:
        value = tree[path]
        return value if isinstance(value, bytes) else value.encode()
    folder = f"{path.rstrip('/')}/" if path else ""
    below = sorted(key.removeprefix(folder) for key in tree if key.startswith(folder))
    names = dict.fromkeys(name.split("/")[0] + ("/" if "/" in name else "") for name in below)
    return "".join(f"{name}\n" for name in names).encode() if names else None


def etag(value: bytes) -> str:
    """The mark of a value: another one as soon as it changes."""
    return hashlib.sha256(value).hexdigest()[:16]


class GceMetadata:
    """The service in Compute Engine's dialect."""

    provider = "gcp"
    prefix = "computeMetadata/v1"

    def garbled(self) -> web.Response:
        """A value that is none."""
        return web.Response(text="MAYBE", headers=FLAVOR)

    async def answer(self, machine: Machine, path: str, request: web.Request) -> web.StreamResponse:
        """Answer a request for a path below /computeMetadata/v1/."""
        if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
            return web.Response(status=403, text="Missing Metadata-Flavor:Google header.", headers=FLAVOR)
        if request.method != "GET":
            return web.Response(status=405, headers=FLAVOR)
        timeout = request.query.get("timeout_sec", "")
        if timeout and not (timeout.isascii() and timeout.isdigit()):
            return web.Response(status=400, headers=FLAVOR)
        if request.query.get("wait_for_change") == "true":
            await _change(machine, path, request.query.get("last_etag"), float(timeout) if timeout else None)
        value = read(machine, path) if machine.alive else None
        if value is None:
            return web.Response(status=404, headers=FLAVOR)
        return web.Response(body=value, content_type="application/text", headers=FLAVOR | {"ETag": etag(value)})


async def _change(machine: Machine, path: str, last_etag: str | None, timeout_s: float | None) -> None:
    """Wait until the value is not the one of the mark (or of now) any more, or until the time is up."""
    value = read(machine, path)
    if value is None:
        return
    known = etag(value) if last_etag is None else last_etag
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while machine.alive and (value := read(machine, path)) is not None and etag(value) == known:
                await machine.changed.wait()
