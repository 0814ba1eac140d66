"""What GPUs there should be."""

from pathlib import Path

import pytest
from holdfast_common.health.model import Sample
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.health.driver import driver_present
from holdfast_nodeagent.health.expected import expected_samples, same_model

H100, A100, T4 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "Tesla T4"


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        ("H100", H100),
        ("nvidia-h100-80gb", H100),
        ("nvidia-h100-mega-80gb", H100),
        ("H100-SXM5", H100),
        ("A100", A100),
        ("nvidia-tesla-a100", A100),
        ("T4", T4),
        ("Tesla V100", "Tesla V100-SXM2-16GB"),
        ("A10G", "NVIDIA A10G"),
        ("RTX A6000", "NVIDIA RTX A6000"),
        ("RTX6000", "Quadro RTX 6000"),
        ("rtxpro6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("H100NVL", "NVIDIA H100 NVL"),
        ("", H100),
    ],
)
def test_names_of_one_model(wanted: str, model: str) -> None:
    assert same_model(wanted, model)


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        ("A100", "NVIDIA A10"),
        ("A10", A100),
        ("H100", A100),
        ("A100-80GB", A100),
        ("H200", H100),
        ("T4", "Tesla T40"),
        ("RTX6000", "NVIDIA RTX A6000"),
    ],
)
def test_names_of_two_models(wanted: str, model: str) -> None:
    assert not same_model(wanted, model)


def values(samples: list[Sample]) -> dict[str, float | None]:
    return {sample.name: sample.value for sample in samples}


def test_missing_and_wrong_gpus(inventory: Inventory) -> None:
    assert values(expected_samples(2, "H100", inventory, 2.0, {}, 1.0)) == {"gpus_missing": 0.0, "gpu_model_mismatch": 0.0}
    assert values(expected_samples(8, "", inventory, 2.0, {}, 1.0)) == {"gpus_missing": 6.0, "gpu_model_mismatch": None}
    lost = expected_samples(2, "A100", inventory, 1.0, {"GPU-0": 0.0, "GPU-1": 1.0}, 1.0)
    assert values(lost) == {"gpus_missing": 1.0, "gpu_model_mismatch": 1.0}
    assert [sample.detail for sample in lost] == ["1 of 2, lost: 0000:18:00.0", "NVIDIA H100 80GB HBM3 and not A100"]


def test_more_than_expected_are_no_fault_and_without_a_word_nothing_is_missing(inventory: Inventory) -> None:
    assert values(expected_samples(1, "", inventory, 2.0, {}, 1.0))["gpus_missing"] == 0.0
    untold = expected_samples(0, "", inventory, 0.0, {}, 1.0)
    unread = expected_samples(8, "H100", Inventory(), None, {}, 1.0)
    assert all(sample.state == "unsupported" and sample.value is None for sample in (*untold, *unread))


def test_whether_there_is_a_driver_or_a_gpu(tmp_path: Path) -> None:
    assert not driver_present(tmp_path)
    device = tmp_path / "sys/bus/pci/devices/0000:18:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x068000\n")
    assert not driver_present(tmp_path)  # a bridge of NVIDIA's
    (device / "class").write_text("0x030200\n")
    assert driver_present(tmp_path)
    (device / "vendor").write_text("0x8086\n")
    assert not driver_present(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert driver_present(tmp_path)
