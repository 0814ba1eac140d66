"""Bytes at rest: a file that goes when nothing refers to it any more, and slices of such files."""

import itertools
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_NUMBERS = itertools.count()


class Blob:
    """One file of the store's directory. Its name is removed with the last reference; readers that have it open read on."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"{next(_NUMBERS):08d}"
        self._remove = weakref.finalize(self, self.path.unlink, missing_ok=True)

    def corrupt(self) -> None:
        """Flip one bit in the middle of what is stored. Nothing to do where it is empty."""
        with self.path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                old = os.pread(file.fileno(), 1, size // 2)
                os.pwrite(file.fileno(), bytes([old[0] ^ 1]), size // 2)


@dataclass(frozen=True)
class Piece:
    """`length` bytes of a blob from `offset`."""

    blob: Blob
    offset: int
    length: int


def sliced(pieces: Sequence[Piece], start: int, length: int) -> Iterator[Piece]:
    """The pieces that hold `length` bytes from `start` of what `pieces` hold."""
    for piece in pieces:
        if length <= 0:
            return
        if start >= piece.length:
            start -= piece.length
            continue
        taken = min(piece.length - start, length)
        yield Piece(piece.blob, piece.offset + start, taken)
        start, length = 0, length - taken
