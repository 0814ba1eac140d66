"""The states of modules and optimizers, keyed by the names that parameters have without any wrapper around the module.

The same keys as `torch.distributed.checkpoint.state_dict` gives, but cheaper (this runs at every save), and without the
step that it makes an optimizer take to create its state.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.optim import Optimizer

from holdfast.errors import HoldfastError

_INNER = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
Name = str | int


class NamedModule:
    """A module and the names of its state without the prefixes of DDP, torch.compile and activation checkpointing."""

    def __init__(self, module: nn.Module) -> None:
        if any(type(part).__name__ == "FullyShardedDataParallel" for part in module.modules()):
            raise HoldfastError("FullyShardedDataParallel (FSDP1) is not supported: use torch.distributed.fsdp.fully_shard")
        self.module = module
        self._names: dict[str, str] = {}

    def state(self, *, keep_vars: bool = False) -> dict[str, Any]:
        """The state dict under clean names. With `keep_vars` parameters are themselves, else tensors that alias them."""
        state = self.module.state_dict(keep_vars=keep_vars)
        self._learn(state)
        return {self._names[key]: value for key, value in state.items()}

    def name(self, key: str) -> str:
        """The clean name of a key of the module's own state dict."""
        self._learn((key,))
        return self._names[key]

    def _learn(self, keys: Iterable[str]) -> None:
        """Know the clean names of these keys."""
        unknown = [key for key in keys if key not in self._names]
        if not unknown:
            return
        wrappers = set()
        for path, part in self.module.named_modules():
            inner = "_checkpoint_wrapped_module" if isinstance(part, CheckpointWrapper) else _INNER.get(type(part).__name__)
            if inner is not None:
                wrappers.add(f"{path}.{inner}" if path else inner)
        for key in unknown:
            parts = key.split(".") if wrappers else [key]
            kept = [part for position, part in enumerate(parts) if ".".join(parts[: position + 1]) not in wrappers]
            self._names[key] = ".".join(kept)

    def parameters(self, state: dict[str, Any]) -> dict[nn.Parameter, str]:
        """Each parameter's first name; `state` is the one with `keep_vars`."""
        found: dict[nn.Parameter, str] = {}
        for name, value in state.items():
            if isinstance(value, nn.Parameter):
                found.setdefault(value, name)
        if len(found) < sum(1 for _ in self.module.parameters()):  # a hook keeps some out of the state dict
            for key, parameter in self.module.named_parameters():
                if parameter not in found:
                    found[parameter] = self.name(key)
        return found


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """All parameters, in the order in which state_dict numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def names_for(optimizer: Optimizer, modules: dict[str, dict[nn.Parameter, str]]) -> list[Name] | None:
    """A name for each parameter of the optimizer; None if one belongs to no given module.

    Those of one module have their names in it; where several are needed, the module's name comes first.
    """
    wanted = parameters_of(optimizer)
    for names in modules.values():
        if all(parameter in names for parameter in wanted):
            return [names[parameter] for parameter in wanted]
    everywhere: dict[nn.Parameter, str] = {}
    for module, names in modules.items():
        for parameter, name in names.items():
            everywhere.setdefault(parameter, f"{module}.{name}")
    return [everywhere[parameter] for parameter in wanted] if all(parameter in everywhere for parameter in wanted) else None


def packed(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's own state dict. Raises HoldfastError where its shape is not PyTorch's."""
    state = optimizer.state_dict()
    count = len(parameters_of(optimizer))
    groups = state.get("param_groups")
    if not isinstance(state.get("state"), dict) or not isinstance(groups, list) or sum(len(g["params"]) for g in groups) != count:
        raise HoldfastError(f"the state_dict of {type(optimizer).__name__} is not that of a PyTorch optimizer: give it as an extra object")
    return state


def named_state(optimizer: Optimizer, names: list[Name]) -> dict[str, Any]:
    """The optimizer's state dict, keyed by `names` instead of numbers."""
    state = packed(optimizer)
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, names, strict=True))
    groups = [{**group, "params": [by_number[number] for number in group["params"]]} for group in state["param_groups"]]
    return {**state, "state": {by_number.get(key, key): value for key, value in state["state"].items()}, "param_groups": groups}


def expected_state_bytes(optimizer: Optimizer) -> int:
    """What the optimizer's state will take, by its own state or, before the first step, by its kind."""
    total = 0
    for group in optimizer.param_groups:
        copies = 2 * ("betas" in group) + bool(group.get("amsgrad")) + bool(group.get("momentum"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state:
                total += sum(local(value).nbytes for value in state.values() if isinstance(value, torch.Tensor))
            elif parameter.requires_grad:
                total += copies * local(parameter).nbytes
    return total


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor, detached."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
