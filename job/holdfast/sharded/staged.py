"""What a save has staged, and how it becomes this rank's file and DCP's `.metadata`."""

import copy
import io
import pickle
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex, StorageMeta

from holdfast.sharded.buffers import Buffer
from holdfast.sharded.plan import ALIGNMENT_BYTES, Plan

METADATA = ".metadata"
DCP_VERSION = "1.0.0"
SLICE_BYTES = 8 * 1024 * 1024
"""Small enough for the second look at it (hashed, then written) to find it in the processor's cache."""


class File(Protocol):
    """What `holdfast.writer.HashingWriter` is."""

    size_bytes: int
    digest: str

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Take in more bytes."""


Create = Callable[[str], AbstractContextManager[File]]


@dataclass(frozen=True)
class Place:
    """Where one entry stands in a file; of a tensor also where its bytes begin in the entry, and their strides."""

    offset: int
    length: int
    head_bytes: int | None
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """One rank's file: name, size, hash, and the places of its entries in the order of the plan (None: left out)."""

    name: str
    size_bytes: int
    digest: str
    places: list[Place | None]


@dataclass
class Layout:
    """Our own addition to DCP's metadata, which other readers pass over: what makes reading quick and exact.

    It is stored as a dict, so that the metadata can be unpickled where this package is not installed.
    """

    tensors: dict[Any, tuple[int, tuple[int, ...]]]
    exact: dict[str, Any]
    sharded: frozenset[str]


class Staged:
    """One rank's share of a save, as it was when it was staged."""

    def __init__(self, plan: Plan, rank: int, buffer: Buffer, objects: list[Any], give_back: Callable[[Buffer], None]) -> None:
        self._plan = plan
        self._rank = rank
        self._buffer: Buffer | None = buffer
        self._objects = objects
        self._give_back = give_back

    @property
    def size_bytes(self) -> int:
        """Size of the staged tensors."""
        return self._plan.tensors_bytes

    def write(self, create: Create, parts: Collection[str] | None = None) -> Written:
        """Write this rank's file, of the objects `parts` only if given; for a background thread, no collective.

        What `create` and the file raise passes through.
        """
        if self._buffer is None:
            raise RuntimeError("this share was released")
        places: list[Place | None] = []
        name = f"__{self._rank}_0.distcp"
        with create(name) as file:
            with self._buffer.content(self._plan.tensors_bytes) as content:
                end = self._write_tensors(file, content, parts, places)
            for index, value in zip(self._plan.objects, self._objects, strict=True):
                if not _in(index, parts):
                    places.append(None)
                    continue
                stream = io.BytesIO()
                torch.save(value, stream)
                length = file.write(stream.getvalue())
                places.append(Place(end, length, None, ()))
                end += length
        return Written(name, file.size_bytes, file.digest, places)

    def _write_tensors(self, file: File, content: memoryview, parts: Collection[str] | None, places: list[Place | None]) -> int:
        """Write the tensors and note their places; where the file ends then. What is left out leaves no gap."""
        end = 0
        for tensor in self._plan.tensors:
            if not _in(tensor.index, parts):
                places.append(None)
                continue
            start = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            if parts is not None:
                _write_slices(file, bytes(start - end))
                _write_slices(file, content[tensor.offset : tensor.offset + tensor.frame.size_bytes])
            places.append(Place(start, tensor.frame.size_bytes, len(tensor.frame.head), tensor.stride))
            end = start + tensor.frame.size_bytes
        if parts is None:
            _write_slices(file, content)
        return end

    def metadata(self, all_written: list[Written], parts: Collection[str] | None = None) -> bytes:
        """The content of `.metadata`, from what every rank wrote (of `parts`, as `write` was told), by rank. For rank 0."""
        storage = {}
        tensors = {}
        for indices, written in zip(self._plan.all_indices, all_written, strict=True):
            for index, place in zip(indices, written.places, strict=True):
                if place is None:
                    continue
                storage[index] = _StorageInfo(written.name, place.offset, place.length)
                if place.head_bytes is not None:
                    tensors[index] = (place.head_bytes, place.stride)
        metadata = copy.copy(self._plan.metadata)
        names = {index.fqn for index in storage}
        metadata.state_dict_metadata = {name: value for name, value in metadata.state_dict_metadata.items() if name in names}
        metadata.planner_data = {name: value for name, value in metadata.planner_data.items() if name in names}
        metadata.storage_data = storage
        metadata.storage_meta = StorageMeta()
        metadata.version = DCP_VERSION
        metadata.holdfast = vars(Layout(tensors, self._plan.exact, self._plan.sharded))  # type: ignore[attr-defined]
        return pickle.dumps(metadata)

    def release(self) -> None:
        """The buffer may be used for another save. Nothing happens the second time."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._give_back(buffer)


def _in(index: MetadataIndex, parts: Collection[str] | None) -> bool:
    return parts is None or index.fqn.partition(".")[0] in parts


def _write_slices(file: File, data: memoryview | bytes) -> None:
    for start in range(0, len(data), SLICE_BYTES):
        file.write(data[start : start + SLICE_BYTES])
