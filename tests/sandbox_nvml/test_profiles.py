"""What each kind of GPU tells, and what it says that it does not support."""

from collections.abc import Callable
from ctypes import byref
from types import ModuleType
from typing import Any

import pytest
from holdfast_sandbox.nvml.gpus import FakeGpus
from holdfast_sandbox.nvml.profiles import PROFILES

CORRECTED, UNCORRECTED = 0, 1
VOLATILE, AGGREGATE = 0, 1


def _field(nvml: ModuleType, handle: Any, number: int, scope: int = 0) -> int:
    value = nvml.nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
    if value.nvmlReturn:
        raise nvml.NVMLError(value.nvmlReturn)
    return int(value.value.ullVal)


def _sram(nvml: ModuleType, handle: Any) -> int:
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, byref(status))
    return int(status.bThresholdExceeded)


def _fabric(nvml: ModuleType, handle: Any) -> int:
    info = nvml.c_nvmlGpuFabricInfo_v3_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
    return int(info.state)


READINGS: dict[str, Callable[[ModuleType, Any], object]] = {
    "temperature": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, 0),
    "temperature_v": lambda nvml, gpu: nvml.nvmlDeviceGetTemperatureV(gpu, 0),
    "margin": lambda nvml, gpu: nvml.nvmlDeviceGetMarginTemperature(gpu),
    "memory_temperature": lambda nvml, gpu: _field(nvml, gpu, 82),
    "power": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu),
    "energy": lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu),
    "utilization": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    "memory_v2": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2).total,
    "clock_reasons": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
    "throttle_reasons": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "ecc_mode": lambda nvml, gpu: nvml.nvmlDeviceGetEccMode(gpu),
    "ecc_uncorrected": lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(gpu, UNCORRECTED, VOLATILE),
    "ecc_corrected": lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(gpu, CORRECTED, AGGREGATE),
    "sram": _sram,
    "remap": lambda nvml, gpu: nvml.nvmlDeviceGetRemappedRows(gpu),
    "retired": lambda nvml, gpu: nvml.nvmlDeviceGetRetiredPages(gpu, 0),
    "retired_v2": lambda nvml, gpu: nvml.nvmlDeviceGetRetiredPages_v2(gpu, 1),
    "retired_pending": lambda nvml, gpu: nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu),
    "recovery_action": lambda nvml, gpu: _field(nvml, gpu, 230),
    "pcie_replays": lambda nvml, gpu: nvml.nvmlDeviceGetPcieReplayCounter(gpu),
    "pcie_replays_field": lambda nvml, gpu: _field(nvml, gpu, 94),
    "pcie_width": lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
    "pcie_width_max": lambda nvml, gpu: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu),
    "pcie_gen": lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
    "pcie_gen_max": lambda nvml, gpu: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu),
    "nvlink_state": lambda nvml, gpu: nvml.nvmlDeviceGetNvLinkState(gpu, 11),
    "nvlink_version": lambda nvml, gpu: nvml.nvmlDeviceGetNvLinkVersion(gpu, 0),
    "nvlink_replay": lambda nvml, gpu: _field(nvml, gpu, 161),
    "nvlink_recovery_all": lambda nvml, gpu: _field(nvml, gpu, 162, 0xFFFFFFFF),
    "nvlink_crc": lambda nvml, gpu: nvml.nvmlDeviceGetNvLinkErrorCounter(gpu, 0, 2),
    "fabric": _fabric,
    "inforom": lambda nvml, gpu: nvml.nvmlDeviceValidateInforom(gpu),
    "persistence": lambda nvml, gpu: nvml.nvmlDeviceGetPersistenceMode(gpu),
    "mig_mode": lambda nvml, gpu: nvml.nvmlDeviceGetMigMode(gpu),
    "processes": lambda nvml, gpu: nvml.nvmlDeviceGetComputeRunningProcesses(gpu),
    "graphics_processes": lambda nvml, gpu: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(gpu),
    "event_types": lambda nvml, gpu: nvml.nvmlDeviceGetSupportedEventTypes(gpu),
}

NVLINK = {"nvlink_state", "nvlink_version", "nvlink_replay", "nvlink_recovery_all", "nvlink_crc"}
RETIRED = {"retired", "retired_v2", "retired_pending"}

UNSUPPORTED = {
    "h100x8": RETIRED,
    "h100x1": RETIRED,
    "a100x8": RETIRED | {"margin", "sram", "fabric"},
    "a100-migx1": RETIRED | {"margin", "sram", "fabric", "utilization"},
    "t4x1": NVLINK | {"margin", "sram", "fabric", "memory_temperature", "remap", "mig_mode"},
}


