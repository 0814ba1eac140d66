"""What a save has staged, and how it becomes this rank's file and DCP's `.metadata`."""

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import StorageMeta

from holdfast.sharded.buffers import Buffer
from holdfast.sharded.plan import Plan

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
    """One rank's file: name, size, hash, and the places of its entries in the order of the plan."""

    name: str
    size_bytes: int
    digest: str
    places: list[Place]


@dataclass
class Layout:
    """Our own addition to DCP's metadata, which other readers pass over: what makes reading quick and exact."""

    tensors: dict[Any, tuple[int, tuple[int, ...]]]
    exact: dict[str, Any]
    sharded: frozenset[str]


class Staged:
    """One rank's share of a save, as it was when it was staged."""

    def __init__(self, plan: Plan, rank: int, buffer: Buffer, objects: list[Any], give_back: Callable[[Buffer], None]) -> None:
        self._plan = plan
        self._rank = rank
        self._buffer: Buffer | None = buffer
        self._objects = [copy.deepcopy(value) for value in objects]
        self._give_back = give_back

    @property
    def size_bytes(self) -> int:
        """Size of the staged tensors."""
        return self._plan.tensors_bytes

    def write(self, create: Create) -> Written:
        """Write this rank's file; for a background thread, no collective. What `create` and the file raise passes through."""
        if self._buffer is None:
            raise RuntimeError("this share was released")
        places = [Place(t.offset, t.frame.size_bytes, len(t.frame.head), t.stride) for t in self._plan.tensors]
        name = f"__{self._rank}_0.distcp"
        with create(name) as file:
            with self._buffer.content(self._plan.tensors_bytes) as content:
                for start in range(0, len(content), SLICE_BYTES):
                    file.write(content[start : start + SLICE_BYTES])
            end = self._plan.tensors_bytes
            for value in self._objects:
                stream = io.BytesIO()
                torch.save(value, stream)
                length = file.write(stream.getvalue())
                places.append(Place(end, length, None, ()))
                end += length
        return Written(name, file.size_bytes, file.digest, places)

    def metadata(self, all_written: list[Written]) -> bytes:
        """The content of `.metadata`, from what every rank wrote, by rank. For rank 0."""
        storage = {}
        tensors = {}
        for indices, written in zip(self._plan.all_indices, all_written, strict=True):
            for index, place in zip(indices, written.places, strict=True):
                storage[index] = _StorageInfo(written.name, place.offset, place.length)
                if place.head_bytes is not None:
                    tensors[index] = (place.head_bytes, place.stride)
        metadata = copy.copy(self._plan.metadata)
        metadata.storage_data = storage
        metadata.storage_meta = StorageMeta()
        metadata.version = DCP_VERSION
        metadata.holdfast = Layout(tensors, self._plan.exact, self._plan.sharded)  # type: ignore[attr-defined]
        return pickle.dumps(metadata)

    def release(self) -> None:
        """The buffer may be used for another save. Nothing happens the second time."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._give_back(buffer)
