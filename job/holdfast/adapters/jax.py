"""How the processes of `jax.distributed` agree: over the key-value store of its coordination service, without a device."""

import itertools
import pickle
from typing import Any, TypeVar

from holdfast.errors import HoldfastError
from holdfast.process import Place, jax_state

T = TypeVar("T")


class JaxPeers:
    """Ranks joined by `jax.distributed.initialize`. `holdfast.Run` makes them by itself where it finds those.

    One exchange costs each process two requests to the coordinator: rank 0 collects, the others fetch what it has collected.
    Raises HoldfastError where `jax.distributed` is not initialised.
    """

    def __init__(self, timeout_s: float, line: str = "holdfast") -> None:
        state = jax_state()
        if state is None:
            raise HoldfastError("jax.distributed is not initialised: call jax.distributed.initialize() before Run.steps")
        self.place = Place(state.process_id, state.num_processes)
        self._store: Any = state.client
        self._timeout_s, self._line = timeout_s, line
        self._lines = itertools.count()
        self._round = 0

    def highest(self, values: list[int]) -> list[int]:
        """One exchange."""
        return [max(column) for column in zip(*self.gather(values), strict=True)]

    def gather(self, value: T) -> list[T]:
        """One exchange. Raises jax.errors.JaxRuntimeError after `timeout_s` without an answer, or when the coordinator is gone."""
        key, earlier = f"{self._line}/{self._round}", f"{self._line}/{self._round - 1}"
        self._round += 1
        if self.place.rank == 0:
            values = [pickle.dumps(value), *(self._get(f"{key}/{rank}") for rank in range(1, self.place.world_size))]
            self._store.key_value_set_bytes(f"{key}/all", pickle.dumps(values))
            self._store.key_value_delete(f"{earlier}/")  # all have read it, since all have come to this exchange
        else:
            self._store.key_value_set_bytes(f"{key}/{self.place.rank}", pickle.dumps(value))
            values = pickle.loads(self._get(f"{key}/all"))  # noqa: S301  (from the run's own ranks)
        return [pickle.loads(item) for item in values]  # noqa: S301

    def _get(self, key: str) -> bytes:
        found: bytes = self._store.blocking_key_value_get_bytes(key, int(self._timeout_s * 1000))
        return found

    def another(self) -> "JaxPeers":
        """A line with keys of its own. All ranks make theirs in the same order."""
        return JaxPeers(self._timeout_s, f"{self._line}.{next(self._lines)}")
