"""The object store as a process; see the package's docstring. SIGTERM or SIGINT ends it, and its bodies go with it."""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

from aiohttp import web

from holdfast_sandbox.objects.buckets import Buckets
from holdfast_sandbox.objects.endpoint import Endpoint
from holdfast_sandbox.objects.faults import Faults
from holdfast_sandbox.objects.service import Service

HOST = "127.0.0.1"
PORT = 9100
MIN_PART_BYTES = 5 * 1024 * 1024
_READ_BUFFER_BYTES = 2 * 1024 * 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)


async def serve(options: argparse.Namespace, directory: Path) -> None:
    """Be the store until a signal comes. Raises OSError where the port cannot be had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    faults = Faults()
    service = Service(directory, Buckets(options.bucket), faults, options.min_part_bytes)
    app = web.Application()
    app.add_routes(Endpoint(service, faults).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, read_bufsize=_READ_BUFFER_BYTES, auto_decompress=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, options.port).start()
        url = f"http://{HOST}:{runner.addresses[0][1]}"
        if options.ready_file is not None:
            _write_ready_file(options.ready_file, url)
        print(f"The object store is at {url}, with the buckets {', '.join(options.bucket)}.", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def _write_ready_file(path: Path, url: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"v": 1, "pid": os.getpid(), "endpoint_url": url}))
    temporary.replace(path)


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no bucket's name")
    return text


def main(argv: list[str] | None = None) -> int:
    """Run the store; returns 0 after an orderly stop, 1 where it could not start."""
    parser = argparse.ArgumentParser(prog="holdfast sandbox s3", description="A simulated object store (S3, Cloud Storage) on loopback.")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the bodies lie while it runs (default: the temporary directory)")
    parser.add_argument("--port", type=int, default=PORT, help=f"TCP port on {HOST}; 0: any free one (default {PORT})")
    parser.add_argument(
        "--bucket", type=_bucket, action="append", metavar="NAME", help="a bucket to begin with (default: sandbox); repeat it"
    )
    parser.add_argument(
        "--min-part-bytes", type=int, default=MIN_PART_BYTES, metavar="N", help="smallest part but the last (default 5 MiB)"
    )
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="gets the address as JSON once it listens")
    options = parser.parse_args(argv)
    options.bucket = options.bucket or ["sandbox"]
    try:
        if options.dir is not None:
            options.dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="holdfast-objects-", dir=options.dir, ignore_cleanup_errors=True) as directory:
            asyncio.run(serve(options, Path(directory)))
    except OSError as fault:
        print(f"the object store could not run: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
