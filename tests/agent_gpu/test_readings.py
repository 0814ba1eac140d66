"""Each reading on each machine: read, or said to be unsupported; every fault shows in its own reading."""

from collections.abc import Collection
from typing import Any

import pytest
from holdfast_common.health.catalogue import CLOCK_REASONS, READINGS
from holdfast_nodeagent.gpu import readings
from holdfast_sandbox.nvml.gpus import FakeGpus

# From conftest.py, which importlib mode does not let tests import.
Read = Any

BY_THE_AGENT = {"leftover_processes", "leftover_memory_bytes"}
OF_GPUS = {name for name, reading in READINGS.items() if reading.scope == "gpu"} - BY_THE_AGENT
ECC = {"ecc_uncorrectable_volatile", "ecc_uncorrectable_aggregate", "ecc_corrected_volatile", "ecc_corrected_aggregate"}
REMAP = {"row_remap_pending", "row_remap_failed", "row_remap_uncorrectable", "row_remap_correctable"}
RETIRED = {"retired_pages", "retired_pages_pending"}
NVLINK = {"nvlink_crc_errors", "nvlink_replay_errors", "nvlink_recovery_errors", "nvlinks_active", "nvlinks_down"}
SINCE_HOPPER = {"thermal_margin_celsius", "sram_threshold_exceeded", "fabric_unhealthy"}


def states(told: dict[tuple[str, str], tuple[object, ...]], gpu: str) -> dict[str, object]:
    return {name: state for (name, uuid), (_, state, _) in told.items() if uuid == gpu}


def test_the_names_and_tiers_are_the_catalogues(read: Read) -> None:
    read.begin("h100x8")
    assert CLOCK_REASONS == readings.CLOCK_BITS
    for tier in ("fast", "medium", "slow"):
        names = {name for name, _ in read(tier)}
        wanted = {name for name in OF_GPUS if READINGS[name].tier == tier} | ({"gpus_visible"} if tier == "fast" else set())
        assert names == wanted


@pytest.mark.parametrize(
    ("profile", "unsupported"),
    [
        ("h100x8", RETIRED),
        ("h100x1", RETIRED | {"fabric_unhealthy"}),
        ("a100x8", RETIRED | SINCE_HOPPER),
        ("a100-migx1", RETIRED | SINCE_HOPPER | {"utilization_ratio"}),
        ("t4x1", REMAP | NVLINK | SINCE_HOPPER | {"memory_temperature_celsius", "pcie_gen_lost"}),
    ],
)
def test_every_reading_of_every_machine_reads_or_is_unsupported(read: Read, gpus: FakeGpus, profile: str, unsupported: set[str]) -> None:
    found = read.begin(profile)
    told = read()
    for index in range(gpus.count):
        uuid = gpus.uuid(index)
        assert states(told, uuid) == {name: "unsupported" if name in unsupported else "ok" for name in OF_GPUS}
        assert told["up", uuid] == (1, "ok", "")
    assert told["gpus_visible", ""] == (gpus.count, "ok", "")
    assert len(found.devices) == gpus.count


def test_a_machine_without_gpus_has_none_to_see(read: Read) -> None:
    read.begin("none")
    assert read() == {("gpus_visible", ""): (0, "ok", "")}


