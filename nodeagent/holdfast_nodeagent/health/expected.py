"""What GPUs the node should have, and what is missing."""

import re
from collections.abc import Mapping

from holdfast_common.health.model import Sample

from holdfast_nodeagent.gpu.inventory import Inventory

_WORDS = re.compile(r"[a-z0-9]+")
_MEMORY = re.compile(r"\d+gb")


def same_model(wanted: str, model: str) -> bool:
    """Whether NVML's name of a GPU is the model that an admin or a cloud wrote.

    `nvidia-h100-mega-80gb` and `H100-SXM5` are `NVIDIA H100 80GB HBM3`: what counts is the model itself (the first word with a digit) and,
    where both tell it, the memory. `RTX6000` is `Quadro RTX 6000`: two or three words may be written as one.
    """
    said = _WORDS.findall(model.lower())
    words = _WORDS.findall(wanted.lower())
    memory = [word for word in words if _MEMORY.fullmatch(word)]
    names = [word for word in words if any(map(str.isdigit, word)) and word not in memory]
    memory_differs = bool(memory) and any(_MEMORY.fullmatch(word) for word in said) and memory[0] not in said
    together = {"".join(said[start:end]) for start in range(len(said)) for end in range(start + 1, min(len(said), start + 3) + 1)}
    return (not names or names[0] in together) and not memory_differs


def expected_samples(
    expected: int | None, model: str, inventory: Inventory, visible: float | None, up: Mapping[str, float | None], at: float
) -> list[Sample]:
    """Compare what NVML lists and reaches (`visible`; `up` by uuid, 0: not) with what was told. What nobody told is not supported."""
    missing = Sample(at, "gpus_missing", state="unsupported")
    mismatch = Sample(at, "gpu_model_mismatch", state="unsupported")
    if expected and visible is not None:
        lost = ", ".join(gpu.pci for gpu in inventory.gpus if up.get(gpu.uuid) == 0)
        detail = f"{visible:g} of {expected}" + (f", lost: {lost}" if lost else "")
        missing = Sample(at, "gpus_missing", max(0.0, expected - visible), detail=detail[:200])
    if model and inventory.gpus:
        others = sorted({gpu.model for gpu in inventory.gpus if gpu.model and not same_model(model, gpu.model)})
        detail = f"{', '.join(others)} and not {model}"[:200] if others else ""
        mismatch = Sample(at, "gpu_model_mismatch", float(bool(others)), detail=detail)
    return [missing, mismatch]
