"""Machines with healthy GPUs: what their NVML tells. A key that a profile lacks is a reading that this GPU does not support.

Models, memory, PCI ids and link counts are the products'; which readings a generation supports: nvml.h, and the facts' section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Profile:
    """A machine."""

    name: str
    count: int
    model: str = ""
    values: Mapping[str, int | str] = field(default_factory=dict)
    """Of every GPU of it."""


_DRIVER: dict[str, int | str] = {"driver": "570.124.06", "nvml": "12.570.124.06", "cuda": 12080}

_ANY: dict[str, int | str] = {
    "memory_used": 0,
    "utilization": 0,
    "memory_utilization": 0,
    "energy_millijoules": 1_000_000,
    "clock_reasons": 0x1,
    "ecc_mode": 1,
    "ecc_corrected_volatile": 0,
    "ecc_corrected_aggregate": 0,
    "ecc_uncorrected_volatile": 0,
    "ecc_uncorrected_aggregate": 0,
    "recovery_action": 0,
    "pcie_replays": 0,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "persistence": 1,
    "inforom_corrupt": 0,
}

_T4 = _ANY | {
    "name": "Tesla T4",
    "architecture": 6,
    "pci_device_id": 0x1EB810DE,
    "pci_subsystem_id": 0x12A210DE,
    "vbios": "90.04.38.00.03",
    "memory_total": 15 * GIB,
    "memory_reserved": 440 << 20,
    "temperature": 36,
    "power_milliwatts": 9_800,
    "pcie_gen": 1,
    "pcie_gen_max": 3,
    "retired_single_bit": 0,
    "retired_double_bit": 0,
    "retired_pending": 0,
    "event_types": 0x1C,
}

_AMPERE_ON = _ANY | {"remap_corrected": 0, "remap_uncorrected": 0, "remap_pending": 0, "remap_failed": 0, "mig_mode": 0, "mig_max": 7}

_A100 = _AMPERE_ON | {
    "name": "NVIDIA A100-SXM4-80GB",
    "architecture": 7,
    "pci_device_id": 0x20B210DE,
    "pci_subsystem_id": 0x146310DE,
    "vbios": "92.00.45.00.03",
    "memory_total": 80 * GIB,
    "memory_reserved": 626 << 20,
    "temperature": 34,
    "memory_temperature": 41,
    "power_milliwatts": 62_000,
    "pcie_gen": 4,
    "pcie_gen_max": 4,
    "nvlinks": 12,
    "nvlink_version": 3,
    "nvlink_replay": 0,
    "nvlink_recovery": 0,
    "nvlink_crc": 0,
    "event_types": 0x19C,
}

_H100 = _AMPERE_ON | {
    "name": "NVIDIA H100 80GB HBM3",
    "architecture": 9,
    "pci_device_id": 0x233010DE,
    "pci_subsystem_id": 0x16C110DE,
    "vbios": "96.00.99.00.01",
    "memory_total": 80 * GIB,
    "memory_reserved": 551 << 20,
    "temperature": 31,
    "margin": 56,
    "memory_temperature": 39,
    "power_milliwatts": 71_000,
    "pcie_gen": 5,
    "pcie_gen_max": 5,
    "nvlinks": 18,
    "nvlink_version": 4,
    "nvlink_replay": 0,
    "nvlink_recovery": 0,
    "nvlink_crc": 0,
    "sram_threshold_exceeded": 0,
    "fabric_state": 3,
    "fabric_status": 0,
    "fabric_summary": 1,
    "fabric_cluster": "00112233445566778899aabbccddeeff",
    "event_types": 0xC19C,
}

_MIG_3G: dict[str, int | str] = {
    "name": "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
    "memory_total": 40 * GIB,
    "memory_reserved": 0,
    "memory_used": 0,
}

_A100_MIG: dict[str, int | str] = {
    key: value for key, value in _A100.items() if not key.startswith(("utilization", "memory_utilization"))
} | {
    "mig_mode": 1,
    **{f"mig{index}.{key}": value for index in range(2) for key, value in _MIG_3G.items()},
    **{f"mig{index}.gpu_instance": index + 1 for index in range(2)},
    **{f"mig{index}.compute_instance": 0 for index in range(2)},
}

_ALONE: dict[str, int | str] = {
    "fabric_state": 0,
    "fabric_summary": 0,
    "fabric_cluster": "0" * 32,
    "nvlink_down": ",".join(str(link) for link in range(18)),
}
"""One H100 of a shared machine: its links were never up, and the fabric's state is "not supported", told with success."""


def _profile(name: str, count: int, values: Mapping[str, int | str]) -> Profile:
    return Profile(name, count, str(values.get("name", "")), {**_DRIVER, **values})


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _profile("h100x8", 8, _H100),
        _profile("a100x8", 8, _A100),
        _profile("a100-migx1", 1, _A100_MIG),
        _profile("t4x1", 1, _T4),
        _profile("h100x1", 1, _H100 | _ALONE),
        _profile("none", 0, {}),
    )
}
"""By name. `none` has a driver and no GPU."""
