"""Which samples a step trains on: a function of the seed and one global position, whatever the number of ranks.

The position is the loader's whole state, so a run resumes at the very sample, also with another world size or other
loader workers. Standard library only; the samples themselves are the script's business.
"""

import random
from typing import Any


class GlobalSampler:
    """Endless batches of indices into a data set of `size` samples, shuffled anew in each epoch.

    A global batch is `batch_size` consecutive positions of the epoch's order; rank r of W takes every W-th of it, from the
    r-th on. The rest of an epoch that is smaller than a batch is left out. Raises ValueError for sizes that cannot work.
    """

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        if batch_size < world_size or batch_size % world_size:
            raise ValueError(f"a global batch of {batch_size} cannot be shared evenly by {world_size} ranks")
        if size < batch_size:
            raise ValueError(f"{size} samples are less than one batch of {batch_size}")
        self._size, self._batch_size = size, batch_size
        self._rank, self._world_size, self._seed = rank, world_size, seed
        self._batches = 0
        self._order_of = -1
        self._order: list[int] = []

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self._batches // (self._size // self._batch_size)

    def __iter__(self) -> "GlobalSampler":
        return self

    def __next__(self) -> list[int]:
        per_epoch = self._size // self._batch_size
        epoch, batch = divmod(self._batches, per_epoch)
        if epoch != self._order_of:
            self._order = list(range(self._size))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)  # noqa: S311  (its own generator, no secret)
            self._order_of = epoch
        self._batches += 1
        start = batch * self._batch_size
        return self._order[start + self._rank : start + self._batch_size : self._world_size]

    def state_dict(self) -> dict[str, Any]:
        """The global position, and what it means."""
        return {"v": 1, "samples": self._batches * self._batch_size, "size": self._size, "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at that position. Raises ValueError for another data set, seed, or a position between two batches."""
        if state["size"] != self._size or state["seed"] != self._seed:
            raise ValueError("the checkpoint's position belongs to another data set or seed")
        batches, rest = divmod(int(state["samples"]), self._batch_size)
        if rest:
            raise ValueError(f"position {state['samples']} is not a multiple of the global batch size {self._batch_size}")
        self._batches = batches
