"""Every reading that rules may judge: its name, unit, how often it is taken, and what it means."""

from dataclasses import dataclass
from typing import Literal

Tier = Literal["fast", "medium", "slow"]

TIER_S: dict[Tier, float] = {"fast": 5.0, "medium": 15.0, "slow": 60.0}
"""How often the readings of a tier are taken. A driver's call takes microseconds to milliseconds, and some hold a lock that applications
need (running processes: 4.5 ms; NVML's own docs and MangoHud's measurements): the dear ones are rare."""

CLOCK_REASONS: dict[str, int] = {
    "idle": 0x1,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}
"""Names and bits of nvmlClocksEventReason…: idle and sw_power_cap are normal."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that is read."""

    name: str
    scope: Literal["gpu", "node"]
    tier: Tier
    unit: str
    """`1` for counts and flags (0 or 1)."""
    text: str


def _gpu(name: str, tier: Tier, text: str, unit: str = "1") -> Reading:
    return Reading(name, "gpu", tier, unit, text)


def _node(name: str, tier: Tier, text: str, unit: str = "1") -> Reading:
    return Reading(name, "node", tier, unit, text)


_READINGS = (
    _gpu("up", "fast", "1: the GPU answers; 0: lost, needs a reset, or gives errors that say so"),
    _gpu(
        "recovery_action", "fast", "the driver's own verdict: 0 none, 1 GPU reset, 2 reboot, 3 drain P2P, 4 drain and reset, … (field 230)"
    ),
    _gpu("ecc_uncorrectable_volatile", "fast", "uncorrectable ECC errors since the driver was loaded"),
    _gpu("ecc_uncorrectable_aggregate", "medium", "uncorrectable ECC errors in the GPU's life"),
    _gpu("ecc_corrected_volatile", "medium", "corrected ECC errors since the driver was loaded"),
    _gpu("ecc_corrected_aggregate", "medium", "corrected ECC errors in the GPU's life"),
    _gpu("sram_threshold_exceeded", "medium", "1: the driver says that SRAM errors have passed its threshold"),
    _gpu("row_remap_pending", "fast", "1: a row is remapped at the next reset"),
    _gpu("row_remap_failed", "fast", "1: no spare row is left"),
    _gpu("row_remap_uncorrectable", "medium", "rows remapped for uncorrectable errors"),
    _gpu("row_remap_correctable", "medium", "rows remapped for correctable errors"),
    _gpu("retired_pages", "medium", "retired pages (before Ampere)"),
    _gpu("retired_pages_pending", "medium", "1: pages are retired at the next reset"),
    *(
        _gpu(f"clock_{reason}", "fast", f"1: the clocks are held down for this reason ({mask:#x})")
        for reason, mask in CLOCK_REASONS.items()
    ),
    _gpu("temperature_celsius", "medium", "temperature of the GPU", "celsius"),
    _gpu("memory_temperature_celsius", "medium", "temperature of the memory (field 82)", "celsius"),
    _gpu("thermal_margin_celsius", "medium", "how far below the slow-down temperature it is", "celsius"),
    _gpu("power_watts", "medium", "power drawn", "watts"),
    _gpu("energy_joules", "medium", "energy drawn since the driver was loaded", "joules"),
    _gpu("utilization_ratio", "medium", "share of the time in which a kernel ran", "ratio"),
    _gpu("memory_used_bytes", "medium", "memory in use", "bytes"),
    _gpu("memory_total_bytes", "medium", "memory", "bytes"),
    _gpu("pcie_replays", "slow", "PCIe replays since the driver was loaded"),
    _gpu("pcie_width", "slow", "PCIe lanes in use"),
    _gpu("pcie_width_max", "slow", "PCIe lanes that GPU and slot can do"),
    _gpu("pcie_gen", "slow", "PCIe generation in use (an idle GPU lowers it)"),
    _gpu("pcie_gen_max", "slow", "PCIe generation that GPU and slot can do"),
    _gpu("pcie_width_lost", "slow", "lanes that are missing"),
    _gpu("pcie_gen_lost", "slow", "generations that are missing under load; not read on an idle GPU"),
    _gpu("nvlink_crc_errors", "medium", "NVLink CRC errors, all links"),
    _gpu("nvlink_replay_errors", "medium", "NVLink replays, all links"),
    _gpu("nvlink_recovery_errors", "medium", "NVLink recoveries, all links"),
    _gpu("nvlinks_active", "medium", "NVLinks that are up"),
    _gpu("nvlinks_down", "medium", "NVLinks that were up and are down"),
    _gpu("fabric_unhealthy", "medium", "1: registered with a fabric, and not complete or not healthy"),
    _gpu("inforom_invalid", "slow", "1: the InfoROM is corrupt"),
    _gpu("persistence_off", "slow", "1: persistence mode is off"),
    _gpu("leftover_processes", "slow", "processes on the GPU that belong to no job of this node"),
    _gpu("leftover_memory_bytes", "slow", "memory in use on a GPU that no job's process uses", "bytes"),
    _node("gpus_visible", "fast", "GPUs that NVML lists"),
    _node("gpus_missing", "fast", "GPUs that the node should have and NVML does not list or reach"),
    _node("gpu_model_mismatch", "fast", "1: a GPU is of another model than the node group's"),
    _node("nvml_missed_heartbeats", "fast", "heartbeats that the NVML process has missed in a row"),
    _node("nvml_unavailable", "fast", "1: the node should have GPUs, and NVML cannot be loaded or begun"),
    _node("disk_free_ratio", "slow", "free share of the fullest watched file system (`detail` names it)", "ratio"),
    _node("disk_free_bytes", "slow", "free bytes of the watched file system that has fewest", "bytes"),
    _node("read_only_filesystems", "slow", "watched file systems that the kernel has made read-only"),
    _node("memory_available_ratio", "medium", "share of the memory that is available", "ratio"),
    _node("memory_pressure_ratio", "medium", "share of the last minute in which all tasks waited for memory (PSI full)", "ratio"),
    _node("clock_skew_seconds", "slow", "how far the clock is from the controller's", "seconds"),
    _node("checkpoint_store_missing", "slow", "mounts of the checkpoint store that are missing or do not answer"),
)

READINGS: dict[str, Reading] = {reading.name: reading for reading in _READINGS}
"""By name."""