@pytest.mark.parametrize(
    ("key", "value", "reading", "expected"),
    [
        ("recovery_action", 4, "recovery_action", 4),
        ("ecc_uncorrected_volatile", 1, "ecc_uncorrectable_volatile", 1),
        ("ecc_uncorrected_aggregate", 2, "ecc_uncorrectable_aggregate", 2),
        ("ecc_corrected_volatile", 2**40, "ecc_corrected_volatile", 2**40),
        ("ecc_corrected_aggregate", 5, "ecc_corrected_aggregate", 5),
        ("sram_threshold_exceeded", 1, "sram_threshold_exceeded", 1),
        ("remap_pending", 1, "row_remap_pending", 1),
        ("remap_failed", 1, "row_remap_failed", 1),
        ("remap_uncorrected", 513, "row_remap_uncorrectable", 513),
        ("remap_corrected", 3, "row_remap_correctable", 3),
        ("clock_reasons", 0x40 | 0x1, "clock_hw_thermal", 1),
        ("clock_reasons", 0x40, "clock_hw_slowdown", 0),
        ("clock_reasons", 0x8, "clock_hw_slowdown", 1),
        ("clock_reasons", 0x20, "clock_sw_thermal", 1),
        ("clock_reasons", 0x80, "clock_hw_power_brake", 1),
        ("clock_reasons", 0x4, "clock_sw_power_cap", 1),
        ("temperature", 91, "temperature_celsius", 91),
        ("memory_temperature", 96, "memory_temperature_celsius", 96),
        ("margin", -2, "thermal_margin_celsius", -2),
        ("power_milliwatts", 699_500, "power_watts", 699.5),
        ("energy_millijoules", 2**41 * 1000, "energy_joules", 2**41),
        ("utilization", 97, "utilization_ratio", 0.97),
        ("memory_used", 79 << 30, "memory_used_bytes", 79 << 30),
        ("pcie_replays", 31, "pcie_replays", 31),
        ("pcie_width", 8, "pcie_width_lost", 8),
        ("pcie_width", 8, "pcie_width", 8),
        ("pcie_width_max", 8, "pcie_width_max", 8),
        ("pcie_gen", 1, "pcie_gen", 1),
        ("pcie_gen_max", 4, "pcie_gen_max", 4),
        ("nvlink_crc.5", 7, "nvlink_crc_errors", 7),
        ("nvlink_replay.17", 8, "nvlink_replay_errors", 8),
        ("nvlink_recovery.0", 9, "nvlink_recovery_errors", 9),
        ("nvlink_down", "3,5", "nvlinks_active", 16),
        ("fabric_state", 2, "fabric_unhealthy", 1),
        ("fabric_status", 999, "fabric_unhealthy", 1),
        ("fabric_health_mask", 0x1, "fabric_unhealthy", 1),
        ("fabric_health_mask", 0x2AA | 0x100, "fabric_unhealthy", 1),
        ("fabric_health_mask", 0x1AA, "fabric_unhealthy", 0),
        ("fabric_summary", 3, "fabric_unhealthy", 1),
        ("inforom_corrupt", 1, "inforom_invalid", 1),
        ("persistence", 0, "persistence_off", 1),
    ],
)
def test_a_fault_shows_in_its_reading_of_its_gpu_alone(
    read: Read, gpus: FakeGpus, key: str, value: int | str, reading: str, expected: float
) -> None:
    read.begin("h100x8")
    healthy = read()
    gpus.set(key, value, gpu=2)
    told = read()
    assert told[reading, gpus.uuid(2)][:2] == (expected, "ok")
    others = {known: value for known, value in told.items() if known[1] != gpus.uuid(2)}
    assert others == {known: healthy[known] for known in others}


def test_retired_pages_before_ampere(read: Read, gpus: FakeGpus) -> None:
    read.begin("t4x1")
    gpus.set("retired_single_bit", 4)
    gpus.set("retired_double_bit", 2)
    gpus.set("retired_pending", 1)
    told = read("medium")
    assert told["retired_pages", gpus.uuid(0)][0] == 6
    assert told["retired_pages_pending", gpus.uuid(0)][0] == 1


@pytest.mark.parametrize(
    ("utilization", "said"), [(50, (2, "ok", "")), (49, (None, "unsupported", "idle")), (None, (None, "unsupported", "NOT_SUPPORTED"))]
)
def test_a_lower_pcie_generation_counts_under_load_alone(
    read: Read, gpus: FakeGpus, utilization: int | None, said: tuple[object, ...]
) -> None:
    read.begin("h100x8")
    gpus.set("pcie_gen", 3, gpu=0)
    gpus.set("utilization", utilization, gpu=0)
    assert read("slow")["pcie_gen_lost", gpus.uuid(0)] == said


@pytest.mark.parametrize(
    ("error", "state", "name"),
    [
        (3, "unsupported", "NOT_SUPPORTED"),
        (4, "unsupported", "NO_PERMISSION"),
        (13, "unsupported", "FUNCTION_NOT_FOUND"),
        (25, "unsupported", "ARGUMENT_VERSION_MISMATCH"),
        (27, "failed", "NOT_READY"),
        (999, "failed", "UNKNOWN"),
        (12345, "failed", "error 12345"),
    ],
)
def test_an_error_is_unsupported_or_failed(read: Read, gpus: FakeGpus, error: int, state: str, name: str) -> None:
    read.begin("h100x8")
    gpus.set("fail.nvmlDeviceGetPowerUsage", error, gpu=1)
    told = read()
    assert told["power_watts", gpus.uuid(1)] == (None, state, name)
    assert told["up", gpus.uuid(1)] == (1, "ok", "")
    assert told["power_watts", gpus.uuid(0)] == (71.0, "ok", "")


@pytest.mark.parametrize(("error", "state", "name"), [("!3", "unsupported", "NOT_SUPPORTED"), ("!999", "failed", "UNKNOWN")])
def test_a_fields_own_error_counts_though_the_call_succeeds(read: Read, gpus: FakeGpus, error: str, state: str, name: str) -> None:
    read.begin("h100x8")
    gpus.set("recovery_action", error, gpu=1)
    assert read("fast")["recovery_action", gpus.uuid(1)] == (None, state, name)


