"""What `torch.save` puts around the bytes of a tensor.

The frame depends on dtype, shape and strides only. It is made once, by torch.save itself with the data left out, and the data are
copied straight to their place in it. So nothing is pickled or copied twice at a save; the CRC-32 in the frame, which PyTorch
never checks, is that of no data (a whole file's hash is in the manifest).
"""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, cast

import torch
from torch.serialization import skip_data


@dataclass(frozen=True)
class Frame:
    """The bytes before and after the data of one saved tensor."""

    head: bytes
    tail: bytes
    data_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of the whole stream."""
        return len(self.head) + self.data_bytes + len(self.tail)


class _Sink:
    """A file that takes all but the data, which torch.save skips by seeking."""

    def __init__(self) -> None:
        self.before, self.after = bytearray(), bytearray()
        self.skipped_bytes: int | None = None

    def write(self, data: bytes) -> int:
        target = self.before if self.skipped_bytes is None else self.after
        target += data
        return len(data)

    def seek(self, count: int, whence: int = io.SEEK_SET) -> None:
        if whence != io.SEEK_CUR or self.skipped_bytes is not None:
            raise OSError("torch.save skips more than the data of one tensor")
        self.skipped_bytes = count

    def flush(self) -> None:
        """Nothing is held back."""


@lru_cache(maxsize=4096)
def frame(dtype: torch.dtype, size: torch.Size, stride: tuple[int, ...]) -> Frame:
    """The frame of a dense tensor with all its bytes."""
    tensor = torch.empty_strided(size, stride, dtype=dtype)  # virtual memory only: never touched
    sink = _Sink()
    with skip_data():
        torch.save(tensor, cast(IO[bytes], sink))
    if (sink.skipped_bytes or 0) != tensor.untyped_storage().nbytes():
        raise OSError(f"torch.save of PyTorch {torch.__version__} does not leave out the data of a tensor as expected")
    return Frame(bytes(sink.before), bytes(sink.after), sink.skipped_bytes or 0)


def dense_stride(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides of a copy without gaps that keeps the order of dimensions, so that copying is one sweep."""
    return tuple(torch.empty_like(tensor, device="meta").stride())
