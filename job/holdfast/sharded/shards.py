"""The tensors of all modules and optimizers of a run: staged, written and loaded as shares of the ranks."""

import copy
import gc
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from holdfast.errors import HoldfastError, SaveError
from holdfast.peers import Peers, together
from holdfast.sharded import loading, plan
from holdfast.sharded.buffers import Buffer, Copier
from holdfast.sharded.leaves import Leaf, is_tensor, leaves
from holdfast.sharded.names import Name, NamedModule, expected_state_bytes, local, named_state, names_for
from holdfast.sharded.staged import Staged

T = TypeVar("T")
_SLACK_BYTES = 16 * 1024 * 1024


class Shards:
    """Modules and optimizers by name, as they are saved and loaded by all ranks together.

    Parameters and optimizer state are written once, in balanced shares; buffers and all else that is replicated by the lowest
    rank that has it. Optimizers are keyed by the names of their parameters; one with parameters that no given module has, by
    their numbers. Raises HoldfastError for FSDP1.
    """

    def __init__(self, objects: dict[str, nn.Module | Optimizer], peers: Peers, warn: Callable[[str], None]) -> None:
        self._modules = {name: NamedModule(value) for name, value in objects.items() if isinstance(value, nn.Module)}
        self._optimizers = {name: value for name, value in objects.items() if isinstance(value, Optimizer)}
        self._order = list(objects)
        self._peers = peers
        self._warn = warn
        self._warned: set[str] = set()
        self._copier = Copier()
        self._plan: plan.Plan | None = None
        self._structure: list[Any] = []
        self._free: list[Buffer] = []
        self._in_use = 0
        self._lock = threading.Lock()
        self._expected_bytes = self._expect()

    @property
    def share_bytes(self) -> int:
        """What this rank writes; before the first save an estimate."""
        return self._expected_bytes if self._plan is None else self._plan.tensors_bytes

    @property
    def total_bytes(self) -> int:
        """What all ranks write; before the first save an estimate."""
        return self._expected_bytes * self._peers.place.world_size if self._plan is None else self._plan.total_bytes

    def _expect(self) -> int:
        """The share before anything is planned: what is sharded, and this rank's part of what is replicated."""
        sizes = {True: 0, False: 0}
        for module in self._modules.values():
            for tensor in [*module.module.parameters(), *module.module.buffers()]:
                sizes[hasattr(tensor, "to_local")] += local(tensor).nbytes
        share = sizes[True] + sizes[False] // self._peers.place.world_size
        weights = sum(sizes.values())
        state = sum(expected_state_bytes(optimizer) for optimizer in self._optimizers.values())
        return share + (state * share // weights if weights else state)

    def stage(self) -> Staged:
        """Copy this rank's share. Called by all ranks at the same boundary; a collective: two all-reduces, and a plan where needed.

        Raises SaveError on all ranks alike, with the faulty rank's own exception as its cause there.
        """
        with torch.no_grad(), _no_collection():
            found, offered = self._agree()
            staged, fault = _attempt(lambda: self._copy(found, self._planned(found, offered)))
            (failed,) = self._peers.highest([int(staged is None)])
            if failed or staged is None:
                if staged is not None:
                    staged.release()
                raise _failure("copied", fault)
            return staged

    def _copy(self, found: list[Leaf], current: plan.Plan) -> Staged:
        values = {leaf.name: leaf.value for leaf in found}
        objects = [copy.deepcopy(values[index.fqn]) for index in current.objects]
        sources = [local(values[tensor.index.fqn]) for tensor in current.tensors]
        buffer = self._take(current.tensors_bytes)
        try:
            if any(source.is_cuda for source in sources):
                buffer.pin(current.tensors_bytes)
            buffer.lay_out(current)
            self._copier.copy(buffer.views, sources)
        except Exception:
            self._put_back(buffer)
            raise
        return Staged(current, self._peers.place.rank, buffer, objects, self._put_back)

    def _collect(self) -> tuple[list[Leaf], set[str]]:
        """All leaves, and the names of the replicated tensors that are equal on all ranks."""
        states, names = self._named()
        found: list[Leaf] = []
        anybodys: set[str] = set()
        for name in self._order:
            if name in states:
                mine = leaves(name, states[name])
                anybodys |= {leaf.name for leaf in mine if isinstance(leaf.value, nn.Parameter)}
            else:
                mine = leaves(name, named_state(self._optimizers[name], names[name]))
                anybodys |= {leaf.name for leaf in mine if leaf.path[1] == "state" and is_tensor(leaf.value) and leaf.value.ndim}
            found += mine
        return found, anybodys

    def _named(self) -> tuple[dict[str, dict[str, Any]], dict[str, list[Name]]]:
        """The modules' states (parameters as themselves), and the names of each optimizer's parameters."""
        states = {name: module.state(keep_vars=True) for name, module in self._modules.items()}
        parameters = {name: self._modules[name].parameters(state) for name, state in states.items()}
        names: dict[str, list[Name]] = {}
        for name, optimizer in self._optimizers.items():
            found = names_for(optimizer, parameters)
            if found is None:
                self._warn_once(f"{name} has parameters that belong to no given module: its state is kept by their numbers")
                found = list(range(sum(len(group["params"]) for group in optimizer.param_groups)))
            names[name] = found
        return states, names

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    def _agree(self) -> tuple[list[Leaf], list[plan.Offer] | None]:
        """All leaves; all ranks' offers for a new plan if on any rank something is not as it was, else None."""
        collected, fault = _attempt(self._collect)
        found, anybodys = collected or ([], set())
        structure = [_shape(leaf) for leaf in found]
        changed = self._plan is None or structure != self._structure
        anywhere, failed = self._peers.highest([int(changed), int(collected is None)])
        if failed:
            raise _failure("read", fault)
        if not anywhere:
            return found, None
        self._plan, self._structure = None, structure
        return found, plan.offers(found, anybodys, self._peers)

    def _planned(self, found: list[Leaf], offered: list[plan.Offer] | None) -> plan.Plan:
        if offered is not None:
            self._plan = plan.make(found, offered, self._peers.place.rank)
        assert self._plan is not None
        return self._plan

    def warm(self) -> None:
        """Have memory ready for the next save, so that it need not be found while training waits. For a background thread.

        It may be called at any time and again; it stops early where a save needs the memory meanwhile, and does nothing while
        what an earlier save has staged is being written: that memory is the next save's.
        """
        size_bytes = self.share_bytes
        with self._lock:
            if self._in_use:
                return
            if not self._free:
                self._free.append(Buffer(size_bytes if self._plan is not None else 2 * size_bytes + _SLACK_BYTES))
            buffer = self._free[0]
        buffer.touch(size_bytes)

    def _take(self, size_bytes: int) -> Buffer:
        with self._lock:
            buffer = self._free.pop() if self._free else None
            self._in_use += 1
        if buffer is not None and buffer.capacity_bytes < size_bytes:
            buffer.take()
            buffer.unpin()
            buffer = None
        try:
            buffer = buffer or Buffer(size_bytes)
        except Exception:
            with self._lock:
                self._in_use -= 1
            raise
        buffer.take()
        return buffer

    def _put_back(self, buffer: Buffer) -> None:
        with self._lock:
            self._in_use -= 1
            if not self._free:
                self._free.append(buffer)
                return
        buffer.unpin()

    def load(self, folder: Path, names: Collection[str] | None = None) -> set[str]:
        """Become the state in `folder`, which has been verified (only the objects `names` if given).

        Returns the names of those without state there. Called by all ranks. Nothing is touched on any rank unless the checkpoint fits all
        objects on all ranks. Raises HoldfastError on all ranks alike.
        """
        keys: dict[str, list[Name]] = {}
        together(self._peers, "naming the optimizers' parameters", lambda: keys.update(self._named()[1]), HoldfastError)
        wanted = set(self._order if names is None else names)
        modules = {name: module for name, module in self._modules.items() if name in wanted}
        optimizers = {name: (optimizer, keys[name]) for name, optimizer in self._optimizers.items() if name in wanted}
        return loading.load(folder, modules, optimizers, self._peers, self._copier)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's cycle collector looks at all objects of the program after some thousands of new ones: up to a second, amid a save."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _attempt(action: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What `action` returns, or how it fails: told only once the other ranks know, since they wait."""
    try:
        return action(), None
    except Exception as fault:
        return None, fault


def _failure(what: str, fault: Exception | None) -> SaveError:
    if fault is None:
        return SaveError(f"the state of another rank cannot be {what}")
    told = SaveError(f"the state cannot be {what}: {type(fault).__name__}: {fault}")
    told.__cause__ = fault
    return told


def _shape(leaf: Leaf) -> tuple[Any, ...]:
    """All of a leaf that a plan depends on."""
    value = leaf.value
    if not is_tensor(value):
        return (leaf.name,)
    if hasattr(value, "to_local"):
        part = value.to_local()
        return leaf.name, value.size(), value.dtype, value.placements, value.device_mesh, part.size(), part.stride(), part.device
    return leaf.name, value.size(), value.dtype, value.stride(), value.device
