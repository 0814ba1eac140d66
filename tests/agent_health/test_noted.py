"""A policy that has nothing done about what rules find: nodes come up, and it is told all the same."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.fake_node import XID_LINE, FakeNode
from holdfast_protos.v1 import agent_pb2 as pb


@pytest.fixture
async def bed(tmp_path: Path, clock: VirtualClock, inventory: Inventory) -> AsyncIterator[FakeNode]:
    made = FakeNode(tmp_path, clock, inventory)
    await made.start()
    yield made
    await made.stop()


async def test_a_sick_gpu_keeps_slurmd_from_nothing_and_is_told(bed: FakeNode) -> None:
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=2, deep_check_level=2, health_noted=True))
    bed.lines.append(XID_LINE.format(79))
    bed.read_all()
    await settle()
    assert await bed.watch.quick_check() == "passed"
    assert bed.watch.deep_check_level == 0
    said = bed.said[-1]
    assert "79" in said.quick_check
    assert said.findings[0].action == "replace"


async def test_a_policy_that_changes_counts_from_then_on(bed: FakeNode) -> None:
    bed.lines.append(XID_LINE.format(79))
    bed.read_all()
    await settle()
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=2, deep_check_level=2))
    assert "79" in await bed.watch.quick_check()
    assert bed.watch.deep_check_level == 2
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=2, deep_check_level=2, health_noted=True))
    assert await bed.watch.quick_check() == "passed"
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=2))
    assert "79" in await bed.watch.quick_check()
