"""Memory that saves copy into: mapped once, touched ahead, used again.

The first touch of a page costs far more than copying it (measured: 2.4 s per GiB against 0.09 s), which is what makes other
libraries' first saves slow.
"""

import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from holdfast.sharded.plan import Placed, Plan

TOUCH_BYTES = 16 * 1024 * 1024
PIECE_BYTES = 32 * 1024 * 1024
MAX_THREADS = 4


class Buffer:
    """Memory for one rank's share. A forked child (a data loader's worker) does not inherit it: it would make every page be copied."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = max(capacity_bytes, mmap.PAGESIZE)
        self._mapping = mmap.mmap(-1, self.capacity_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
        for advice in ("MADV_HUGEPAGE", "MADV_DONTFORK"):
            if hasattr(mmap, advice):
                self._advise(getattr(mmap, advice))
        self._bytes = torch.frombuffer(self._mapping, dtype=torch.uint8)
        self._plan: Plan | None = None
        self._pinned_bytes = 0
        self._touched_bytes = 0
        self._lock = threading.Lock()
        self._taken = False
        self.views: list[torch.Tensor] = []

    def _advise(self, advice: int) -> None:
        try:
            self._mapping.madvise(advice)
        except OSError:
            return  # a kernel without it: slower, not wrong

    def touch(self, size_bytes: int) -> None:
        """Have the first `size_bytes` ready before they are needed. Stops as soon as `take` is called by another thread."""
        while True:
            with self._lock:
                if self._taken or self._touched_bytes >= min(size_bytes, self.capacity_bytes):
                    return
                end = min(self._touched_bytes + TOUCH_BYTES, self.capacity_bytes)
                self._bytes[self._touched_bytes : end].zero_()
                self._touched_bytes = end

    def take(self) -> None:
        """Nothing is touched from now on."""
        self._taken = True
        with self._lock:
            pass

    def lay_out(self, plan: Plan) -> None:
        """Write all but the data of the file's tensors, unless that is there already."""
        if plan is self._plan:
            return
        self._plan = None
        end = 0
        self.views = []
        with memoryview(self._mapping) as memory:
            for tensor in plan.tensors:
                memory[end : tensor.data_offset] = bytes(tensor.offset - end) + tensor.frame.head
                data_end = tensor.data_offset + tensor.frame.data_bytes
                end = tensor.offset + tensor.frame.size_bytes
                memory[data_end:end] = tensor.frame.tail
                self.views.append(self._view(tensor))
        self._plan = plan

    def _view(self, tensor: Placed) -> torch.Tensor:
        if tensor.frame.data_bytes == 0:
            return torch.empty_strided(tensor.size, tensor.stride, dtype=tensor.dtype)
        data = self._bytes[tensor.data_offset : tensor.data_offset + tensor.frame.data_bytes]
        return data.view(tensor.dtype).as_strided(tensor.size, tensor.stride)

    def pin(self, size_bytes: int) -> None:
        """Let GPUs copy into the first `size_bytes` directly. Where that cannot be had, copies are slower."""
        if self._pinned_bytes >= size_bytes:
            return
        self.unpin()
        if int(_cudart().cudaHostRegister(self._bytes.data_ptr(), size_bytes, 0)) == 0:
            self._pinned_bytes = size_bytes

    def unpin(self) -> None:
        """The opposite, before the memory goes."""
        if self._pinned_bytes:
            _cudart().cudaHostUnregister(self._bytes.data_ptr())
            self._pinned_bytes = 0

    def content(self, size_bytes: int) -> memoryview:
        """The file's first bytes."""
        return memoryview(self._mapping)[:size_bytes]


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


class Copier:
    """Copies many tensors at once, with as many threads as PyTorch leaves free; they sleep between saves."""

    def __init__(self) -> None:
        free = len(os.sched_getaffinity(0)) // max(1, torch.get_num_threads())
        self._threads = max(1, min(MAX_THREADS, free))
        self._pool = ThreadPoolExecutor(self._threads, "holdfast-copy") if self._threads > 1 else None

    def copy(self, targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
        """Copy each source into the target at its place in the list; targets are in memory. Returns when all is there."""
        pairs = list(zip(targets, sources, strict=True))
        streams = [_start(device, pairs) for device in {source.device for source in sources} if device.type == "cuda"]
        others = [pair for pair in pairs if pair[1].device.type != "cuda"]
        if self._pool is None or sum(source.nbytes for _, source in others) < PIECE_BYTES:
            _copy_all(others)
        else:
            list(self._pool.map(_copy_all, self._shares(others)))
        for stream in streams:
            stream.synchronize()

    def _shares(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """The pairs, large ones in pieces, dealt out so that each thread gets about as many bytes."""
        pieces = [piece for pair in pairs for piece in _pieces(*pair)]
        shares: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(self._threads)]
        filled = [0] * self._threads
        for piece in sorted(pieces, key=lambda pair: -pair[1].nbytes):
            least = filled.index(min(filled))
            shares[least].append(piece)
            filled[least] += piece[1].nbytes
        return shares


def _pieces(target: torch.Tensor, source: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    whole = source.nbytes <= PIECE_BYTES or target.stride() != source.stride()
    if whole or any(tensor.is_conj() or tensor.is_neg() for tensor in (target, source)):  # lazy: their bits are not their values
        return [(target, source)]
    count = -(-source.nbytes // PIECE_BYTES)
    flat = [tensor.as_strided((tensor.numel(),), (1,)).chunk(count) for tensor in (target, source)]  # the target has no gaps
    return list(zip(*flat, strict=True))


def _copy_all(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)


def _start(device: torch.device, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.cuda.Stream:
    """Start copying from one GPU, on a stream of its own after what is queued there."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream), torch.no_grad():
        for target, source in pairs:
            if source.device == device:
                target.copy_(source, non_blocking=True)
    return stream
