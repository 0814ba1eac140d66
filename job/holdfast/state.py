"""What a checkpoint holds, and how it becomes files.

- Tensors of PyTorch modules and optimizers: one shard file for each rank, see `holdfast.sharded`.
- Objects that write files themselves (`save_files`, `load_files`): a folder of their own name.
- Everything else with `state_dict` and `load_state_dict`: alike on all ranks, so in rank 0's file `rank0.pt`.
- The loader and the random generators: each rank's own, in `rank<r>.pt`.
"""

import importlib
import io
import pickle
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from holdfast import rng
from holdfast.data import check_loader, restore
from holdfast.errors import HoldfastError
from holdfast.process import module

VERSION = 2
ESSENTIAL = ("model", "optimizer")


@runtime_checkable
class Stateful(Protocol):
    """PyTorch's protocol for everything that has state."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Become that state."""


@runtime_checkable
class Filed(Protocol):
    """An object that keeps its state in files of its own, such as a framework's own checkpointer.

    Both are called in the main thread of all ranks at the same step; `folder` is the same for all.
    """

    def save_files(self, folder: Path) -> None:
        """Write the state into `folder`, which is new and empty."""

    def load_files(self, folder: Path) -> None:
        """Become the state in `folder`, whose files have been verified."""


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_tensor_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_tensor_bytes(item) for item in value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _has_shards(value: Any) -> bool:
    """Whether it is a module or an optimizer of PyTorch, where the program has loaded that."""
    torch = module("torch")
    return torch is not None and isinstance(value, torch.nn.Module | torch.optim.Optimizer)


class Training:
    """The objects of a training run, by name. Raises TypeError for one that has no state."""

    def __init__(self, shared: dict[str, Any], own: dict[str, Any]) -> None:
        given = {name: value for name, value in shared.items() if value is not None}
        self._own = {name: value for name, value in own.items() if value is not None}
        self.epochs_done = 0
        self.sharded = {name: value for name, value in given.items() if _has_shards(value)}
        rest = {name: value for name, value in given.items() if name not in self.sharded}
        self.filed = {name: value for name, value in rest.items() if isinstance(value, Filed)}
        self._shared = {name: value for name, value in rest.items() if name not in self.filed}
        for value in self._own.values():
            check_loader(value)
        for name, value in {**self._shared, **self._own}.items():
            if not isinstance(value, Stateful):
                raise TypeError(f"{name} has no state_dict and load_state_dict, nor save_files and load_files")

    @property
    def large(self) -> tuple[str, ...]:
        """The names of what is not in the ranks' own files."""
        return (*self.sharded, *self.filed)

    @property
    def parts(self) -> tuple[str, ...] | None:
        """What a save in a hurry is limited to, of what is large; None where there is nothing to leave out."""
        essential = tuple(name for name in ESSENTIAL if name in self.large)
        return essential if essential and len(self.large) > len(essential) else None

    def rest_bytes(self) -> int:
        """How much smaller such a save is, at least: what objects write themselves is not counted."""
        return sum(_tensor_bytes(value.state_dict()) for name, value in self.sharded.items() if name not in ESSENTIAL)

    def size_hint_bytes(self) -> int:
        """Roughly what a save will write, before there was one: an optimizer soon holds two tensors for each weight."""
        objects = {**self._shared, **self.sharded}
        weights = sum(_tensor_bytes(value.state_dict()) for name, value in objects.items() if name != "optimizer")
        return weights * (3 if "optimizer" in objects else 1)

    def capture(self, step: int, rank: int) -> bytes:
        """The content of this rank's file, after `step` steps."""
        content: dict[str, Any] = {"v": VERSION, "step": step, "rank": rank, "rng": rng.capture()}
        content["own"] = {name: value.state_dict() for name, value in self._own.items()}
        if rank == 0:
            content["shared"] = {name: value.state_dict() for name, value in self._shared.items()}
            content["epochs_done"] = self.epochs_done
        return _dump(content)

    def restore(
        self, first: dict[str, Any], mine: dict[str, Any] | None, world_sizes: tuple[int, int], warn: Callable[[str], None]
    ) -> None:
        """Become the state of rank 0's file `first` and of this rank's file `mine`; the shards are loaded already.

        `mine` None (the run was smaller): the loader takes rank 0's state, which names a global position; the random generators stay as
        they are. `world_sizes`: of the checkpoint, and now. What the load_state_dict of an object raises passes through; HoldfastError for
        a loader that cannot go on with another number of ranks or workers.
        """
        if first.get("v") != VERSION:
            raise HoldfastError(
                f"a checkpoint of format {first.get('v')}: this Holdfast goes on from format {VERSION}; give it another directory"
            )
        self.epochs_done = int(first.get("epochs_done", 0))
        for _, value, state in _pairs(self._shared, first["shared"], warn):
            value.load_state_dict(state)
        saved_world_size, world_size = world_sizes
        for name, value, state in _pairs(self._own, (first if mine is None else mine)["own"], warn):
            restore(value, state, saved_world_size=saved_world_size, world_size=world_size, name=name)
        if mine is None:
            warn("this rank had no part in the checkpoint: its random generators start afresh")
        else:
            rng.restore(mine["rng"])


def refuse_fresh(absent: Collection[str]) -> None:
    """Raise HoldfastError if the model or the optimizer is among those without state: to go on from step N with it would be a lie."""
    if missing := [name for name in ESSENTIAL if name in absent]:
        raise HoldfastError(
            f"the checkpoint has no state for {' and '.join(missing)}: give Run what it was given before, or another directory"
        )


def _pairs(objects: dict[str, Any], states: dict[str, Any], warn: Callable[[str], None]) -> Iterator[tuple[str, Any, Any]]:
    """Name, object and state of those that have both. Raises HoldfastError where the model or the optimizer has none."""
    refuse_fresh(objects.keys() - states.keys())
    for name in objects.keys() - states.keys():
        warn(f"the checkpoint has no state for {name}: it starts afresh")
    for name in states.keys() - objects.keys():
        warn(f"the checkpoint has state for {name}, which this Run was not given")
    for name, value in objects.items():
        if name in states:
            yield name, value, states[name]


def file_name(rank: int) -> str:
    """`rank0.pt` in PyTorch's format; `rank0.pkl` in a program that has not loaded PyTorch."""
    return f"rank{rank}.{'pt' if module('torch') is not None else 'pkl'}"


def _dump(content: dict[str, Any]) -> bytes:
    torch = module("torch")
    if torch is None:
        return pickle.dumps(content, protocol=5)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(path: Path) -> dict[str, Any]:
    """Read a rank's content, tensors on the CPU. The directory is trusted as the training script is: unpickling runs code."""
    if path.suffix == ".pt":
        torch = importlib.import_module("torch")
        return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=False))
    with path.open("rb") as file:
        return cast(dict[str, Any], pickle.load(file))  # noqa: S301  (see above)
