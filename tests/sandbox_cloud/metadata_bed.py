"""The metadata service and the control API of a sandbox in this very process, with a machine of any of the three clouds on demand."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestServer
from holdfast_sandbox.cloud_config import CloudConfig
from holdfast_sandbox.cloud_control import CloudControl
from holdfast_sandbox.control import Control
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.machine import LaunchSpec, Machine
from holdfast_sandbox.market import MarketKind, Pool
from holdfast_sandbox.metadata import MetadataService
from holdfast_sandbox.record import Record, read_record
from holdfast_sandbox.trace import build_market

T = TypeVar("T")
LAUNCH = b'#cloud-config\n#holdfast {"holdfast": {"v": 1, "cluster": "lab", "launch_id": "l-1", "launch_token": "secret"}}\n'
PLACES = {"aws": ("us-east-1a", "us-east-1"), "gcp": ("us-central1-a", "us-central1"), "azure": ("eastus-1", "eastus")}
TYPE = "sim1.small"


class MetadataBed:
    """A datacenter whose machines never get to run a program; what they are told is all that counts here."""

    def __init__(self, datacenter: Datacenter, url: str) -> None:
        self.datacenter = datacenter
        self.url = url
        self._control = CloudControl(url)

    def launch(
        self, cloud: str, market: MarketKind = "spot", *, name: str = "vm-1", user_data: bytes = LAUNCH, **attributes: Any
    ) -> Machine:
        """A machine of the cloud."""
        numeric = str(uuid.uuid4().int % 10**19)
        named = {"gcp": {numeric: name}, "azure": {str(uuid.uuid4()): name}}.get(cloud)
        spec = LaunchSpec("image", user_data, tags={"holdfast-cluster": "lab"}, attributes=attributes)
        pool = Pool(PLACES[cloud][0], TYPE, market)
        return self.datacenter.launch(pool, 1, spec, "token", named)[0]

    def imds(self, machine: Machine) -> str:
        """Where the machine finds its metadata."""
        return f"{self.url}/imds/{machine.instance_id}"

    async def order(self, call: Callable[[CloudControl], T]) -> T:
        """Use the control API, whose client blocks."""
        return await asyncio.to_thread(call, self._control)

    def record(self) -> list[dict[str, Any]]:
        return read_record(self.datacenter.record.path)


@asynccontextmanager
async def metadata_bed(directory: Path) -> AsyncIterator[MetadataBed]:
    zones = [
        {
            "name": zone,
            "region": region,
            "provider": cloud,
            "capacity": {TYPE: 9},
            "spot_price_usd_h": 1.0,
            "on_demand_usd_h": 3.0,
        }
        for cloud, (zone, region) in PLACES.items()
    ]
    settings = {"zones": zones, "boot_delay_s": 3600.0, "instance_command": ["true"]}
    config = CloudConfig.model_validate({"state_dir": directory, **settings})
    record = Record(directory / "cloud.jsonl", time.time)
    datacenter = Datacenter(config, build_market(config, time.time()), record, time.time)
    app = web.Application()
    app.add_routes([*MetadataService(datacenter).routes(), *Control(datacenter).routes()])
    server = TestServer(app)
    await server.start_server()
    try:
        yield MetadataBed(datacenter, f"http://127.0.0.1:{server.port}")
    finally:
        await datacenter.close()
        await server.close()
        record.close()
