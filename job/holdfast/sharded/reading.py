"""Reading DCP files through memory maps: each part of a tensor is copied once, from the page cache to its place."""

import io
import mmap
import pickle
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata

from holdfast.errors import BadCheckpointError
from holdfast.sharded.leaves import Exact, exact_from
from holdfast.sharded.staged import METADATA, Layout


class Reader:
    """The DCP checkpoint in a folder. Unpickles its metadata: verify it first. Raises OSError, BadCheckpointError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.metadata: Metadata = pickle.loads((folder / METADATA).read_bytes())  # noqa: S301  (verified, and trusted as the script is)
        except (pickle.UnpicklingError, AttributeError, EOFError, ImportError) as fault:
            raise BadCheckpointError(METADATA, f"cannot be unpickled: {fault}") from fault
        ours = getattr(self.metadata, "holdfast", None)
        self._layout = Layout({}, {}, frozenset()) if ours is None else Layout(**ours)
        self._files: dict[str, torch.Tensor] = {}

    def entries(self, name: str) -> dict[str, Exact]:
        """The names of all entries below an object's name, with their exact paths."""
        paths = self.metadata.planner_data
        return {entry: self._layout.exact.get(entry) or exact_from(path) for entry, path in paths.items() if path[0] == name}

    @property
    def sharded(self) -> frozenset[str]:
        """The entries that were DTensors."""
        return self._layout.sharded

    def shape(self, entry: str) -> TensorStorageMetadata | None:
        """Size, dtype and parts of a stored tensor; None for a pickled value."""
        stored = self.metadata.state_dict_metadata[entry]
        return None if isinstance(stored, BytesStorageMetadata) else stored

    def value(self, entry: str) -> Any:
        """A pickled value."""
        return torch.load(io.BytesIO(_bytes(self._stream(MetadataIndex(entry)))), map_location="cpu", weights_only=False)

    def parts(self, targets: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What has to be copied to where, to fill `targets` (this rank's parts of them): pairs of target and mapped source.

        DCP's load planner finds the stored parts that overlap with each target.
        """
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(cast(dict[str, Any], targets), self.metadata, is_coordinator=False)
        pairs = []
        for item in planner.create_local_plan().items:
            source = self._tensor(item.storage_index)
            for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                source = source.narrow(dimension, start, length)
            pairs.append((planner.resolve_tensor(item).detach(), source))
        return pairs

    def _tensor(self, index: MetadataIndex) -> torch.Tensor:
        stream = self._stream(index)
        known = self._layout.tensors.get(index)
        if known is None:  # written by DCP itself
            return cast(torch.Tensor, torch.load(io.BytesIO(_bytes(stream)), map_location="cpu", weights_only=True))
        stored = cast(TensorStorageMetadata, self.metadata.state_dict_metadata[index.fqn])
        size = next(chunk.sizes for chunk in stored.chunks if index.offset is None or chunk.offsets == index.offset)
        head_bytes, stride = known
        dtype = stored.properties.dtype
        if not size.numel():
            return torch.empty(size, dtype=dtype)
        data = stream[head_bytes : head_bytes + size.numel() * dtype.itemsize]
        return data.view(dtype).as_strided(size, stride)

    def _stream(self, index: MetadataIndex) -> torch.Tensor:
        """The bytes of one entry, mapped."""
        place = self.metadata.storage_data[index]
        file = self._files.get(place.relative_path)
        if file is None:
            file = self._files[place.relative_path] = _map(self._folder / place.relative_path)
        if place.offset + place.length > len(file):
            raise BadCheckpointError(place.relative_path, f"ends before the entry {index.fqn}")
        return file[place.offset : place.offset + place.length]


def _bytes(mapped: torch.Tensor) -> memoryview:
    return memoryview(cast(Any, mapped.numpy()))


def _map(path: Path) -> torch.Tensor:
    """A file's bytes. Private and writable only in name: PyTorch knows no read-only tensors, and nothing writes to these."""
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        if size_bytes == 0:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_COPY), dtype=torch.uint8)
