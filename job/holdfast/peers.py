"""The ranks of a run, and how they decide together.

Notices reach ranks at different steps, some ranks never. So each rank brings what it wishes to a common point (see
`holdfast.agreement`), and the greatest wish of all is everybody's. Nothing here touches a GPU: the group is a gloo group of
our own on CPU tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from holdfast.errors import Fenced, HoldfastError, SaveError
from holdfast.process import Place, jax_state, module, torch_distributed

T = TypeVar("T")

GROUP_TIMEOUT = timedelta(hours=2)
"""Longer than any save: ranks wait here for the slowest one's bytes. A dead peer is noticed by its closed connection."""


class Peers(Protocol):
    """All ranks call the same methods in the same order."""

    place: Place

    def highest(self, values: list[int]) -> list[int]:
        """For each position the highest value of all ranks."""

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank."""

    def another(self) -> "Peers":
        """A further line to the same ranks, for another thread: what goes over one never waits for the other."""


class Alone:
    """The only process of the run."""

    def __init__(self) -> None:
        self.place = Place(0, 1)

    def highest(self, values: list[int]) -> list[int]:
        """Its own values."""
        return values

    def gather(self, value: T) -> list[T]:
        """Its own value."""
        return [value]

    def another(self) -> "Alone":
        """Itself: there is nobody to wait for."""
        return self


class Gloo:
    """Ranks joined by torch.distributed, whatever backend the training uses."""

    def __init__(self, distributed: Any) -> None:
        self._distributed = distributed
        self._torch = module("torch")
        self._group = distributed.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
        self.place = Place(distributed.get_rank(), distributed.get_world_size())

    def highest(self, values: list[int]) -> list[int]:
        """One all-reduce."""
        tensor = self._torch.tensor(values, dtype=self._torch.int64)
        self._distributed.all_reduce(tensor, op=self._distributed.ReduceOp.MAX, group=self._group)
        return [int(value) for value in tensor.tolist()]

    def gather(self, value: T) -> list[T]:
        """Two all-gathers: lengths, then pickles."""
        values: list[Any] = [None] * self.place.world_size
        self._distributed.all_gather_object(values, value, group=self._group)
        return values

    def another(self) -> "Gloo":
        """One more gloo group. Collective."""
        return Gloo(self._distributed)


def connect(place: Place) -> Peers:
    """The peers of this process. Collective. Raises HoldfastError where ranks exist that cannot be reached."""
    if place.world_size == 1:
        return Alone()
    distributed = torch_distributed()
    if distributed is not None:
        return Gloo(distributed)
    if jax_state() is not None:
        from holdfast.adapters.jax import JaxPeers

        return JaxPeers(GROUP_TIMEOUT.total_seconds())
    raise HoldfastError(
        f"this is rank {place.rank} of {place.world_size} by the environment, but torch.distributed is not initialised:"
        " call torch.distributed.init_process_group (or jax.distributed.initialize) before Run.steps, or start one task only"
    )


@dataclass(frozen=True)
class _Outcome:
    """What an action came to on one rank: a value, or a fault as text (exceptions need not survive pickling)."""

    value: Any
    fault: str | None
    fenced: bool


def together(peers: Peers, what: str, action: Callable[[], T], error: type[HoldfastError] = SaveError) -> list[T]:
    """Run `action` on every rank; every rank's value, or the same exception on all of them.

    Raises Fenced if any rank was fenced, else `error` naming the ranks and their faults. No rank leaves before all
    have reported, so none is left waiting.
    """
    cause: Exception | None = None
    try:
        mine = _Outcome(action(), None, False)
    except Exception as fault:
        cause = fault
        mine = _Outcome(None, f"{type(fault).__name__}: {fault}", isinstance(fault, Fenced))
    outcomes = peers.gather(mine)
    faults = {rank: outcome for rank, outcome in enumerate(outcomes) if outcome.fault is not None}
    if not faults:
        return [outcome.value for outcome in outcomes]
    for outcome in faults.values():
        if outcome.fenced:
            raise Fenced(str(outcome.fault).removeprefix("Fenced: ")) from cause
    told = "; ".join(f"rank {rank}: {outcome.fault}" for rank, outcome in list(faults.items())[:4])
    raise error(f"{what} failed on {len(faults)} of {len(outcomes)} ranks: {told}") from cause
