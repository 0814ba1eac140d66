"""1,000 agents that come at once: streams of the agent's own client, as `bench/idle` makes them, all from this process.

Each has its own connection. So many at a time are on their way: more in one process would wait for munged, which the agents of 1,000
machines do not.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from holdfast_common.auth import MungeAuthenticator
from holdfast_common.channel import agent_channel
from holdfast_common.clock import SystemClock
from holdfast_common.munge import Munge
from holdfast_controller.tokens import make_token
from holdfast_nodeagent.link import Link
from holdfast_nodeagent.outbox import Outbox
from holdfast_protos.v1 import agent_pb2 as pb
from holdfast_sandbox.cluster import Sandbox

LONGEST_S = 240.0
LOOKS_S = 0.05
AT_A_TIME = 200
GIVEN_UP_S = 10.0


class _Stand:
    """In the place of an agent: it takes its name, and does nothing."""

    def __init__(self, hello: pb.Hello) -> None:
        self._hello = hello
        self.welcomed = asyncio.Event()

    def hello(self) -> pb.Hello:
        return self._hello

    def on_welcome(self, welcome: pb.Welcome) -> None:
        self._hello.node = welcome.node
        self.welcomed.set()

    def on_prepare(self, prepare: pb.Prepare) -> None: ...

    def on_release(self, release: pb.Release) -> None: ...

    def on_hazard(self, hazard: pb.Hazard) -> None: ...

    def heartbeat(self) -> pb.Heartbeat:
        return pb.Heartbeat()


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the one loop that all streams of this process are for: gRPC's threads go on calling the first that it was used with."""
    return asyncio.new_event_loop()


async def arrive(sandbox: Sandbox, instances: Iterable[Mapping[str, Any]], over: Callable[[], bool]) -> None:
    """Have the agents of these instances (instance_id, launch_id, address) come, and stay until it is over. Raises TimeoutError."""
    layout, address = sandbox.layout, f"127.0.0.1:{sandbox.site.ports.controller}"
    secret = (layout.controller_state / "secret").read_bytes()
    authenticator = MungeAuthenticator(Munge(str(layout.munge_socket)), SystemClock(), frozenset({0}))

    places = asyncio.Semaphore(AT_A_TIME)
    logging.getLogger("holdfast_nodeagent.link").setLevel(logging.ERROR)  # a stream that is made again is no news here

    async def come(instance: Mapping[str, Any]) -> None:
        hello = pb.Hello(
            instance_id=instance["instance_id"],
            boot_id=secrets.token_hex(16),
            launch_token=make_token(secret, instance["launch_id"]),
            address=instance["address"],
            provider="aws",
        )
        stand = _Stand(hello)
        link = Link(lambda: agent_channel(address, authenticator), stand, Outbox(), SystemClock(), lambda: False, 30.0)
        async with places:
            running = asyncio.create_task(link.run())
            with suppress(TimeoutError):
                await asyncio.wait_for(stand.welcomed.wait(), GIVEN_UP_S)
        try:
            await running
        finally:
            running.cancel()

    tasks = [asyncio.create_task(come(instance)) for instance in instances]
    try:
        ends = time.monotonic() + LONGEST_S
        while not over():
            if time.monotonic() > ends:
                raise TimeoutError(f"waited {LONGEST_S:g} s in vain for all agents to be given their names")
            await asyncio.sleep(LOOKS_S)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        authenticator.close()
