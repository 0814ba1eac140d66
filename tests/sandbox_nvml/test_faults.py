"""Faults that are switched while nvidia-ml-py runs."""

from collections.abc import Callable
from ctypes import byref
from types import ModuleType
from typing import Any

import pytest
from holdfast_sandbox.nvml.gpus import FakeGpus
from holdfast_sandbox.nvml.library import calls_made


@pytest.fixture
def gpu(nvml: ModuleType) -> Any:
    """The handle of GPU 3."""
    return nvml.nvmlDeviceGetHandleByIndex(3)


def _fields(nvml: ModuleType, handle: Any, *ids: int | tuple[int, int]) -> list[int | str]:
    return [
        f"error {value.nvmlReturn}" if value.nvmlReturn else value.value.ullVal
        for value in nvml.nvmlDeviceGetFieldValues(handle, list(ids))
    ]


def _error(nvml: ModuleType, read: Callable[[], int | str]) -> int | str:
    try:
        return read()
    except nvml.NVMLError as error:
        return f"error {error.value}"


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("temperature", 93, lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, 0)),
        ("temperature", 94, lambda nvml, gpu: nvml.nvmlDeviceGetTemperatureV(gpu, 0)),
        ("margin", -4, lambda nvml, gpu: nvml.nvmlDeviceGetMarginTemperature(gpu)),
        ("power_milliwatts", 700_123, lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu)),
        ("energy_millijoules", 1 << 40, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)),
        ("utilization", 97, lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
        ("clock_reasons", 0x48, lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)),
        ("clock_reasons", 0x80, lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
        ("ecc_corrected_volatile", 11, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(gpu, 0, 0)),
        ("ecc_corrected_aggregate", 12, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(gpu, 0, 1)),
        ("ecc_uncorrected_volatile", 13, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 0)),
        ("ecc_uncorrected_aggregate", 14, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 1)),
        ("remap_corrected", 2, lambda nvml, gpu: nvml.nvmlDeviceGetRemappedRows(gpu)[0]),
        ("remap_uncorrected", 600, lambda nvml, gpu: nvml.nvmlDeviceGetRemappedRows(gpu)[1]),
        ("remap_pending", 1, lambda nvml, gpu: nvml.nvmlDeviceGetRemappedRows(gpu)[2]),
        ("remap_failed", 1, lambda nvml, gpu: nvml.nvmlDeviceGetRemappedRows(gpu)[3]),
        ("retired_single_bit", 64, lambda nvml, gpu: len(nvml.nvmlDeviceGetRetiredPages(gpu, 0))),
        ("retired_double_bit", 3, lambda nvml, gpu: len(nvml.nvmlDeviceGetRetiredPages_v2(gpu, 1))),
        ("retired_pending", 1, lambda nvml, gpu: nvml.nvmlDeviceGetRetiredPagesPendingStatus(gpu)),
        ("recovery_action", 2, lambda nvml, gpu: _fields(nvml, gpu, 230)[0]),
        ("memory_temperature", 99, lambda nvml, gpu: _fields(nvml, gpu, 82)[0]),
        ("pcie_replays", 500, lambda nvml, gpu: nvml.nvmlDeviceGetPcieReplayCounter(gpu)),
        ("pcie_replays", 501, lambda nvml, gpu: _fields(nvml, gpu, 94)[0]),
        ("pcie_width", 8, lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu)),
        ("pcie_gen", 3, lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu)),
        ("persistence", 0, lambda nvml, gpu: nvml.nvmlDeviceGetPersistenceMode(gpu)),
        ("field.251", 1, lambda nvml, gpu: _fields(nvml, gpu, 251)[0]),
    ],
)
def test_a_value_changes_at_once_for_its_gpu_alone(
    key: str, value: int, read: Callable[[ModuleType, Any], int], nvml: ModuleType, gpus: FakeGpus, gpu: Any
) -> None:
    other = nvml.nvmlDeviceGetHandleByIndex(4)
    gpus.set(key, 0)
    assert read(nvml, gpu) == 0
    gpus.set(key, value, gpu=3)
    assert (read(nvml, gpu), read(nvml, other)) == (value, 0)
    gpus.unset(key, gpu=3)
    assert read(nvml, gpu) == 0
    gpus.set(key, f"!{nvml.NVML_ERROR_NO_PERMISSION}", gpu=3)
    assert _error(nvml, lambda: read(nvml, gpu)) == "error 4"


def test_a_lost_gpu_answers_nothing_and_the_others_everything(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.lose(3)
    for call in (nvml.nvmlDeviceGetUUID, nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetRemappedRows, nvml.nvmlDeviceValidateInforom):
        with pytest.raises(nvml.NVMLError_GpuIsLost):
            call(gpu)
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetFieldValues(gpu, [230])
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetHandleByIndex(3)
    assert nvml.nvmlDeviceGetCount() == 8
    assert nvml.nvmlDeviceGetPowerUsage(nvml.nvmlDeviceGetHandleByIndex(4))
    gpus.clear()
    assert nvml.nvmlDeviceGetUUID(gpu) == gpus.uuid(3)


def test_a_gpu_that_is_not_listed_any_more_moves_the_indexes(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.lose(3, listed=False)
    assert nvml.nvmlDeviceGetCount() == 7
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(3)) == gpus.uuid(4)
    assert nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(gpus.uuid(7).encode())) == 6
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetPowerUsage(gpu)


def test_a_gpu_that_needs_a_reset_still_says_what_it_is_and_what_it_needs(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.need_reset(3)
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(3)) == gpus.uuid(3)
    assert _fields(nvml, gpu, 230) == [1]
    with pytest.raises(nvml.NVMLError_ResetRequired):
        nvml.nvmlDeviceGetTemperature(gpu, 0)


