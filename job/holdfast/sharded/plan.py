"""Who writes which tensor, and where in its file it stands.

DCP's own planner decides what is stored once and how the shares balance. Before it does, what need not be equal on all ranks
although it is replicated (buffers under DDP, counters, anything that is pickled) is left to the lowest rank that has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_local_save_plan
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

from holdfast.peers import Peers, together
from holdfast.sharded.leaves import Exact, Leaf, is_tensor
from holdfast.sharded.names import local
from holdfast.sharded.streams import Frame, dense_stride, frame

ALIGNMENT_BYTES = 64
"""PyTorch's for data within a stream; streams start at multiples of it, so that data are aligned in the file and in memory."""


@dataclass(frozen=True)
class Placed:
    """A tensor (this rank's part of it) at its place in this rank's file."""

    index: MetadataIndex
    frame: Frame
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @property
    def data_offset(self) -> int:
        """Where its bytes begin in the file."""
        return self.offset + len(self.frame.head)


@dataclass(frozen=True)
class Plan:
    """What this rank writes, and what DCP has to know about all ranks' files."""

    tensors: list[Placed]
    objects: list[MetadataIndex]
    tensors_bytes: int
    all_indices: list[list[MetadataIndex]]
    metadata: Metadata
    exact: dict[str, Exact]
    sharded: frozenset[str]
    total_bytes: int


@dataclass(frozen=True)
class Offer:
    """What one rank brings: what it could write, and which of the replicated values any rank may write."""

    plan: SavePlan
    anybodys: frozenset[str]
    exact: dict[str, Exact]


def offers(leaves: list[Leaf], anybodys: Iterable[str], peers: Peers) -> list[Offer]:
    """What each rank could write; a collective. `anybodys` names the replicated tensors that are equal on all ranks.

    Raises SaveError on all ranks alike.
    """
    values = _values(leaves)
    exact = {leaf.name: leaf.exact for leaf in leaves if not leaf.plain}

    def offer() -> Offer:
        mine = create_default_local_save_plan(values, peers.place.rank == 0)
        items = sorted(mine.items, key=lambda item: -_data_bytes(item))  # the largest first: shares balance better
        return Offer(replace(mine, items=items, planner_data={leaf.name: leaf.path for leaf in leaves}), frozenset(anybodys), exact)

    return together(peers, "planning a save", offer)


def make(leaves: list[Leaf], offered: list[Offer], rank: int) -> Plan:
    """The plan that follows from all ranks' offers; no collective. Raises ValueError (DCP's planner), OSError (`streams.frame`)."""
    values = _values(leaves)
    plans, metadata = DefaultSavePlanner().create_global_plan(_lowest(offered))
    ordered = [sorted(plan.items, key=lambda item: item.type == WriteItemType.BYTE_IO) for plan in plans]
    indices = [[item.index for item in items] for items in ordered]
    own = ordered[rank]
    tensors, size_bytes = _place([item for item in own if item.type != WriteItemType.BYTE_IO], values)
    return Plan(
        tensors=tensors,
        objects=[item.index for item in own if item.type == WriteItemType.BYTE_IO],
        tensors_bytes=size_bytes,
        all_indices=indices,
        metadata=metadata,
        exact={name: path for each in offered for name, path in each.exact.items()},
        sharded=frozenset(item.index.fqn for items in ordered for item in items if item.type == WriteItemType.SHARD),
        total_bytes=sum(_data_bytes(item) for items in ordered for item in items),
    )


def _values(leaves: list[Leaf]) -> dict[str, Any]:
    return {leaf.name: leaf.value if is_tensor(leaf.value) else _Object() for leaf in leaves}


class _Object:
    """Stands for a value that is pickled: DCP's planner only asks whether it is a tensor."""


def _data_bytes(item: WriteItem) -> int:
    data = item.tensor_data
    return 0 if data is None else data.chunk.sizes.numel() * data.properties.dtype.itemsize


def _lowest(offered: list[Offer]) -> list[SavePlan]:
    """The ranks' plans, in which values that may differ between ranks are left at the lowest rank only."""
    taken: set[MetadataIndex] = set()
    plans = []
    for offer in offered:
        kept = []
        for item in offer.plan.items:
            fixed = item.type != WriteItemType.SHARD and item.index.fqn not in offer.anybodys
            if not (fixed and item.index in taken):
                kept.append(item)
                taken.add(item.index)
        plans.append(replace(offer.plan, items=kept))
    return plans


def _place(items: list[WriteItem], values: dict[str, Any]) -> tuple[list[Placed], int]:
    placed = []
    end = 0
    for item in items:
        tensor = local(values[item.index.fqn])
        stride = dense_stride(tensor)
        offset = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        around = frame(tensor.dtype, tensor.size(), stride)
        placed.append(Placed(item.index, around, tensor.dtype, tensor.size(), stride, offset))
        end = offset + around.size_bytes
    return placed, end
