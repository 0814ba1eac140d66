"""Loading a verified checkpoint onto live modules and optimizers, of whatever world size and sharding.

First every rank finds out whether the checkpoint fits; only when it does on all of them is anything copied.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from holdfast.errors import HoldfastError
from holdfast.peers import Peers, together
from holdfast.sharded.buffers import Copier
from holdfast.sharded.leaves import Exact, is_tensor, nested
from holdfast.sharded.names import Name, NamedModule, parameters_of
from holdfast.sharded.reading import Reader

_TOLD = 4


@dataclass
class Work:
    """What is to be done once all ranks are ready: tensors to fill, then a step that finishes each object."""

    targets: dict[str, torch.Tensor] = field(default_factory=dict)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    finish: list[Callable[[], None]] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)

    def state(self, reader: Reader, name: str, target: Callable[[str, Exact, torch.Size, torch.dtype], torch.Tensor]) -> dict[Any, Any]:
        """The stored state of an object, with the tensors that `target` gives, to be filled later."""
        values: list[tuple[Exact, Any]] = []
        for entry, exact in reader.entries(name).items():
            stored = reader.shape(entry)
            if stored is None:
                values.append((exact[1:], reader.value(entry)))
            else:
                self.targets[entry] = target(entry, exact[1:], stored.size, stored.properties.dtype)
                values.append((exact[1:], self.targets[entry]))
        return nested(values)


def load(
    folder: Path,
    modules: dict[str, NamedModule],
    optimizers: dict[str, tuple[Optimizer, list[Name]]],
    peers: Peers,
    copier: Copier,
) -> set[str]:
    """See Shards.load."""
    work = Work()

    def prepare() -> None:
        reader = Reader(folder)
        for name, module in modules.items():
            if _present(reader, name, work):
                _fit_module(reader, name, module, work)
        for name, (optimizer, names) in optimizers.items():
            if _present(reader, name, work):
                _fit_optimizer(reader, name, optimizer, names, work)
        work.pairs = reader.parts(work.targets)

    def become() -> None:
        with torch.no_grad():
            copier.copy([target for target, _ in work.pairs], [source for _, source in work.pairs])
            for step in work.finish:
                step()

    together(peers, f"fitting {folder.name} to this run", prepare, HoldfastError)
    together(peers, f"loading {folder.name}", become, HoldfastError)
    return work.absent


def _present(reader: Reader, name: str, work: Work) -> bool:
    if reader.entries(name):
        return True
    work.absent.add(name)
    return False


def _fit_module(reader: Reader, name: str, module: NamedModule, work: Work) -> None:
    """The module's own tensors are filled in place; load_state_dict then does what is left (hooks, extra state)."""
    live = module.state()
    stored = {str(exact[1][1]) for exact in reader.entries(name).values()}
    _compare(f"the state of {name}", stored, live.keys())
    wrong: list[str] = []

    def target(entry: str, exact: Exact, size: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        value = live[exact[0][1]]
        if len(exact) > 1 or not is_tensor(value):  # inside of what get_extra_state gave
            return torch.empty(size, dtype=dtype)
        if value.size() != size:
            wrong.append(f"{entry} is {tuple(size)} in the checkpoint and {tuple(value.size())} here")
            return torch.empty(size, dtype=dtype)
        return value  # type: ignore[no-any-return]

    state = work.state(reader, name, target)
    if wrong:
        raise HoldfastError("; ".join(wrong[:_TOLD]))
    own = {key: state[module.name(key)] for key in module.module.state_dict()}

    def finish() -> None:
        module.module.load_state_dict(own)

    work.finish.append(finish)


def _compare(what: str, stored: Iterable[Any], live: Iterable[Any]) -> None:
    """Raise HoldfastError unless both have the same names."""
    only_stored, only_live = sorted(set(stored) - set(live), key=str), sorted(set(live) - set(stored), key=str)
    if only_stored or only_live:
        told = [
            f"{side} has {len(names)} that {other} lacks ({', '.join(map(str, names[:_TOLD]))}{', …' * (len(names) > _TOLD)})"
            for side, other, names in (("the checkpoint", "this run", only_stored), ("this run", "the checkpoint", only_live))
            if names
        ]
        raise HoldfastError(f"{what} does not fit: {'; '.join(told)}")


def _fit_optimizer(reader: Reader, name: str, optimizer: Optimizer, names: list[Name], work: Work) -> None:
    """Tensors that the optimizer has already are filled in place; others are made like their parameter."""
    by_name = dict(zip(names, parameters_of(optimizer), strict=True))

    def target(entry: str, exact: Exact, size: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        keys = [key for _, key in exact]
        parameter = by_name.get(keys[1]) if keys[0] == "state" and len(keys) > 2 else None
        if parameter is None:
            return torch.empty(size, dtype=dtype)
        present = _walk(optimizer.state.get(parameter), keys[2:])
        if is_tensor(present) and present.size() == size and present.dtype == dtype:
            return present  # type: ignore[no-any-return]
        device = torch.device("cpu") if keys[2:] == ["step"] else parameter.device  # as PyTorch has it
        return _like(parameter, size, dtype, device, sharded=entry in reader.sharded)

    state = work.state(reader, name, target)
    state["param_groups"] = _regrouped(name, state["param_groups"], optimizer, names)
    state["state"] = {key: value for key, value in state.get("state", {}).items() if key in by_name}
    work.finish.append(lambda: _load_optimizer(optimizer, names, state))


def _walk(state: Any, keys: list[Any]) -> Any:
    for key in keys:
        state = state.get(key) if isinstance(state, dict) else None
    return state


def _like(parameter: torch.Tensor, size: torch.Size, dtype: torch.dtype, device: torch.device, *, sharded: bool) -> torch.Tensor:
    """Memory for a state of a parameter: sharded as it is, if it has its shape."""
    if size == parameter.size() and (size or sharded):
        return torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    if sharded and isinstance(parameter, DTensor):
        whole = torch.empty(size, dtype=dtype, device=device)
        mesh = parameter.device_mesh
        return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return torch.empty(size, dtype=dtype, device=device)


def _regrouped(name: str, stored: list[dict[str, Any]], optimizer: Optimizer, names: list[Name]) -> list[dict[str, Any]]:
    """The stored settings for each of the live groups, whose parameters must have been together before, too."""
    where = {parameter: number for number, group in enumerate(stored) for parameter in group["params"]}
    _compare(f"the parameters of {name}", where.keys(), names)
    groups = []
    rest = iter(names)
    for number, group in enumerate(optimizer.param_groups):
        members = [next(rest) for _ in group["params"]]
        homes = {where[member] for member in members} or {number}
        if len(homes) > 1 or max(homes) >= len(stored):
            raise HoldfastError(f"group {number} of {name} holds parameters of {len(homes)} groups of the checkpoint")
        groups.append({**stored[homes.pop()], "params": members})
    return groups


def _load_optimizer(optimizer: Optimizer, names: list[Name], state: dict[str, Any]) -> None:
    """Let the optimizer take its state as it was saved: PyTorch casts tensors to the parameter's dtype, and breaks nested texts."""
    optimizer.load_state_dict(state)
    for name, parameter in zip(names, parameters_of(optimizer), strict=True):
        now = optimizer.state.get(parameter, {})
        for key, value in state["state"].get(name, {}).items():
            if isinstance(value, dict | list | tuple | str):
                now[key] = value
            elif is_tensor(value) and is_tensor(now.get(key)) and now[key].dtype != value.dtype:
                now[key] = value.to(now[key].device)
