"""Ranks as threads of one process: a fake of torch.distributed, for tests of what ranks decide together."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from holdfast.peers import Peers
from holdfast.process import Place

T = TypeVar("T")


class _Thread:
    """A rank's view of the others: a barrier and a board that all write to."""

    def __init__(self, place: Place, barrier: threading.Barrier, board: list[Any]) -> None:
        self.place = place
        self._barrier = barrier
        self._board = board

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


def rehearse(world_size: int, act: Callable[[Peers], T], timeout_s: float = 5.0) -> list[T]:
    """Run `act` as every rank at once; what each returned. Raises the first exception; a rank that hangs breaks all."""
    barrier = threading.Barrier(world_size, timeout=timeout_s)
    board: list[Any] = [None] * world_size
    results: list[Any] = [None] * world_size
    faults: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = act(_Thread(Place(rank, world_size), barrier, board))
        except BaseException as fault:
            faults.append(fault)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return results
