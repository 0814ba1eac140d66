"""`python -m holdfast_sandbox.first_look SOCKET`: returns when the controller there has looked at Slurm and at every cloud once.

Before that it buys nothing, and what Slurm asks for in that second it would buy only half a minute later (docs/limits.md). A process of
its own, since gRPC leaves threads in whoever uses it, and a sandbox starts many processes.
"""

import asyncio
import itertools
import sys
from pathlib import Path

import grpc.aio
from holdfast_common.channel import controller_channel
from holdfast_protos.v1 import admin_pb2, admin_pb2_grpc

_POLL_S = 0.05


async def wait(socket: Path) -> None:
    """Return when it has; whoever starts this limits the time."""
    async with controller_channel(socket) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        for _ in itertools.count():
            if await _has_looked(stub):
                return
            await asyncio.sleep(_POLL_S)


async def _has_looked(stub: admin_pb2_grpc.AdminServiceStub) -> bool:
    try:
        ping = await stub.Ping(admin_pb2.PingRequest(), timeout=1.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(ping.reconciled)


if __name__ == "__main__":
    asyncio.run(wait(Path(sys.argv[1])))
