"""What a checkpoint holds, and how it becomes bytes.

Model, optimizer, scheduler and the named extras are alike on all ranks: rank 0 writes them (with DDP, the buffers of rank
0 are everybody's). The loader and the random generators are each rank's own.
"""

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast, runtime_checkable

from holdfast import rng
from holdfast.process import module
from holdfast.writer import HashingWriter


@runtime_checkable
class Stateful(Protocol):
    """PyTorch's protocol for everything that has state."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Become that state."""


def _unwrapped(value: Any) -> Any:
    """The module inside DistributedDataParallel, so that runs with and without it read each other's checkpoints."""
    return value.module if type(value).__name__ == "DistributedDataParallel" and hasattr(value, "module") else value


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_tensor_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_tensor_bytes(item) for item in value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


class Training:
    """The objects of a training run. Raises TypeError for one without state_dict and load_state_dict."""

    def __init__(self, shared: dict[str, Any], own: dict[str, Any]) -> None:
        self._shared = {name: _unwrapped(value) for name, value in shared.items() if value is not None}
        self._own = {name: value for name, value in own.items() if value is not None}
        for name, value in {**self._shared, **self._own}.items():
            if not isinstance(value, Stateful):
                raise TypeError(f"{name} has no state_dict and load_state_dict")

    def size_hint_bytes(self) -> int:
        """Roughly what a save will write, before there was one: an optimizer soon holds two tensors for each weight."""
        weights = sum(_tensor_bytes(value.state_dict()) for name, value in self._shared.items() if name != "optimizer")
        return weights * (3 if "optimizer" in self._shared else 1)

    def capture(self, step: int, rank: int) -> dict[str, Any]:
        """The content of this rank's file, after `step` steps."""
        content: dict[str, Any] = {"v": 1, "step": step, "rank": rank, "rng": rng.capture()}
        content["own"] = {name: value.state_dict() for name, value in self._own.items()}
        if rank == 0:
            content["shared"] = {name: value.state_dict() for name, value in self._shared.items()}
        return content

    def restore(self, shared: dict[str, Any], mine: dict[str, Any] | None, warn: Callable[[str], None]) -> None:
        """Become the state of rank 0's file `shared` and of this rank's file `mine`.

        `mine` None (the run was smaller): the loader takes rank 0's state, which names a global position; the random
        generators stay as they are. What the load_state_dict of an object raises passes through.
        """
        _load(self._shared, shared["shared"], warn)
        _load(self._own, (shared if mine is None else mine)["own"], warn)
        if mine is None:
            warn("this rank had no part in the checkpoint: its random generators start afresh")
        else:
            rng.restore(mine["rng"])


def _load(objects: dict[str, Any], states: dict[str, Any], warn: Callable[[str], None]) -> None:
    for name in objects.keys() - states.keys():
        warn(f"the checkpoint has no state for {name}: it starts afresh")
    for name in states.keys() - objects.keys():
        warn(f"the checkpoint has state for {name}, which this Run was not given")
    for name, value in objects.items():
        if name in states:
            value.load_state_dict(states[name])


def file_name(rank: int) -> str:
    """`rank0.pt` in PyTorch's format; `rank0.pkl` in a program that has not loaded PyTorch."""
    return f"rank{rank}.{'pt' if module('torch') is not None else 'pkl'}"


def dump(content: dict[str, Any], file: HashingWriter) -> None:
    """Write a rank's content."""
    torch = module("torch")
    if torch is not None:
        torch.save(content, file)
    else:
        pickle.dump(content, cast(BinaryIO, file), protocol=5)


def load(path: Path) -> dict[str, Any]:
    """Read a rank's content, tensors on the CPU. The directory is trusted as the training script is: unpickling runs code."""
    if path.suffix == ".pt":
        torch = importlib.import_module("torch")
        return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=False))
    with path.open("rb") as file:
        return cast(dict[str, Any], pickle.load(file))  # noqa: S301  (see above)
