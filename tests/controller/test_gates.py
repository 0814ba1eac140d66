"""A gate's wait when the clock of the controller's host is set meanwhile."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_controller.hooks import HookService
from holdfast_protos.v1 import hook_pb2

Outcome = hook_pb2.AwaitNodesReply


class Loop:
    """Stands for the reactor: tells of changes."""

    def __init__(self, fleet: Any) -> None:
        self.fleet = fleet
        self._news = asyncio.Event()

    async def changed(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def tell(self) -> None:
        self._news.set()
        await settle()


@pytest.mark.parametrize("by_s", [-600.0, 600.0])
async def test_a_clock_that_is_set_keeps_no_gate_waiting_and_sends_none_away(world: Any, by_s: float) -> None:
    clock = VirtualClock(world.now)
    loop = Loop(world.fleet)
    service = HookService(loop, SimpleNamespace(hurry=lambda change: None), clock)  # type: ignore[arg-type]
    world.want(7, "n1")
    gate = asyncio.create_task(service.AwaitNodes(hook_pb2.AwaitNodesRequest(job_id=7, nodes=["n1"], wait_s=20.0), None))
    await settle()
    clock.step(by_s)
    world.fleet.clock_steps += 1
    await loop.tell()
    assert not gate.done(), "20 s are not over"
    await clock.advance(1.0)
    world.now = clock.now()
    world.node("n1", "ALLOCATED", "CLOUD")
    await loop.tell()
    assert (await asyncio.wait_for(gate, 5)).outcome == Outcome.READY
