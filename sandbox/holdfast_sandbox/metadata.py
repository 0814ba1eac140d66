"""The metadata service of every machine of the cloud, in its own cloud's dialect; the other two clouds' paths answer 404.

Each machine has its own base URL (`/imds/<instance-id>`), where a real one would ask a link-local address. Below it are the paths of EC2
(`/latest/...`), Compute Engine (`/computeMetadata/v1/...`) and Azure (`/metadata/...`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.machine import Machine
from holdfast_sandbox.metadata_azure import AzureMetadata
from holdfast_sandbox.metadata_ec2 import Ec2Metadata
from holdfast_sandbox.metadata_gce import GceMetadata


class Dialect(Protocol):
    """How one cloud talks to its machines."""

    provider: str
    prefix: str
    """Of its paths."""

    async def answer(self, machine: Machine, path: str, request: web.Request) -> web.StreamResponse:
        """Answer a request of the machine for a path below the prefix."""

    def garbled(self) -> web.Response:
        """An answer that no client can understand."""


class MetadataService:
    """Serves `/imds/<instance-id>/...`."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        self._dialects: tuple[Dialect, ...] = (Ec2Metadata(datacenter), GceMetadata(), AzureMetadata(datacenter))

    def routes(self) -> list[web.RouteDef]:
        """One route for each dialect."""
        return [web.route("*", f"/imds/{{instance_id}}/{each.prefix}/{{path:.*}}", self._handler(each)) for each in self._dialects]

    def _handler(self, dialect: Dialect) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            machine = self._datacenter.machines.get(request.match_info["instance_id"])
            path = request.match_info["path"]
            if machine is None or not machine.alive or machine.provider != dialect.provider:
                return web.Response(status=404)
            return await self._suffer(dialect, machine, path, request) or await dialect.answer(machine, path, request)

        return handle

    async def _suffer(self, dialect: Dialect, machine: Machine, path: str, request: web.Request) -> web.Response | None:
        fault = self._datacenter.faults.metadata_fault(machine.instance_id, path)
        if fault is None:
            return None
        if fault.mode in ("slow", "hang"):
            await asyncio.sleep(fault.seconds)
        if fault.mode == "hang" and request.transport is not None:
            request.transport.abort()
        if fault.mode == "malformed":
            return dialect.garbled()
        return None if fault.mode == "slow" else web.Response(status=500)
