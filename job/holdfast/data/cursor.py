"""Where a run is in its data, and which part of a batch is a rank's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from holdfast.data.order import Order

VERSION = 2  # of the order of the samples, too: a new order is a new version


@dataclass
class Cursor:
    """An epoch, and how many samples of it all ranks together have taken.

    An epoch that has been taken to its end is not yet the next one. Raises ValueError for a batch size below 1 or an epoch without a
    batch.
    """

    order: Order
    batch_size: int
    drop_last: bool
    epoch: int = 0
    samples: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"a batch size of {self.batch_size}")
        if self._end(0) is None:
            raise ValueError(f"{self.order.size} samples are less than one batch of {self.batch_size}")

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return (self.order.size + (0 if self.drop_last else self.batch_size - 1)) // self.batch_size

    def _end(self, start: int) -> int | None:
        """Where the batch ends that begins at `start`; None where the epoch has no further batch."""
        end = min(start + self.batch_size, self.order.size)
        whole = end - start == self.batch_size
        return end if whole or (end > start and not self.drop_last) else None

    @property
    def ended(self) -> bool:
        """Whether this epoch has no batch left."""
        return self._end(self.samples) is None

    def batches(self) -> Iterator[range]:
        """The batches that are left in this epoch, as positions of the order; the cursor stays where it is."""
        first, start = self.epoch * self.order.size, self.samples
        while (end := self._end(start)) is not None:
            yield range(first + start, first + end)
            start = end

    def take(self) -> range:
        """Step over the next batch of this epoch. Raises StopIteration where there is none."""
        batch = next(self.batches())
        self.samples += len(batch)
        return batch

    def turn(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.samples = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """The position and what it means, for `load`."""
        keys = {"size": self.order.size, "seed": self.order.seed, "shuffle": self.order.shuffle}
        return {"v": VERSION, "epoch": self.epoch, "samples": self.samples, **keys}

    def load(self, state: Any) -> None:
        """Go to that position. Raises ValueError for one that is malformed, or belongs to another data set, seed or order."""
        version = state.get("v") if isinstance(state, dict) else None
        if version == 1:
            raise ValueError("this position belongs to the order of GlobalSampler's first version, which only GlobalSampler can go on with")
        if version != VERSION:
            raise ValueError(f"a data position of version {version}: this Holdfast reads version {VERSION}")
        for name, mine in (("size", self.order.size), ("seed", self.order.seed), ("shuffle", self.order.shuffle)):
            if state.get(name) != mine:
                raise ValueError(
                    f"the checkpoint's position belongs to another data set or order: {name} {state.get(name)!r}, here {mine!r}"
                )
        epoch, samples = state.get("epoch"), state.get("samples")
        if type(epoch) is not int or type(samples) is not int or epoch < 0 or not 0 <= samples <= self.order.size:
            raise ValueError(f"not a data position: epoch {epoch!r}, samples {samples!r} of {self.order.size}")
        self.epoch, self.samples = epoch, samples


def share(batch: range, rank: int, world_size: int) -> tuple[range, float]:
    """The positions of a batch that are one rank's, and their weight.

    Rank r of W takes every W-th position, from the r-th on. Where a short batch leaves a rank without any, it repeats
    another rank's, since a collective needs every rank, at weight 0. The weight makes a mean over the ranks of each
    rank's mean loss the mean over the batch; it is 1 where all shares are equal.
    """
    mine = batch[rank::world_size]
    weight = len(mine) * world_size / len(batch)
    at = rank % len(batch)
    return (mine or batch[at : at + 1]), weight
