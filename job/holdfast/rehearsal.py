"""Ranks as threads of one process: a fake of torch.distributed, for tests of what ranks decide together."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from holdfast.peers import Peers
from holdfast.process import Place

T = TypeVar("T")


class _Lines:
    """The barriers and boards of all lines between the ranks, made as they are asked for."""

    def __init__(self, world_size: int, timeout_s: float) -> None:
        self._world_size = world_size
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._made: dict[int, tuple[threading.Barrier, list[Any]]] = {}

    def line(self, number: int) -> tuple[threading.Barrier, list[Any]]:
        """The line of that number, the same for all ranks. Line 0 notices a rank that hangs."""
        with self._lock:
            timeout_s = self._timeout_s if number == 0 else None
            made = threading.Barrier(self._world_size, timeout=timeout_s), [None] * self._world_size
            return self._made.setdefault(number, made)

    def abort(self) -> None:
        """A rank has died: nobody waits for it."""
        with self._lock:
            for barrier, _ in self._made.values():
                barrier.abort()


class _Thread:
    """A rank's view of the others: a barrier and a board that all write to."""

    def __init__(self, place: Place, lines: "_Lines", number: int = 0) -> None:
        self.place = place
        self._lines = lines
        self._barrier, self._board = lines.line(number)
        self._others = 0

    def highest(self, values: list[int]) -> list[int]:
        """The maximum for each position."""
        return [max(column) for column in zip(*self.gather(values), strict=True)]

    def gather(self, value: T) -> list[T]:
        """Every rank's value; raises threading.BrokenBarrierError once a rank has died."""
        self._board[self.place.rank] = value
        self._barrier.wait()
        values = list(self._board)
        self._barrier.wait()
        return values

    def another(self) -> "_Thread":
        """The next line; each rank's n-th is the same. (Asked for of the first line only.)"""
        self._others += 1
        return _Thread(self.place, self._lines, self._others)


def rehearse(world_size: int, act: Callable[[Peers], T], timeout_s: float = 5.0) -> list[T]:
    """Run `act` as every rank at once; what each returned. Raises the first exception; a rank that hangs breaks all."""
    lines = _Lines(world_size, timeout_s)
    results: list[Any] = [None] * world_size
    faults: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = act(_Thread(Place(rank, world_size), lines))
        except BaseException as fault:
            faults.append(fault)
            lines.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return results