def test_an_unknown_error_of_one_gpu(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("error", nvml.NVML_ERROR_UNKNOWN, gpu=3)
    with pytest.raises(nvml.NVMLError_Unknown, match="Unknown Error"):
        nvml.nvmlDeviceGetTemperature(gpu, 0)


def test_one_function_that_fails(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("fail.nvmlDeviceGetPowerUsage", nvml.NVML_ERROR_IRQ_ISSUE, gpu=3)
    with pytest.raises(nvml.NVMLError_IrqIssue):
        nvml.nvmlDeviceGetPowerUsage(gpu)
    assert nvml.nvmlDeviceGetTemperature(gpu, 0) == 31
    assert nvml.nvmlDeviceGetPowerUsage(nvml.nvmlDeviceGetHandleByIndex(0))


def test_a_corrupt_inforom(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("inforom_corrupt", 1, gpu=3)
    with pytest.raises(nvml.NVMLError_CorruptedInforom):
        nvml.nvmlDeviceValidateInforom(gpu)


def test_nvlink_errors_are_counted_by_link(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("nvlink_replay", 2, gpu=3)
    gpus.set("nvlink_replay.17", 5, gpu=3)
    gpus.set("nvlink_recovery.4", 1, gpu=3)
    assert _fields(nvml, gpu, (161, 0), (161, 1), (161, 17), (161, 0xFFFFFFFF), (161, 18), 52) == [2, 0, 5, 7, "error 2", 7]
    assert _fields(nvml, gpu, (162, 4), 59, (163, 4), 45) == [1, 1, 0, 0]
    assert nvml.nvmlDeviceGetNvLinkErrorCounter(gpu, 17, nvml.NVML_NVLINK_ERROR_DL_REPLAY) == 5
    assert nvml.nvmlDeviceGetNvLinkErrorCounter(gpu, 4, nvml.NVML_NVLINK_ERROR_DL_RECOVERY) == 1


def test_the_newer_link_counters_exist_where_the_state_has_them(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    assert _fields(nvml, gpu, 213, 214, 215) == ["error 3"] * 3
    gpus.set("nvlink_recovery_failed", 0)
    gpus.set("nvlink_recovery_failed.2", 6, gpu=3)
    assert _fields(nvml, gpu, (214, 2), (214, 3)) == [6, 0]


def test_links_that_are_down(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("nvlink_down", "3,17", gpu=3)
    states = [nvml.nvmlDeviceGetNvLinkState(gpu, link) for link in range(18)]
    assert [link for link, active in enumerate(states) if not active] == [3, 17]
    assert _fields(nvml, gpu, (165, 2), (165, 3)) == [1, 0]
    with pytest.raises(nvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetNvLinkState(gpu, 18)


def test_a_sick_fabric(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("fabric_state", 2, gpu=3)
    gpus.set("fabric_summary", 2, gpu=3)
    gpus.set("fabric_health_mask", 0x1, gpu=3)
    new, old = nvml.c_nvmlGpuFabricInfo_v3_t(), nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(gpu, byref(new))
    nvml.nvmlDeviceGetGpuFabricInfo(gpu, byref(old))
    assert (new.state, new.healthSummary, new.healthMask, new.version) == (2, 2, 1, nvml.nvmlGpuFabricInfo_v3)
    assert bytes(new.clusterUuid) == bytes(old.clusterUuid) == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert (old.state, old.status) == (2, 0)


def test_sram_errors_past_their_threshold(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("sram_threshold_exceeded", 1, gpu=3)
    gpus.set("sram_volatile_parity", 9, gpu=3)
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    nvml.nvmlDeviceGetSramEccErrorStatus(gpu, byref(status))
    assert (status.bThresholdExceeded, status.volatileUncParity, status.aggregateUncBucketOther) == (1, 9, 0)


def test_processes_and_their_memory(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.processes(3, {4242: 3 << 30, 4243: 1 << 30})
    found = nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert [(process.pid, process.usedGpuMemory, process.gpuInstanceId) for process in found] == [
        (4242, 3 << 30, 0xFFFFFFFF),
        (4243, 1 << 30, 0xFFFFFFFF),
    ]
    assert nvml.nvmlDeviceGetMemoryInfo(gpu, nvml.nvmlMemory_v2).used == 4 << 30
    assert nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(0)) == []
    gpus.set("graphics_processes", "7:?", gpu=3)
    assert [(process.pid, process.usedGpuMemory) for process in nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(gpu)] == [(7, None)]
    gpus.set("mps_processes", "8:1", gpu=3)
    assert [process.pid for process in nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(gpu)] == [8]
    gpus.processes(3, {})
    assert nvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []


def test_a_field_that_is_newer_than_the_driver(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("fields_known", 230)
    assert _fields(nvml, gpu, 94, 230) == [0, "error 2"]


def test_a_field_has_its_own_error_while_the_call_succeeds(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    gpus.set("memory_temperature", None, gpu=3)
    assert _fields(nvml, gpu, 230, 82, 94) == [0, "error 3", 0]


def test_calls_are_counted(nvml: ModuleType, gpus: FakeGpus, gpu: Any) -> None:
    calls = gpus.state_file.with_name("calls")
    before = calls_made(calls)
    for _ in range(3):
        nvml.nvmlDeviceGetPowerUsage(gpu)
    nvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert calls_made(calls) - before == {"nvmlDeviceGetPowerUsage": 3, "nvmlDeviceGetComputeRunningProcesses_v3": 1}
