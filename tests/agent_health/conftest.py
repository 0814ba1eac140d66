"""Fixtures of the health's tests: virtual time, GPUs in memory."""

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_nodeagent.gpu.inventory import Gpu, Inventory


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def inventory() -> Inventory:
    gpus = tuple(Gpu(index, f"GPU-{index}", f"0000:{0x18 + 0x11 * index:02x}:00.0", "NVIDIA H100 80GB HBM3") for index in range(2))
    return Inventory("570.86.15", "12.570.86.15", gpus)
