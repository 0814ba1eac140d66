"""The order of the samples: a function of the seed, the epoch and the position, computed anew for each position.

A list of a shuffled order takes 40 bytes a sample and 0.8 s a million; torch.randperm 8 bytes, in each process, and its order
is promised for one version of PyTorch only. A keyed permutation needs no memory and begins anywhere at once, for about
2.5 us a sample, which `Loader` spends in its workers.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

_WORD = (1 << 64) - 1
_ROUNDS = 8
_SMALL, _ROUNDS_OF_SMALL = 1000, 24  # few samples leave few bits to each round: 8 rounds would prefer some orders


def permutation(size: int, key: str) -> Callable[[int], int]:
    """A bijection of range(size) that looks random, and is another one for each key.

    A position is a cell of a rectangle of about `size` cells. A round shifts its row by a hash of its column, or its column
    by a hash of its row (a generalised Feistel network: Black and Rogaway, 2002). From the few cells beyond
    `size`, it goes on until it is back inside.
    """
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    count = _ROUNDS_OF_SMALL if size < _SMALL else _ROUNDS
    digest = hashlib.shake_256(key.encode()).digest(8 * count)
    words = [int.from_bytes(digest[at : at + 8], "little") for at in range(0, len(digest), 8)]
    pairs = list(zip(words[::2], words[1::2], strict=True))

    def at(position: int) -> int:
        while True:
            row, column = divmod(position, columns)
            for one, other in pairs:
                mixed = ((column + one) * 0x9E3779B97F4A7C15) & _WORD
                mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _WORD
                row = (row + (mixed >> 32)) % rows
                mixed = ((row + other) * 0x9E3779B97F4A7C15) & _WORD
                mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _WORD
                column = (column + (mixed >> 32)) % columns
            position = row * columns + column
            if position < size:
                return position

    return at


_permutation = lru_cache(maxsize=16)(permutation)


@dataclass(frozen=True)
class Order:
    """The samples of all epochs in a row: epoch e is the positions from e * size on. Raises ValueError for a size below 1."""

    size: int
    seed: int
    shuffle: bool

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("the data set is empty")

    def sample(self, position: int) -> tuple[int, int]:
        """The epoch, and the index into the data set, of a position."""
        epoch, place = divmod(position, self.size)
        return epoch, _permutation(self.size, f"holdfast order 2/{self.seed}/{epoch}")(place) if self.shuffle else place
