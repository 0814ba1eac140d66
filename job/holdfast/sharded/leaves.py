"""A nested state as a flat list of leaves, under the names that DCP gives them, and back.

DCP knows string keys and list positions only and drops empty containers. Where that loses something (an integer key, an
empty dict) the leaf's exact path is kept beside it, so that a state comes back as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.distributed.tensor import DTensor

Path = tuple[str | int, ...]
Exact = tuple[tuple[bool, Any], ...]
"""For each level whether it is a position in a list, and the key as it was."""
_TENSORS = (torch.Tensor, torch.nn.Parameter, DTensor)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value that is stored as one entry: a tensor, or anything that pickles."""

    name: str
    path: Path
    exact: Exact
    value: Any

    @property
    def plain(self) -> bool:
        """Whether DCP's `path` tells all that `exact` does."""
        return all(listed or type(key) is str for listed, key in self.exact)


def is_tensor(value: Any) -> bool:
    """Whether a value is stored as a tensor: dense, and of no class with a meaning of its own (those are pickled)."""
    return type(value) in _TENSORS and value.layout is torch.strided and not value.is_quantized


def leaves(name: str, state: Any) -> list[Leaf]:
    """The leaves of `state` below `name`, in order. Raises ValueError where two of them would have one name."""
    found: list[Leaf] = []
    _walk((name,), ((False, name),), state, found)
    if len({leaf.name for leaf in found}) != len(found):
        raise ValueError(f"two values of {name} have the same dotted name")
    return found


def _ends(value: Any) -> bool:
    """Whether DCP takes a value as a leaf; a list only if nothing in it is a tensor or a container to go into."""
    if isinstance(value, Mapping):
        return not value
    if not isinstance(value, list):
        return True
    return not any(isinstance(item, torch.Tensor | Mapping) or (isinstance(item, list) and not _ends(item)) for item in value)


def _walk(path: Path, exact: Exact, value: Any, found: list[Leaf]) -> None:
    if isinstance(value, torch.Tensor) or _ends(value):
        found.append(Leaf(".".join(map(str, path)), path, exact, value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _walk((*path, str(key)), (*exact, (False, key)), item, found)
    else:
        for position, item in enumerate(value):
            _walk((*path, position), (*exact, (True, position)), item, found)


def exact_from(path: Path) -> Exact:
    """The exact path where only DCP's is kept: integers are positions in lists."""
    return tuple((isinstance(key, int), key) for key in path)


def nested(entries: list[tuple[Exact, Any]]) -> dict[Any, Any]:
    """The nested state again, from exact paths and values."""
    root: dict[Any, Any] = {}
    for exact, value in entries:
        place: Any = root
        for (_, key), (listed, _) in pairwise(exact):
            place = _enter(place, key, [] if listed else {})
        _enter(place, exact[-1][1], value)
    return root


def _enter(place: Any, key: Any, fresh: Any) -> Any:
    """The value at `key`, `fresh` if there is none yet; lists grow."""
    if isinstance(place, list):
        place.extend([None] * (key + 1 - len(place)))
        if place[key] is None:
            place[key] = fresh
        return place[key]
    return place.setdefault(key, fresh)
