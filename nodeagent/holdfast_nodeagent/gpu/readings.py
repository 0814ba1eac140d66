"""The GPU's readings, each from its NVML call: the catalogue's names, in its units.

A function returns one value, or a tuple for several readings that one call gives. What it raises counts for all of its readings:
NVMLError (nvml.UNSUPPORTED: those that say that it is not told here), or UnsupportedError. In a tuple, an error may stand for a value.
Left out on purpose: nvmlDeviceGetPcieThroughput, which blocks for 20 ms in each direction.
"""

from collections.abc import Callable

import pynvml

from holdfast_nodeagent.gpu import nvlink
from holdfast_nodeagent.gpu.nvml import Device, UnsupportedError, Value, field

Read = Callable[[Device], Value | tuple[Value | Exception, ...]]

CLOCK_BITS = {"idle": 0x1, "sw_power_cap": 0x4, "hw_slowdown": 0x8, "sw_thermal": 0x20, "hw_thermal": 0x40, "hw_power_brake": 0x80}
"""The catalogue's CLOCK_REASONS, not imported for the memory that it takes; a test compares them."""
LOADED = 0.5
"""Utilization from which the PCIe link should run at its full generation: an idle GPU lowers it to save power."""
MAX_PROCESSES = 512
"""Of one GPU, that are told."""
_AMPERE = pynvml.NVML_DEVICE_ARCH_AMPERE
_UNKNOWN_ARCHITECTURE = pynvml.NVML_DEVICE_ARCH_UNKNOWN
_FABRIC_DONE = pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
_FABRIC_TROUBLE_BITS = (0, 2, 4, 6)
"""Where in the health mask stand two bits (1: true, 2: false, 0: not told) for degraded bandwidth, route recovery, route unhealthy and
access timeout."""
_FABRIC_CONFIGURATION = (8, 0xF)
"""Shift and mask; 0: not told, 1: none is incorrect."""


def temperature(device: Device) -> Value:
    """The pulse as well: every GPU tells it, and it is asked of the GPU, not of the library."""
    try:
        return int(pynvml.nvmlDeviceGetTemperatureV(device.handle, pynvml.NVML_TEMPERATURE_GPU))
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_ArgumentVersionMismatch):
        return int(pynvml.nvmlDeviceGetTemperature(device.handle, pynvml.NVML_TEMPERATURE_GPU))


def _ecc(kind: int, counter: int) -> Read:
    def read(device: Device) -> Value:
        return int(pynvml.nvmlDeviceGetTotalEccErrors(device.handle, kind, counter))

    return read


def _sram(device: Device) -> Value:
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(device.handle, pynvml.byref(status))
    return int(status.bThresholdExceeded != 0)


def _remap_state(device: Device) -> tuple[Value, ...]:
    _, _, pending, failed = pynvml.nvmlDeviceGetRemappedRows(device.handle)
    return int(pending != 0), int(failed != 0)


def _remap_counts(device: Device) -> tuple[Value, ...]:
    correctable, uncorrectable, _, _ = pynvml.nvmlDeviceGetRemappedRows(device.handle)
    return uncorrectable, correctable


def _retired(device: Device) -> tuple[Value, ...]:
    """Since Ampere rows are remapped instead."""
    try:
        architecture = pynvml.nvmlDeviceGetArchitecture(device.handle)
    except pynvml.NVMLError_FunctionNotFound:
        architecture = _UNKNOWN_ARCHITECTURE
    if architecture >= _AMPERE and architecture != _UNKNOWN_ARCHITECTURE:
        raise UnsupportedError("rows are remapped instead")
    causes = (pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS, pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
    pages = sum(len(pynvml.nvmlDeviceGetRetiredPages(device.handle, cause)) for cause in causes)
    return pages, int(pynvml.nvmlDeviceGetRetiredPagesPendingStatus(device.handle) != 0)


def _clocks(device: Device) -> tuple[Value, ...]:
    try:
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(device.handle)
    except pynvml.NVMLError_FunctionNotFound:  # its name before driver 535
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device.handle)
    return tuple(int(reasons & bit != 0) for bit in CLOCK_BITS.values())


def _margin(device: Device) -> Value:
    return int(pynvml.nvmlDeviceGetMarginTemperature(device.handle))


def utilization(device: Device) -> Value:
    """Return the share of the last sample period in which a kernel ran. A GPU that is split by MIG does not tell."""
    return int(pynvml.nvmlDeviceGetUtilizationRates(device.handle).gpu) / 100


def _memory(device: Device) -> tuple[Value, ...]:
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(device.handle, pynvml.nvmlMemory_v2)  # the first counts what the driver keeps as used
    except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_ArgumentVersionMismatch):
        memory = pynvml.nvmlDeviceGetMemoryInfo(device.handle)
    return memory.used, memory.total


