"""A PyTorch DataLoader that knows its place in the data."""

import hashlib
import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from holdfast import process
from holdfast.data.cursor import Cursor, share
from holdfast.data.order import Order
from holdfast.data.samples import Samples, untouched_generators
from holdfast.errors import HoldfastError
from holdfast.process import Place

_OURS = {"sampler": "shuffle= and seed=", "batch_sampler": "batch_size=, shuffle= and seed=", "generator": "seed="}


class Loader:
    """Batches of a map-style `dataset`, from a position that a checkpoint holds and any number of ranks can go on from.

    `batch_size` is that of a step, all ranks together: each gets its share. The order follows from `seed` and the epoch. Further keywords
    are DataLoader's (`num_workers`, `collate_fn`, `pin_memory`, `persistent_workers`, …).

    `for batch in loader` gives what is left of the epoch; `loader.endless()` goes on through the epochs. The position is the
    loader's, and counts batches that were handed out, not those that workers have fetched ahead: leave a loop early and the
    next one goes on there. An iterator that was made before `load_state_dict` follows to the loaded position.

    What is left of an epoch that is smaller than a batch is left out, or with `drop_last=False` is a short batch. A batch that the
    ranks cannot share evenly gives some of them a sample less than others: multiply the loss by `loader.weight`.

    With `seed_samples`, Python's, NumPy's and PyTorch's CPU generators are seeded for each sample by seed, epoch and
    index, so that random augmentations come out alike with any workers and ranks (about 15 us a sample; a `__getitems__`
    of the data set is not used then). Rank and world size are those of torch.distributed, else of the launcher's
    environment, when the first batch is asked for.

    Raises TypeError and ValueError for arguments that cannot work.
    """

    world_size_free = True

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = True,
        seed_samples: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        torch_data = importlib.import_module("torch.utils.data")
        if isinstance(dataset, torch_data.IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(
                f"{type(dataset).__name__} has no length and no samples by index, so it has no global position; give Run a loader with its"
                " own state_dict instead, such as torchdata's StatefulDataLoader (it resumes on the same number of ranks only)"
            )
        for name in _OURS.keys() & options.keys():
            raise TypeError(f"Loader makes its own {name}: use {_OURS[name]}")
        if not options.get("in_order", True):
            raise ValueError("in_order=False gives batches in an order that no position can name")
        if (rank is None) != (world_size is None):
            raise ValueError("give both rank and world_size, or neither")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self._given = None if rank is None or world_size is None else Place(rank, world_size)
        self._cursor = Cursor(Order(len(dataset), int(seed), bool(shuffle)), batch_size, drop_last)
        self._shares = _Shares(self._cursor)
        self._generator = importlib.import_module("torch").Generator()
        samples = Samples(dataset, self._cursor.order, seed_samples)
        self._loader = torch_data.DataLoader(samples, batch_sampler=self._shares, generator=self._generator, **options)
        self._guard = untouched_generators if seed_samples and self._loader.num_workers == 0 else nullcontext
        self._fetching: Any = None
        self._jumps = 0
        self._weight = 1.0

    @property
    def epoch(self) -> int:
        """The epoch in hand, from 0: of the batch that was handed out last, until its loop ends or another begins; after
        `load_state_dict`, of the next one. A run that was saved after the last batch of an epoch resumes in the next epoch: what a
        script does at an epoch's end is not the loader's to repeat.
        """
        return self._cursor.epoch

    @property
    def samples(self) -> int:
        """Samples of this epoch that all ranks together have been given."""
        return self._cursor.samples

    @property
    def weight(self) -> float:
        """What this rank's mean loss over the last batch must be multiplied by, for the mean over the ranks (as of
        DistributedDataParallel's gradients) to be the mean over the batch; 1.0 where all ranks have equal shares.
        """
        return self._weight

    def __len__(self) -> int:
        """Batches of a whole epoch, on each rank."""
        return len(self._cursor)

    def __iter__(self) -> Iterator[Any]:
        return _Batches(self, endless=False)

    def endless(self) -> Iterator[Any]:
        """Batches without end, epoch after epoch, from the position on."""
        return _Batches(self, endless=True)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; nothing if it is the epoch in hand, which may have been resumed half-way."""
        if epoch != self._cursor.epoch:
            self._jump({**self._cursor.state(), "epoch": epoch, "samples": 0})

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was handed out, alike on all ranks, and what it means."""
        return self._cursor.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at that position, also in loops that have begun. The batch size may differ from the one it was saved with.

        Raises ValueError for another data set size, seed or shuffle, and for what is not a position.
        """
        self._jump(state)

    def _jump(self, state: dict[str, Any]) -> None:
        self._cursor.load(state)
        if self._cursor.ended:
            self._cursor.turn()  # frameworks that count batches begin the next epoch here, and would take an empty loop for it
        self._fetching = None
        self._jumps += 1

    def _next(self) -> Any:
        """The next batch of this epoch, which has one. After an error the same batch comes again."""
        try:
            with self._guard():
                if self._fetching is None:
                    self._fetching = self._start()
                batch = next(self._fetching)
        except BaseException as fault:
            self._stop()
            if isinstance(fault, StopIteration):  # it would end the loop as if the epoch had ended
                raise RuntimeError("the data set raised StopIteration for a sample") from fault
            raise
        _, self._weight = share(self._cursor.take(), *self._shares.place)
        return batch

    def _stop(self) -> None:
        """End the workers now: the error's traceback keeps their iterator, and what the garbage collector ends waits 5 s for each."""
        stop = getattr(self._fetching, "_shutdown_workers", None)
        self._fetching = None
        if stop is not None:
            stop()
            self._loader._iterator = None  # persistent workers are not asked again

    def _turn(self) -> None:
        self._cursor.turn()
        self._fetching = None

    def _start(self) -> Iterator[Any]:
        """Have the workers fetch from the position on."""
        place = self._given or process.place(os.environ)
        self._shares.settle(place)
        start = f"{self._cursor.order.seed}/{self._cursor.epoch}/{self._cursor.samples}/{place.rank}"
        self._generator.manual_seed(int.from_bytes(hashlib.blake2b(start.encode(), digest_size=8).digest(), "little"))
        fetching: Iterator[Any] = iter(self._loader)
        return fetching


class _Shares:
    """The DataLoader's batch sampler: what is left of the epoch, as this rank's positions."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._place: Place | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Rank and world size."""
        assert self._place is not None
        return self._place.rank, self._place.world_size

    def settle(self, place: Place) -> None:
        """Take this rank's part. Raises HoldfastError if it was another one before, or the batch is too small for the ranks."""
        if self._place == place:
            return
        if self._place is not None:
            raise HoldfastError(
                f"this loader gave rank {self._place.rank} of {self._place.world_size} its batches, and now is on rank"
                f" {place.rank} of {place.world_size}: initialise torch.distributed before the first batch"
            )
        if self._cursor.batch_size < place.world_size:
            raise HoldfastError(f"a global batch of {self._cursor.batch_size} has no sample for each of {place.world_size} ranks")
        if self._cursor.batch_size % place.world_size:
            warnings.warn(
                f"a global batch of {self._cursor.batch_size} cannot be shared evenly by {place.world_size} ranks: multiply the"
                " loss by loader.weight, or the samples of smaller shares count for more",
                stacklevel=5,
            )
        self._place = place

    def __iter__(self) -> Iterator[range]:
        for batch in self._cursor.batches():
            yield share(batch, *self.place)[0]

    def __len__(self) -> int:
        return len(self._cursor)


class _Batches(Iterator[Any]):
    """A loop over a Loader; it holds nothing but when to end."""

    def __init__(self, loader: Loader, endless: bool) -> None:
        self._loader, self._endless = loader, endless
        self._ended = False
        self._jumps = self._epoch = -1

    def __next__(self) -> Any:
        loader = self._loader
        if self._ended:
            raise StopIteration
        if loader._jumps != self._jumps:  # at the first batch, and after a load
            if loader._cursor.ended:
                loader._turn()  # the loop before this one counted the batches, and did not ask for one more
            self._jumps, self._epoch = loader._jumps, loader._cursor.epoch
        if loader._cursor.ended:
            loader._turn()
        if loader._cursor.epoch != self._epoch and not self._endless:
            self._ended = True
            raise StopIteration
        return loader._next()