def test_a_field_that_the_driver_does_not_know_is_unsupported(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    gpus.set("fields_known", 200)
    assert read("fast")["recovery_action", gpus.uuid(0)] == (None, "unsupported", "NOT_SUPPORTED")


@pytest.mark.parametrize(("error", "name"), [(15, "GPU_IS_LOST"), (16, "RESET_REQUIRED"), (11, "IRQ_ISSUE"), (999, "UNKNOWN")])
def test_a_lost_gpu_is_down_and_everything_of_it_failed(read: Read, gpus: FakeGpus, error: int, name: str) -> None:
    read.begin("h100x8")
    gpus.set("error", error, gpu=3)
    lost = gpus.uuid(3)
    if error in (11, 999):  # once is no more than odd
        assert read("fast")["up", lost] == (None, "failed", name)
    told = read()
    assert told["up", lost] == (0, "ok", name)
    assert {(state, detail) for (reading, uuid), (_, state, detail) in told.items() if uuid == lost and reading != "up"} == {
        ("failed", name)
    }
    assert told["gpus_visible", ""] == (7, "ok", "NVML lists 8")
    assert told["up", gpus.uuid(4)] == (1, "ok", "")
    gpus.clear()
    told = read()
    assert told["up", lost] == (1, "ok", "")
    assert told["gpus_visible", ""] == (8, "ok", "")


def test_one_odd_pulse_says_nothing_against_a_gpu(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    for _ in range(3):
        gpus.set("error", 999, gpu=3)
        assert read("fast")["up", gpus.uuid(3)] == (None, "failed", "UNKNOWN")
        gpus.clear()
        assert read("fast")["up", gpus.uuid(3)] == (1, "ok", "")


def test_a_reading_that_finds_the_gpu_lost_says_so_of_the_gpu(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    gpus.set("fail.nvmlDeviceGetTotalEccErrors", 15, gpu=3)
    told = read("fast")
    assert told["up", gpus.uuid(3)] == (0, "ok", "GPU_IS_LOST")
    assert told["clock_idle", gpus.uuid(3)] == (None, "failed", "GPU_IS_LOST")


def test_a_gpu_that_nvml_no_longer_lists_is_down(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    lost = gpus.uuid(3)
    gpus.lose(3, listed=False)
    told = read("fast")
    assert told["up", lost] == (0, "ok", "GPU_IS_LOST")
    assert told["gpus_visible", ""] == (7, "ok", "")


def test_a_gpu_that_is_lost_from_the_start_is_found_when_it_is_back(read: Read, gpus: FakeGpus) -> None:
    gpus.lose(0)
    found = read.begin("h100x8")
    assert len(found.devices) == 8  # `install` has healed it
    gpus.lose(0)
    anew = type(found)()
    assert [device.index for device in anew.devices] == [1, 2, 3, 4, 5, 6, 7]
    assert ["gpus_visible", "", 7, "ok", "NVML lists 8"] in anew.round("fast")["samples"]
    assert not anew.find_more()
    gpus.set("fail.nvmlDeviceGetCount_v2", 999)
    assert not anew.find_more()
    gpus.clear()
    assert anew.find_more()
    assert not anew.find_more()
    assert [device.index for device in anew.devices] == list(range(8))


NEW_SYMBOLS = {
    "nvmlDeviceGetTemperatureV": set(),
    "nvmlDeviceGetMarginTemperature": {"thermal_margin_celsius"},
    "nvmlDeviceGetSramEccErrorStatus": {"sram_threshold_exceeded"},
    "nvmlDeviceGetGpuFabricInfoV": {"fabric_unhealthy"},
    "nvmlDeviceGetMemoryInfo_v2": set(),
    "nvmlDeviceGetCurrentClocksEventReasons": set(),
    "nvmlDeviceGetRemappedRows": REMAP,
    "nvmlDeviceGetTotalEnergyConsumption": {"energy_joules"},
    "nvmlDeviceGetFieldValues": {"recovery_action", "memory_temperature_celsius", "nvlink_crc_errors", "nvlink_replay_errors"}
    | {"nvlink_recovery_errors"},
}
"""What an older driver lacks → the readings that go with it; none where there was a call before it."""


@pytest.mark.parametrize("without", [{name} for name in NEW_SYMBOLS] + [set(NEW_SYMBOLS)], ids=lambda names: "+".join(sorted(names))[:40])
def test_symbols_that_an_old_driver_lacks(read: Read, gpus: FakeGpus, without: Collection[str]) -> None:
    read.begin("h100x8", without)
    missing = RETIRED.union(*(NEW_SYMBOLS[name] for name in without))
    assert states(read(), gpus.uuid(0)) == {name: "unsupported" if name in missing else "ok" for name in OF_GPUS}


@pytest.mark.parametrize(
    ("function", "version", "unsupported"),
    [
        ("nvmlDeviceGetGpuFabricInfoV", 2, set()),
        ("nvmlDeviceGetGpuFabricInfoV", 1, {"fabric_unhealthy"}),
        ("nvmlDeviceGetSramEccErrorStatus", 0, {"sram_threshold_exceeded"}),
        ("nvmlDeviceGetMarginTemperature", 0, {"thermal_margin_celsius"}),
        ("nvmlDeviceGetMemoryInfo_v2", 1, set()),
        ("nvmlDeviceGetTemperatureV", 0, set()),
    ],
)
def test_structures_that_an_old_driver_does_not_know(
    read: Read, gpus: FakeGpus, function: str, version: int, unsupported: set[str]
) -> None:
    read.begin("h100x8")
    gpus.set(f"max_version.{function}", version)
    told = read()
    assert states(told, gpus.uuid(0)) == {name: "unsupported" if name in RETIRED | unsupported else "ok" for name in OF_GPUS}


def test_links_that_were_up_are_missed(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    read("medium")
    gpus.set("nvlink_down", "3,5", gpu=0)
    told = read("medium")
    assert told["nvlinks_down", gpus.uuid(0)] == (2, "ok", "3,5")
    assert told["nvlinks_down", gpus.uuid(1)] == (0, "ok", "")
    gpus.clear()
    assert read("medium")["nvlinks_down", gpus.uuid(0)] == (0, "ok", "")


def test_a_link_that_was_down_from_the_start_is_missed_by_its_siblings(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    gpus.set("nvlink_down", "7", gpu=0)
    assert read("medium")["nvlinks_down", gpus.uuid(0)] == (1, "ok", "7")


def test_a_gpu_without_a_bridge_misses_no_link(read: Read, gpus: FakeGpus) -> None:
    read.begin("a100x8")
    for index in (6, 7):
        gpus.set("nvlink_down", ",".join(map(str, range(12))), gpu=index)
    told = read("medium")
    assert {told["nvlinks_down", gpus.uuid(index)] for index in range(8)} == {(0, "ok", "")}


def test_links_that_no_gpu_of_the_model_has_up_are_not_missed(read: Read, gpus: FakeGpus) -> None:
    read.begin("a100x8")
    gpus.set("nvlink_down", "8,9,10,11")
    told = read("medium")
    assert {told["nvlinks_down", gpus.uuid(index)] for index in range(8)} == {(0, "ok", "")}


def test_nvlinks_errors_from_the_older_totals(read: Read, gpus: FakeGpus) -> None:
    read.begin("a100x8")
    for number in (161, 162, 163):
        gpus.set(f"field.{number}", "!3")
    gpus.set("nvlink_replay.4", 6, gpu=0)
    told = read("medium")
    assert told["nvlink_replay_errors", gpus.uuid(0)] == (6, "ok", "")
    assert told["nvlink_crc_errors", gpus.uuid(0)] == (0, "ok", "")


def test_nvlink_recoveries_from_nvlink_5s_counter(read: Read, gpus: FakeGpus) -> None:
    read.begin("h100x8")
    for number in (161, 162, 163, 52, 59, 45):
        gpus.set(f"field.{number}", "!3")
    gpus.set("field.215", 11, gpu=0)
    told = read("medium")
    assert told["nvlink_recovery_errors", gpus.uuid(0)] == (11, "ok", "")
    assert told["nvlink_crc_errors", gpus.uuid(0)] == (None, "unsupported", "NOT_SUPPORTED")


def test_processes_of_a_gpu_and_of_its_mig_instances(read: Read, gpus: FakeGpus) -> None:
    found = read.begin("a100-migx1")
    gpus.set("processes", "101:1000:1:0,102:2000:2:0,101:500:2:0", gpu=0)
    assert found.processes() == {"kind": "processes", "gpus": {gpus.uuid(0): {101: 1500, 102: 2000}}}


def test_a_gpu_that_does_not_tell_its_processes_is_left_out(read: Read, gpus: FakeGpus) -> None:
    found = read.begin("h100x8")
    gpus.set("fail.nvmlDeviceGetComputeRunningProcesses_v3", 999, gpu=1)
    gpus.lose(2)
    read("fast")
    told = found.processes()["gpus"]
    assert isinstance(told, dict)
    assert told.keys() == {gpus.uuid(index) for index in (0, 3, 4, 5, 6, 7)}