def _fabric(device: Device) -> Value:
    """NVLink's fabric of a node with NVSwitches: not told where there is none."""
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    try:
        pynvml.nvmlDeviceGetGpuFabricInfoV(device.handle, pynvml.byref(info))
    except pynvml.NVMLError_ArgumentVersionMismatch:
        info = pynvml.c_nvmlGpuFabricInfo_v2_t()
        pynvml.nvmlDeviceGetGpuFabricInfoV(device.handle, pynvml.byref(info))
    if info.state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
        raise UnsupportedError("no fabric")
    mask, (shift, width) = info.healthMask, _FABRIC_CONFIGURATION
    summary = getattr(info, "healthSummary", pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED)
    sick = (
        info.state != _FABRIC_DONE
        or info.status != pynvml.NVML_SUCCESS
        or any(mask >> bit & 0x3 == 1 for bit in _FABRIC_TROUBLE_BITS)
        or mask >> shift & width > 1
        or summary in {pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY, pynvml.NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY}
    )
    return int(sick)


def _pcie_replays(device: Device) -> Value:
    try:
        return field(device, pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return int(pynvml.nvmlDeviceGetPcieReplayCounter(device.handle))


def _pcie_width(device: Device) -> tuple[Value, ...]:
    width, most = pynvml.nvmlDeviceGetCurrPcieLinkWidth(device.handle), pynvml.nvmlDeviceGetMaxPcieLinkWidth(device.handle)
    return width, most, max(0, most - width)


def _pcie_gen(device: Device) -> tuple[Value | Exception, ...]:
    gen, most = pynvml.nvmlDeviceGetCurrPcieLinkGeneration(device.handle), pynvml.nvmlDeviceGetMaxPcieLinkGeneration(device.handle)
    lost: Value | Exception = max(0, most - gen)
    try:
        if lost and utilization(device) < LOADED:
            lost = UnsupportedError("idle")
    except pynvml.NVMLError as error:
        lost = error
    return gen, most, lost


def _inforom(device: Device) -> Value:
    try:
        pynvml.nvmlDeviceValidateInforom(device.handle)
    except pynvml.NVMLError_CorruptedInforom:
        return 1
    return 0


def _persistence(device: Device) -> Value:
    return int(pynvml.nvmlDeviceGetPersistenceMode(device.handle) == pynvml.NVML_FEATURE_DISABLED)


def processes(device: Device) -> dict[int, int]:
    """Return pid → bytes of the processes that compute on the GPU, those of its MIG instances too. Raises NVMLError.

    Asked of a GPU that is split, NVML tells those of all instances, where the caller is root.
    """
    found: dict[int, int] = {}
    running = pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3
    for number, call in enumerate(running):
        try:
            listed = call(device.handle)
        except pynvml.NVMLError_FunctionNotFound:
            listed = pynvml.nvmlDeviceGetComputeRunningProcesses_v2(device.handle) if number == 0 else []
        except pynvml.NVMLError_NotSupported:
            listed = []
        for process in listed[:MAX_PROCESSES]:
            found[process.pid] = found.get(process.pid, 0) + (process.usedGpuMemory or 0)
    return found


_UNCORRECTED, _CORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
_VOLATILE, _AGGREGATE = pynvml.NVML_VOLATILE_ECC, pynvml.NVML_AGGREGATE_ECC

FAST: dict[tuple[str, ...], Read] = {
    ("recovery_action",): lambda device: field(device, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
    ("ecc_uncorrectable_volatile",): _ecc(_UNCORRECTED, _VOLATILE),
    ("row_remap_pending", "row_remap_failed"): _remap_state,
    tuple(f"clock_{reason}" for reason in CLOCK_BITS): _clocks,
}
MEDIUM: dict[tuple[str, ...], Read] = {
    ("ecc_uncorrectable_aggregate",): _ecc(_UNCORRECTED, _AGGREGATE),
    ("ecc_corrected_volatile",): _ecc(_CORRECTED, _VOLATILE),
    ("ecc_corrected_aggregate",): _ecc(_CORRECTED, _AGGREGATE),
    ("sram_threshold_exceeded",): _sram,
    ("row_remap_uncorrectable", "row_remap_correctable"): _remap_counts,
    ("retired_pages", "retired_pages_pending"): _retired,
    ("temperature_celsius",): temperature,
    ("memory_temperature_celsius",): lambda device: field(device, pynvml.NVML_FI_DEV_MEMORY_TEMP),
    ("thermal_margin_celsius",): _margin,
    ("power_watts",): lambda device: pynvml.nvmlDeviceGetPowerUsage(device.handle) / 1000,
    ("energy_joules",): lambda device: pynvml.nvmlDeviceGetTotalEnergyConsumption(device.handle) / 1000,
    ("utilization_ratio",): utilization,
    ("memory_used_bytes", "memory_total_bytes"): _memory,
    ("nvlink_crc_errors", "nvlink_replay_errors", "nvlink_recovery_errors"): nvlink.errors,
    ("nvlinks_active",): nvlink.active,
    ("fabric_unhealthy",): _fabric,
}
SLOW: dict[tuple[str, ...], Read] = {
    ("pcie_replays",): _pcie_replays,
    ("pcie_width", "pcie_width_max", "pcie_width_lost"): _pcie_width,
    ("pcie_gen", "pcie_gen_max", "pcie_gen_lost"): _pcie_gen,
    ("inforom_invalid",): _inforom,
    ("persistence_off",): _persistence,
}
TIERS = {"fast": FAST, "medium": MEDIUM, "slow": SLOW}
"""Tier → (readings' names → function). `up` and `nvlinks_down` are made by the round itself: they need more than the one GPU's call."""
