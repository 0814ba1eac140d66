"""Which samples a step trains on: a function of the seed and one global position, whatever the number of ranks.

The position is the loader's whole state, so a run resumes at the very sample, also with another world size or other
loader workers. Standard library only; the samples themselves are the script's business.
"""

import random
from typing import Any

from holdfast.data.cursor import Cursor, share
from holdfast.data.order import Order


class GlobalSampler:
    """Endless batches of indices into a data set of `size` samples, shuffled anew in each epoch.

    A global batch is `batch_size` consecutive positions of the epoch's order; rank r of W takes every W-th of it, from the
    r-th on. The rest of an epoch that is smaller than a batch is left out. Raises ValueError for sizes that cannot work.
    """

    world_size_free = True

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        if batch_size < world_size or batch_size % world_size:
            raise ValueError(f"a global batch of {batch_size} cannot be shared evenly by {world_size} ranks")
        self._cursor = Cursor(Order(size, seed, True), batch_size, drop_last=True)
        self._rank, self._world_size = rank, world_size
        self._first_order: _FirstOrder | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self._cursor.epoch + self._cursor.ended

    def __iter__(self) -> "GlobalSampler":
        return self

    def __next__(self) -> list[int]:
        if self._cursor.ended:
            self._cursor.turn()
        order = self._first_order or self._cursor.order
        mine, _ = share(self._cursor.take(), self._rank, self._world_size)
        return [order.sample(position)[1] for position in mine]

    def state_dict(self) -> dict[str, Any]:
        """The global position, and what it means."""
        if self._first_order is not None:
            return self._first_order.state(self._cursor)
        return self._cursor.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at that position. Raises ValueError for another data set, seed, or a position that cannot be one.

        A checkpoint of Holdfast's first order (`"v": 1`) goes on in that order.
        """
        if state.get("v") == 1:
            self._first_order = _FirstOrder.of(state, self._cursor)
        else:
            self._cursor.load(state)
            self._first_order = None


class _FirstOrder:
    """The order of checkpoints of version 1: each epoch a shuffled list. Their one number counts the samples of whole batches."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._epoch = -1
        self._list: list[int] = []

    @classmethod
    def of(cls, state: dict[str, Any], cursor: Cursor) -> "_FirstOrder":
        """Of a state, with the cursor moved there."""
        if state["size"] != cursor.order.size or state["seed"] != cursor.order.seed:
            raise ValueError("the checkpoint's position belongs to another data set or seed")
        batches, rest = divmod(int(state["samples"]), cursor.batch_size)
        if rest:
            raise ValueError(f"position {state['samples']} is not a multiple of the global batch size {cursor.batch_size}")
        cursor.epoch, done = divmod(batches, len(cursor))
        cursor.samples = done * cursor.batch_size
        return cls(cursor.order.size, cursor.order.seed)

    def state(self, cursor: Cursor) -> dict[str, Any]:
        samples = cursor.epoch * len(cursor) * cursor.batch_size + cursor.samples
        return {"v": 1, "samples": samples, "size": self._size, "seed": self._seed}

    def sample(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self._size)
        if epoch != self._epoch:
            self._list = list(range(self._size))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._list)  # noqa: S311  (its own generator, no secret)
            self._epoch = epoch
        return epoch, self._list[place]
