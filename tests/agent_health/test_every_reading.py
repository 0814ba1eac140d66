"""What the NVML process does not take of the catalogue, the agent does. What that process takes: tests/agent_gpu/test_readings.py."""

from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.model import Sample
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.fake_node import FakeNode
from holdfast_protos.v1 import agent_pb2 as pb

BY_THE_NVML_PROCESS = {"gpus_visible", "up", "memory_used_bytes"}
"""What this test says in its place."""


@pytest.mark.parametrize("gpus", [2, 0])
async def test_every_reading_of_the_catalogue_is_taken_by_somebody(
    tmp_path: Path, clock: VirtualClock, inventory: Inventory, gpus: int
) -> None:
    bed = FakeNode(tmp_path, clock, inventory)
    bed.mounts = [tmp_path / "checkpoints"]
    bed.make()
    await bed.start()
    bed.read_all()
    bed.watch.on_welcome(pb.Welcome(node="spot-1", gpus=gpus, gpu_model="H100" if gpus else ""))
    for _ in range(3):
        bed.watch.on_sent(clock.now())
    bed.tier("medium", *(Sample(clock.now(), "memory_used_bytes", 0.0, gpu.uuid) for gpu in inventory.gpus))
    bed.watch.on_processes({gpu.uuid: {} for gpu in inventory.gpus})
    await clock.advance(65)
    bed.tier("fast")
    await settle()
    taken = bed.watch.snapshot().samples
    of_the_node = {name for name, reading in READINGS.items() if reading.scope == "node"}
    assert {name for name, _ in taken} - BY_THE_NVML_PROCESS == (of_the_node - BY_THE_NVML_PROCESS) | {
        "leftover_processes",
        "leftover_memory_bytes",
    }
    assert {name for (name, _), sample in taken.items() if sample.state == "failed"} == set()
    unsaid = {name for (name, _), sample in taken.items() if sample.state == "unsupported"} - {"memory_pressure_ratio"}
    assert unsaid == (set() if gpus else {"gpus_missing", "gpu_model_mismatch", "nvml_unavailable"})
    await bed.stop()
