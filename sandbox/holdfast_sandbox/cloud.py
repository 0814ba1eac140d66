"""The simulated cloud as a process: `python -m holdfast_sandbox.cloud --config FILE.json`.

One port serves EC2's query protocol and SQS' (`POST /`), the metadata of each instance (`/imds/<id>/...`) and the control
API (`/control/...`). When it listens, it says so in the ready file. It goes, and takes every instance with it, on SIGTERM,
SIGINT or (by the kernel's death signal) SIGKILL.
"""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from aiohttp import web

from holdfast_sandbox.arm import ArmEndpoint
from holdfast_sandbox.cloud_config import CloudConfig, load
from holdfast_sandbox.control import Control
from holdfast_sandbox.datacenter import Datacenter
from holdfast_sandbox.ec2 import Ec2Endpoint
from holdfast_sandbox.gce import PATH as GCE_PATH
from holdfast_sandbox.gce import GceEndpoint
from holdfast_sandbox.metadata import MetadataService
from holdfast_sandbox.record import Record
from holdfast_sandbox.sqs import SqsEndpoint
from holdfast_sandbox.trace import build_market

HOST = "127.0.0.1"
MAX_BODY_BYTES = 4 * 1024 * 1024


def lock_state_dir(config: CloudConfig) -> IO[str]:
    """Hold the state directory for this process alone; raises BlockingIOError where another cloud has it."""
    config.state_dir.mkdir(parents=True, exist_ok=True)
    lock = (config.state_dir / "cloud.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def write_ready_file(path: Path, port: int) -> None:
    """Say, atomically, where the cloud is to be reached."""
    ready = {"v": 1, "pid": os.getpid(), "port": port, "endpoint_url": f"http://{HOST}:{port}"}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(ready))
    temporary.replace(path)


def application(datacenter: Datacenter) -> web.Application:
    """The web application of a datacenter: EC2, metadata, control."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    ec2, sqs = Ec2Endpoint(datacenter), SqsEndpoint(datacenter)

    async def amazon(request: web.Request) -> web.StreamResponse:
        return await (sqs if sqs.is_meant(request) else ec2).handle(request)

    app.add_routes([web.post("/", amazon)])
    app.add_routes(MetadataService(datacenter).routes())
    app.add_routes(ArmEndpoint(datacenter).routes())
    app.add_routes([web.route("*", GCE_PATH, GceEndpoint(datacenter).handle)])
    app.add_routes(Control(datacenter).routes())
    return app


async def serve(config: CloudConfig, stop: asyncio.Event) -> None:
    """Be the cloud until `stop` is set; raises OSError where the port or a file cannot be had."""
    record = Record(config.state_dir / "cloud.jsonl", time.time)
    datacenter = Datacenter(config, build_market(config, time.time()), record, time.time)
    runner = web.AppRunner(application(datacenter), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    follower = asyncio.create_task(datacenter.follow_market())
    try:
        site = web.TCPSite(runner, HOST, config.port)
        await site.start()
        port = int(runner.addresses[0][1])
        datacenter.metadata_base_url = f"http://{HOST}:{port}/imds"
        record.write("started", pid=os.getpid(), port=port, pools=_pools(datacenter))
        write_ready_file(config.ready_path(), port)
        await stop.wait()
    finally:
        follower.cancel()
        await datacenter.close()
        await runner.cleanup()
        record.write("stopped")
        record.close()
        config.ready_path().unlink(missing_ok=True)


def _pools(datacenter: Datacenter) -> list[dict[str, str | float]]:
    market, now = datacenter.market, datacenter.now()
    return [
        {
            "zone": pool.zone,
            "instance_type": pool.instance_type,
            "lifecycle": pool.market,
            "capacity": market.capacity(pool, now),
            "price_usd_h": market.price_usd_h(pool, now),
        }
        for pool in sorted(market.pools)
    ]


async def _until_signalled(config: CloudConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(config, stop)


def main(argv: list[str] | None = None) -> int:
    """Run the cloud; returns 0 after an orderly stop, 1 where it could not start, 2 for a bad configuration."""
    parser = argparse.ArgumentParser(prog="holdfast_sandbox.cloud", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="JSON file; see holdfast_sandbox.cloud_config")
    path: Path = parser.parse_args(argv).config
    try:
        config = load(path)
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    try:
        lock = lock_state_dir(config)
        with lock:
            asyncio.run(_until_signalled(config))
    except (OSError, ValueError) as error:
        print(f"the cloud could not run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