@pytest.mark.parametrize("profile", sorted(UNSUPPORTED))
def test_a_gpu_supports_what_its_generation_does(profile: str, nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.install(profile)
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    unsupported = set()
    for name, read in READINGS.items():
        try:
            read(nvml, handle)
        except nvml.NVMLError_NotSupported:
            unsupported.add(name)
    assert unsupported == UNSUPPORTED[profile]


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_profile_lists_its_gpus(profile: str, nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.install(profile)
    count = nvml.nvmlDeviceGetCount()
    assert count == PROFILES[profile].count == gpus.count
    assert nvml.nvmlSystemGetDriverVersion() == "570.124.06"
    assert nvml.nvmlSystemGetNVMLVersion() == "12.570.124.06"
    assert nvml.nvmlSystemGetCudaDriverVersion() == 12080
    uuids = set()
    for index in range(count):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, pci = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetPciInfo(handle)
        uuids.add(uuid)
        assert uuid == gpus.uuid(index)
        assert pci.busIdLegacy.lower() == gpus.pci(index)
        assert pci.busId == f"{pci.domain:08X}:{pci.bus:02X}:{pci.device:02X}.0"
        assert nvml.nvmlDeviceGetName(handle) == PROFILES[profile].model
        assert len(nvml.nvmlDeviceGetSerial(handle)) == 13
        assert nvml.nvmlDeviceGetVbiosVersion(handle)
        assert nvml.nvmlDeviceGetArchitecture(handle) == {"t": 6, "a": 7, "h": 9}[profile[0]]  # Turing, Ampere, Hopper
        for again in (nvml.nvmlDeviceGetHandleByUUID(uuid.encode()), nvml.nvmlDeviceGetHandleByPciBusId(pci.busId.encode())):
            assert nvml.nvmlDeviceGetIndex(again) == index
    assert len(uuids) == count
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetHandleByIndex(count)
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetHandleByUUID(b"GPU-00000000-0000-0000-0000-000000000000")


def test_two_machines_have_gpus_of_different_uuids(gpus: FakeGpus) -> None:
    gpus.install("t4x1", machine="a")
    first = gpus.uuid(0)
    gpus.install("t4x1", machine="b")
    assert gpus.uuid(0) != first
    gpus.install("t4x1", machine="a")
    assert gpus.uuid(0) == first


def test_the_first_version_of_memory_counts_what_the_driver_keeps(nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.set("memory_used", 1000, gpu=0)
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    second = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    first = nvml.nvmlDeviceGetMemoryInfo(handle)
    assert second.used == 1000
    assert first.used == 1000 + second.reserved
    assert first.total == second.total == second.used + second.reserved + second.free


def test_mig_devices_have_memory_and_processes_of_their_own(nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.install("a100-migx1")
    gpus.set("processes", "100:5:1:0,200:7:2:0", gpu=0)
    gpus.set("mig1.memory_used", 7, gpu=0)
    whole = nvml.nvmlDeviceGetHandleByIndex(0)
    assert nvml.nvmlDeviceGetMigMode(whole) == [1, 1]
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(whole) == 7
    assert [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(whole)] == [100, 200]
    for index, (pid, used) in enumerate([(100, 0), (200, 7)]):
        part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)
        assert nvml.nvmlDeviceIsMigDeviceHandle(part).value == 1
        assert nvml.nvmlDeviceGetUUID(part).startswith("MIG-")
        assert nvml.nvmlDeviceGetName(part).endswith("MIG 3g.40gb")
        memory = nvml.nvmlDeviceGetMemoryInfo(part)
        assert (memory.total, memory.used) == (40 << 30, used)
        assert [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(part)] == [pid]
        assert (nvml.nvmlDeviceGetGpuInstanceId(part), nvml.nvmlDeviceGetComputeInstanceId(part)) == (index + 1, 0)
        assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)) == gpus.uuid(0)
        with pytest.raises(nvml.NVMLError_NotSupported):
            nvml.nvmlDeviceGetUtilizationRates(part)
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, 2)


def test_a_gpu_without_its_peers_has_links_that_are_down_and_a_fabric_that_is_not_supported(nvml: ModuleType, gpus: FakeGpus) -> None:
    gpus.install("h100x1")
    alone = nvml.nvmlDeviceGetHandleByIndex(0)
    assert _fabric(nvml, alone) == nvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED
    assert {nvml.nvmlDeviceGetNvLinkState(alone, link) for link in range(18)} == {0}
