"""A simulated machine's GPUs: a fault shows in the kernel's log and in NVML's state alike, and no two machines have the same GPUs."""

from pathlib import Path

import pytest
from holdfast_common.errors import ConfigError
from holdfast_sandbox.cli import app
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.machine_gpus import Fault, MachineGpus, main
from typer.testing import CliRunner


def machine(directory: Path, name: str = "i-1", profile: str = "h100x8") -> MachineGpus:
    directory.mkdir(exist_ok=True)
    main([profile, str(directory), name, str(directory.parent / "spoilt")])
    return MachineGpus.of(directory)


def state(gpus: MachineGpus) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in gpus.nvml.state_file.read_text().splitlines() if not line.startswith("#"))


def records(gpus: MachineGpus) -> list[str]:
    return [line.partition(";")[2] for line in gpus.kernel_log.read_text().splitlines()] if gpus.kernel_log.exists() else []


def test_machines_have_gpus_of_their_own_and_keep_them(tmp_path: Path) -> None:
    one, other = machine(tmp_path / "a", "i-1"), machine(tmp_path / "b", "i-2")
    assert one.nvml.count == other.nvml.count == 8
    assert {one.nvml.uuid(gpu) for gpu in range(8)}.isdisjoint({other.nvml.uuid(gpu) for gpu in range(8)})
    one.throttle(3)
    before = state(one)
    assert state(machine(tmp_path / "a", "i-1")) == before, "made anew, as at a reboot"


def test_an_xid_is_in_the_kernels_log_and_in_nvml(tmp_path: Path) -> None:
    gpus = machine(tmp_path / "a")
    gpus.xid(79, 2, pid=4711, process="python3")
    assert records(gpus) == ["NVRM: Xid (PCI:0000:3a:00): 79, pid=4711, name=python3, GPU has fallen off the bus."]
    assert state(gpus)["gpu2.error"] == "15"
    assert [value for key, value in state(gpus).items() if key.startswith("event.")] == ["2 0x8 79"]


@pytest.mark.parametrize(("kernel", "event"), [(True, False), (False, True)])
def test_an_xid_by_one_way_only(tmp_path: Path, kernel: bool, event: bool) -> None:
    gpus = machine(tmp_path / "a")
    gpus.xid(48, kernel=kernel, event=event)
    assert bool(records(gpus)) is kernel
    assert any(key.startswith("event.") for key in state(gpus)) is event
    assert state(gpus)["gpu0.ecc_uncorrected_volatile"] == "1"


@pytest.mark.parametrize(
    ("fault", "key", "value", "lines"),
    [
        ("lose", "gpu1.error", "15", 1),
        ("hang", "hang", "1", 0),
        ("ecc", "gpu1.ecc_uncorrected_volatile", "1", 1),
        ("remap", "gpu1.remap_pending", "1", 1),
        ("throttle", "gpu1.clock_reasons", "72", 0),
    ],
)
def test_each_fault_and_its_end(tmp_path: Path, fault: Fault, key: str, value: str, lines: int) -> None:
    gpus = machine(tmp_path / "a")
    healthy = state(gpus)
    gpus.inject(fault, 1)
    assert state(gpus)[key] == value
    assert len(records(gpus)) == lines
    gpus.inject("clear")
    assert {name: said for name, said in state(gpus).items() if name != "event_newest"} == {
        name: said for name, said in healthy.items() if name != "event_newest"
    }
    assert len(records(gpus)) == lines


def test_one_machine_is_spoilt_and_the_next_is_not(tmp_path: Path) -> None:
    (tmp_path / "spoilt").touch()
    assert state(machine(tmp_path / "a", "i-1"))["gpu7.gone"] == "1"
    assert "gpu7.gone" not in state(machine(tmp_path / "b", "i-2"))


def test_a_machine_without_gpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="--gpus PROFILE"):
        MachineGpus.of(tmp_path)


def test_profile_and_slurms_count_agree() -> None:
    assert SandboxConfig(gpu_profile="a100x8", gpus_per_node=8).gpus == SandboxConfig(gpu_profile="a100x8").gpus == 8
    assert (SandboxConfig(gpus_per_node=2).gpus, SandboxConfig().gpus, SandboxConfig(gpu_profile="none").gpus) == (2, 0, 0)
    with pytest.raises(ConfigError, match="a100x8 has 8 GPUs"):
        SandboxConfig(gpu_profile="a100x8", gpus_per_node=4)
    with pytest.raises(ConfigError, match="gpu_profile must be one of h100x8"):
        SandboxConfig(gpu_profile="h100")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gpu", "spot-1", "xid"), "needs its number"),
        (("gpu", "spot-1", "lose", "79"), "needs its number"),
        (("gpu", "spot-1", "melt"), "melt"),
        (("up", "--gpus", "h200x9"), "gpu_profile must be one of"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2
    assert told in done.stderr
