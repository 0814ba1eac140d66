"""Slurm's node lists (`gpu-[1-3,007],login`), expanded and folded by ClusterShell, within bounds and in Slurm's own grammar only.

ClusterShell alone would also take node groups (`@all`, read from files and programs of the host), set operators and steps, and would
expand `n[1-999999999]` until memory ends. Names come back in ClusterShell's order (by name, then by number), each once.
"""

import re
from collections.abc import Iterable

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

from holdfast_common.errors import InputError

MAX_CHARS = 65_536
MAX_NODES = 65_536
"""Slurm's own bound of one hostlist range (MAX_RANGE, 64 Ki)."""

_RANGE = r"\d{1,9}(?:-\d{1,9})?"
_BRACKET = re.compile(rf"\[({_RANGE}(?:,{_RANGE})*)\]")
_ITEM = re.compile(rf"(?:[A-Za-z0-9_.\-]|\[{_RANGE}(?:,{_RANGE})*\])+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")


def expand(text: str, limit: int = MAX_NODES) -> tuple[str, ...]:
    """Return the names in a node list, none for an empty one. Raises InputError if it is malformed or names more than `limit` nodes."""
    if not text:
        return ()
    if len(text) > MAX_CHARS:
        raise InputError(f"a node list of {len(text)} characters is too long (at most {MAX_CHARS})")
    count, at = 0, 0
    while at <= len(text):
        item = _ITEM.match(text, at)
        if item is None or text[item.end() : item.end() + 1] not in {"", ","}:
            raise InputError(f"not a node list: {text[at : at + 80]!r}")
        count += _count(item.group())
        if count > limit:
            raise InputError(f"the node list {text[:80]!r} names more than {limit} nodes")
        at = item.end() + 1
    try:
        names = tuple(NodeSet(text, resolver=RESOLVER_NOGROUP))
    except NodeSetException as error:
        raise InputError(f"not a node list: {error}") from error
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"not a node name: {name[:80]!r}")
    return names


def fold(names: Iterable[str]) -> str:
    """Return the names as one short node list for a Slurm command. Raises InputError for what is no node name."""
    plain = list(names)
    for name in plain:
        if not _NAME.fullmatch(name):
            raise InputError(f"not a node name: {name[:80]!r}")
    nodes = NodeSet.fromlist(plain, resolver=RESOLVER_NOGROUP)
    nodes.fold_axis = (-1,)  # Slurm folds the last number only, and takes nothing behind a bracket (`n[1-2]x`: "Invalid hostlist")
    folded = str(nodes)
    return ",".join(nodes) if re.search(r"\][^,]", folded) else folded


def _count(item: str) -> int:
    """Return how many names an item stands for; raises InputError for a range that runs backwards."""
    count = 1
    for ranges in _BRACKET.findall(item):
        size = 0
        for low, _, high in (part.partition("-") for part in ranges.split(",")):
            size += int(high or low) - int(low) + 1
            if high and int(high) < int(low):
                raise InputError(f"not a node list: the range {low}-{high} runs backwards")
        count *= size
    return count
