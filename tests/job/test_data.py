from collections import Counter

import pytest
from holdfast.data import GlobalSampler
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30), st.integers(0, 99))
def test_ranks_share_the_same_global_batch_whatever_their_number(share: int, world_size: int, extra: int, seed: int) -> None:
    batch = share * world_size
    size = batch * 2 + extra
    alone = GlobalSampler(size, batch, seed=seed)
    ranks = [GlobalSampler(size, batch, rank=rank, world_size=world_size, seed=seed) for rank in range(world_size)]
    for _ in range(5):
        shares = [next(rank) for rank in ranks]
        assert {len(part) for part in shares} == {share}
        assert Counter(index for part in shares for index in part) == Counter(next(alone))


@given(st.integers(0, 12))
def test_a_sampler_goes_on_where_another_was(done: int) -> None:
    one = GlobalSampler(20, 4, seed=3)
    for _ in range(done):
        next(one)
    other = GlobalSampler(20, 4, seed=3)
    other.load_state_dict(one.state_dict())
    assert [next(other) for _ in range(7)] == [next(one) for _ in range(7)]


def test_an_epoch_shows_each_sample_once_and_epochs_differ() -> None:
    sampler = GlobalSampler(12, 4)
    epochs = [[index for _ in range(3) for index in next(sampler)] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert sampler.epoch == 2


def test_a_run_may_go_on_with_another_number_of_ranks() -> None:
    two = [GlobalSampler(24, 4, rank=rank, world_size=2) for rank in range(2)]
    for rank in two:
        next(rank)
    alone = GlobalSampler(24, 4)
    alone.load_state_dict(two[1].state_dict())
    assert sorted(next(alone)) == sorted(next(two[0]) + next(two[1]))


@pytest.mark.parametrize("sizes", [(10, 3, 0, 2), (2, 4, 0, 1), (10, 1, 0, 2), (10, 2, 2, 2)])
def test_sizes_that_cannot_work_are_refused(sizes: tuple[int, int, int, int]) -> None:
    size, batch, rank, world_size = sizes
    with pytest.raises(ValueError, match=r"rank|batch"):
        GlobalSampler(size, batch, rank=rank, world_size=world_size)


@pytest.mark.parametrize("change", [{"size": 21}, {"seed": 1}, {"samples": 21}])
def test_another_runs_position_is_refused(change: dict[str, int]) -> None:
    sampler = GlobalSampler(20, 4)
    with pytest.raises(ValueError, match=r"another|not a data position"):
        sampler.load_state_dict(sampler.state_dict() | change)
