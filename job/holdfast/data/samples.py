"""The user's data set as the workers see it: asked by position, each sample with random numbers of its own."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.data.order import Order
from holdfast.process import module


def seed_generators(seed: int, epoch: int, index: int) -> None:
    """Seed Python's, NumPy's and PyTorch's CPU generators for one sample: a function of these three numbers.

    PyTorch's own `manual_seed` would also seed the GPUs, and takes a tenth of a millisecond.
    """
    digest = hashlib.blake2b(b"%d/%d/%d" % (seed, epoch, index), digest_size=24).digest()
    random.seed(int.from_bytes(digest[:12], "little"))
    numpy, torch = module("numpy"), module("torch")
    if numpy is not None:  # other bits than PyTorch's, whose generator is the same one
        numpy.random.seed(int.from_bytes(digest[12:16], "little"))
    if torch is not None:
        torch.default_generator.manual_seed(int.from_bytes(digest[16:], "little"))


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Put Python's, NumPy's and PyTorch's CPU generators back afterwards."""
    numpy, torch = module("numpy"), module("torch")
    python_state = random.getstate()
    numpy_state = None if numpy is None else numpy.random.get_state()
    torch_state = None if torch is None else torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy_state is not None and numpy is not None:
            numpy.random.set_state(numpy_state)
        if torch_state is not None and torch is not None:
            torch.default_generator.set_state(torch_state)


class Samples:
    """What a DataLoader gets as its data set. Attributes are the user's data set's, to read and to set.

    The order is looked up here, in the workers, and not in the training process.
    """

    __slots__ = ("__dataset", "__order", "__seeded", "__weakref__")

    def __init__(self, dataset: Any, order: Order, seeded: bool) -> None:
        object.__setattr__(self, "_Samples__dataset", dataset)
        object.__setattr__(self, "_Samples__order", order)
        object.__setattr__(self, "_Samples__seeded", seeded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dataset, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.__dataset, self.__order, self.__seeded)

    def __len__(self) -> int:
        return len(self.__dataset)

    def __getitem__(self, position: int) -> Any:
        epoch, index = self.__order.sample(position)
        if self.__seeded:
            seed_generators(self.__order.seed, epoch, index)
        return self.__dataset[index]

    def __getitems__(self, positions: Iterable[int]) -> Any:
        """A batch. By the data set's own `__getitems__` if it has one, unless each sample is to be seeded."""
        fetch = getattr(self.__dataset, "__getitems__", None)
        if self.__seeded or not fetch:
            return [self[position] for position in positions]
        return fetch([self.__order.sample(position)[1] for position in positions])
