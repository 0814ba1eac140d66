"""Loaders of other makes: resumed where that is exact, else refused with what to do."""

from collections.abc import Iterator
from typing import Any

import pytest
from holdfast import HoldfastError
from holdfast.data import GlobalSampler, check_loader, restore

torch_data = pytest.importorskip("torch.utils.data")
torchdata = pytest.importorskip("torchdata.stateful_dataloader")

QUIET = pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning")  # torchdata 0.11 with PyTorch 2.13
pytestmark = [pytest.mark.torch, pytest.mark.timeout(60), QUIET]


def stateful(workers: int, **options: Any) -> Any:
    return torchdata.StatefulDataLoader(list(range(40)), batch_size=4, num_workers=workers, **options)


def one_rank(loader: Any, state: Any) -> None:
    restore(loader, state, saved_world_size=1, world_size=1)


def state_after(loader: Any, batches: int) -> Any:
    loop = iter(loader)
    for _ in range(batches):
        next(loop)
    return loader.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_dataloader_is_used_as_it_is(workers: int) -> None:
    loader = stateful(workers)
    check_loader(loader)
    state = state_after(loader, 3)
    other = stateful(workers)
    other.state_dict()  # makes an iterator of its own, which is nobody's loop
    next(iter(other))
    one_rank(other, state)
    assert next(iter(other)).tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_other_workers_are_refused_when_loading_and_not_in_the_loop(before: int, after: int) -> None:
    state = state_after(stateful(before), 1)
    with pytest.raises(HoldfastError, match=rf"num_workers={before}, this one has {after}.*holdfast\.data\.Loader"):
        one_rank(stateful(after), state)


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "persistent_workers": True}])
def test_a_loop_that_began_before_is_refused(options: dict[str, Any]) -> None:
    options = {"num_workers": 0, **options}
    workers = options.pop("num_workers")
    state = state_after(stateful(workers), 3)
    loader = stateful(workers, **options)
    begun = iter(loader)
    with pytest.raises(HoldfastError, match="had begun before"):
        one_rank(loader, state)
    assert next(begun).tolist() == [0, 1, 2, 3]  # what the run would have gone on with


class Stream:
    """A stream whose state is each rank's own."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.at += 1
            yield self.at

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_ranks_own_positions_are_not_given_to_other_numbers_of_ranks() -> None:
    stream = Stream()
    check_loader(stream)
    restore(stream, {"at": 5}, saved_world_size=2, world_size=2)
    assert next(iter(stream)) == 6
    with pytest.raises(HoldfastError, match=r"pipe: .* positions of 2 ranks.*among 3: resume on 2 ranks"):
        restore(stream, {"at": 5}, saved_world_size=2, world_size=3, name="pipe")
    assert stream.at == 6
    sampler = GlobalSampler(12, 6, rank=2, world_size=3)
    restore(sampler, {**GlobalSampler(12, 6).state_dict(), "samples": 6}, saved_world_size=2, world_size=3)
    assert sampler.state_dict()["samples"] == 6
