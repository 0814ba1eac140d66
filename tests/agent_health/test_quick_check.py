"""The check before slurmd's start, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.health.model import Action, Finding, Sample
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.fake_node import XID_LINE, FakeNode
from holdfast_protos.v1 import agent_pb2 as pb


@pytest.fixture
async def bed(tmp_path: Path, clock: VirtualClock, inventory: Inventory) -> AsyncIterator[FakeNode]:
    made = FakeNode(tmp_path, clock, inventory)
    await made.start()
    yield made
    await made.stop()


async def test_it_waits_for_the_first_readings_and_no_longer(bed: FakeNode) -> None:
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=2, gpu_model="H100"))
    check = asyncio.ensure_future(bed.watch.quick_check())
    await bed.clock.advance(3)
    assert not check.done()
    bed.read_all()
    await settle()
    assert check.result() == "passed"
    assert bed.said[-1].quick_check == "passed"
    assert bed.watch.snapshot().quick_check == "passed"
    now = bed.clock.now()
    assert await bed.watch.quick_check() == "passed"
    assert bed.clock.now() == now


async def test_a_sick_gpu_fails_it_and_the_controller_is_told_of_both(bed: FakeNode) -> None:
    bed.lines.append(XID_LINE.format(79))
    bed.read_all()
    await settle()
    reason = await bed.watch.quick_check()
    assert "79" in reason
    said = bed.said[-1]
    assert said.quick_check == reason
    assert said.findings[0].action in ("evacuate", "replace")


async def test_missing_gpus_fail_it(bed: FakeNode) -> None:
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=8))
    bed.read_all()
    await settle()
    assert bed.rules() == {}  # the rule wants to see it for longer, but no job may come meanwhile
    assert await bed.watch.quick_check() == "gpus-missing: gpus_missing 6 (2 of 8)"
    await bed.clock.advance(5)
    bed.tier("fast")
    assert bed.rules() == {"gpus-missing": "evacuate"}
    assert (await bed.watch.quick_check()).startswith("gpus-missing: ")


@pytest.mark.parametrize(("gpus", "fails"), [(2, True), (0, False)])
async def test_nvml_that_does_not_answer_fails_it_where_gpus_should_be(bed: FakeNode, gpus: int, fails: bool) -> None:
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=gpus))
    check = asyncio.ensure_future(bed.watch.quick_check())
    await bed.clock.advance(19.9)
    assert not check.done()
    await bed.clock.advance(0.2)
    assert check.result() == ("NVML has not told of the GPUs within 20 s" if fails else "passed")


async def test_anew_means_that_what_was_read_before_does_not_count(bed: FakeNode) -> None:
    bed.read_all()
    check = asyncio.ensure_future(bed.watch.quick_check(anew=True))
    await settle()
    assert not check.done()
    assert bed.reader.asked == 1
    bed.read_all()
    await settle()
    assert check.result() == "passed"


async def test_a_note_does_not_fail_it(bed: FakeNode) -> None:
    bed.read_all()
    bed.watch.set_deep_check("not run: no dcgmi", (Finding("deep_check", Action.NOTE, 1.0),))
    assert await bed.watch.quick_check() == "passed"


async def test_a_deep_check_is_run_once_a_boot_and_its_failure_stands_until_it_is_resolved(bed: FakeNode) -> None:
    bed.read_all()
    bed.watch.on_welcome(pb.Welcome(node="spot-1", deep_check_level=2))
    assert bed.watch.deep_check_level == 2
    bed.watch.set_deep_check("memory on GPU 1", (Finding("deep_check", Action.REPLACE, 1.0, text="memory on GPU 1"),))
    assert bed.rules() == {"deep_check": "replace"}
    await bed.again()
    bed.read_all()
    assert await bed.watch.quick_check() == "deep_check: memory on GPU 1"
    bed.watch.on_order(pb.HealthOrder(resolve_rule="*"))
    assert bed.watch.deep_check_level == 2
    assert await bed.watch.quick_check() == "passed"
    bed.watch.set_deep_check("passed", ())
    await bed.again()
    bed.watch.on_welcome(pb.Welcome(node="spot-1", deep_check_level=2))
    assert bed.watch.deep_check_level == 0


@pytest.mark.parametrize("late", ["driver", "fabric", "store", "clock"])
async def test_what_comes_late_after_a_boot_keeps_slurmd_waiting_and_is_no_finding(tmp_path: Path, inventory: Inventory, late: str) -> None:
    clock = VirtualClock(30.0)
    bed = FakeNode(tmp_path, clock, inventory)
    bed.mounts = [tmp_path / "store"] if late == "store" else []
    bed.make()
    await bed.start()
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=2, gpu_model="H100"))

    async def minute() -> None:
        for _ in range(4):
            if late == "driver":
                bed.watch.on_unavailable("Driver Not Loaded")
            else:
                bed.read_all()
                bed.tier("medium", *(Sample(clock.now(), "fabric_unhealthy", 1.0, gpu.uuid) for gpu in inventory.gpus if late == "fabric"))
            if late == "clock":
                bed.watch.on_sent(clock.now() - 200)
            await clock.advance(15)

    await minute()
    await minute()
    assert await bed.watch.quick_check() != "passed"
    assert bed.rules() == {}
    await minute()
    await minute()
    assert bed.rules() == {
        "driver": {"nvml-unavailable": "drain"},
        "fabric": {"fabric-unhealthy": "evacuate"},
        "store": {"checkpoint-store": "drain"},
        "clock": {"clock-far-off": "drain", "clock-skew": "note"},
    }.get(late)
    await bed.stop()


async def test_a_gpu_that_is_lost_is_a_finding_at_any_time(tmp_path: Path, inventory: Inventory) -> None:
    bed = FakeNode(tmp_path, VirtualClock(30.0), inventory)
    await bed.start()
    bed.read_all()
    bed.tier("fast", Sample(30.0, "up", 0.0, "GPU-0"))
    assert bed.rules() == {"gpu-lost": "evacuate"}
    await bed.stop()
