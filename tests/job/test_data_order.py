"""The order of the samples and the position in it, without PyTorch."""

import itertools
import math
import tracemalloc
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from holdfast.data import GlobalSampler
from holdfast.data.cursor import Cursor, share
from holdfast.data.order import Order, permutation
from hypothesis import example, given
from hypothesis import strategies as st

sizes = st.integers(1, 60)
SMALL = [3, 7, 0, 10, 9, 4, 2, 8, 6, 1, 5]
LARGE = [(2, 259391), (2, 926069), (2, 599395), (2, 548474)]
HUGE = (5, 840578277)
FIRST = {"v": 1, "samples": 12, "size": 11, "seed": 7}  # written by the first version, which went on with these batches:
FIRST_GOES_ON = [[7, 6, 9, 3], [1, 2, 0, 8], [4, 6, 3, 9], [5, 2, 10, 1]]


@given(st.integers(1, 3000), st.text(max_size=5))
@example(999, "")
@example(1000, "")
def test_a_permutation_takes_each_place_once(size: int, key: str) -> None:
    at = permutation(size, key)
    assert sorted(map(at, range(size))) == list(range(size))


def test_the_order_is_the_one_that_checkpoints_of_version_2_mean() -> None:
    assert [permutation(11, "k")(place) for place in range(11)] == SMALL
    assert [Order(10**6, 3, True).sample(2 * 10**6 + place) for place in range(4)] == LARGE
    assert Order(7, 3, False).sample(16) == (2, 2)


def test_a_billion_samples_need_no_memory_and_no_time() -> None:
    tracemalloc.start()
    try:
        assert Order(10**9, 0, True).sample(5 * 10**9 + 123_456_789) == HUGE
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def deviations(counts: Counter[Any], cells: int) -> float:
    """Pearson's chi-squared against equal chances, in standard deviations from what chance itself would give."""
    expected = counts.total() / cells
    chi = sum((count - expected) ** 2 for count in counts.values()) / expected + (cells - len(counts)) * expected
    return (chi - (cells - 1)) / math.sqrt(2 * (cells - 1))


def test_all_orders_of_few_samples_are_equally_likely() -> None:
    counts = Counter(tuple(map(permutation(5, str(key)), range(5))) for key in range(6000))
    assert abs(deviations(counts, math.factorial(5))) < 4


@pytest.mark.parametrize("size", [12, 1003])
def test_neighbours_are_torn_apart_as_if_by_chance(size: int) -> None:
    if size < 1000:
        firsts = [permutation(size, str(key)) for key in range(4000)]
        assert abs(deviations(Counter((at(0), at(1)) for at in firsts), size * (size - 1))) < 4
    else:
        orders = [list(map(permutation(size, str(key)), range(size))) for key in range(12)]
        steps = Counter((right - left) % size for order in orders for left, right in itertools.pairwise(order))
        assert abs(deviations(steps, size - 1)) < 4


@given(sizes, st.integers(1, 12), st.booleans(), st.integers(1, 9))
def test_ranks_share_every_sample_of_a_batch_and_none_is_left_without(size: int, batch_size: int, drop_last: bool, world_size: int) -> None:
    if drop_last and batch_size > size:
        return
    cursor = Cursor(Order(size, 0, True), batch_size, drop_last)
    batches = list(cursor.batches())
    assert len(batches) == len(cursor)
    assert [position for batch in batches for position in batch] == list(range(size - size % batch_size if drop_last else size))
    for batch in batches:
        shares = [share(batch, rank, world_size) for rank in range(world_size)]
        assert all(positions for positions, _ in shares)  # a rank without samples would leave the others waiting in a collective
        assert sorted(position for positions, weight in shares if weight for position in positions) == list(batch)
        mean = sum(Fraction(weight).limit_denominator(1000) * Fraction(sum(part), len(part)) for part, weight in shares) / world_size
        assert mean == Fraction(sum(batch), len(batch))


@given(st.data(), sizes, st.booleans())
def test_a_position_goes_on_at_the_next_sample_with_any_batch_size(data: st.DataObject, size: int, shuffle: bool) -> None:
    order = Order(size, 1, shuffle)
    cursor = Cursor(order, data.draw(st.integers(1, size)), drop_last=False)
    seen: list[int] = []
    for _ in range(data.draw(st.integers(0, 8))):
        if cursor.ended:
            cursor.turn()
        seen += cursor.take()
    other = Cursor(order, data.draw(st.integers(1, size)), drop_last=False)
    other.load(cursor.state())
    while not other.ended:
        seen += other.take()
    assert seen == list(range((other.epoch + 1) * size))


def test_an_epoch_that_was_taken_to_its_end_is_not_yet_the_next() -> None:
    cursor = Cursor(Order(8, 0, True), 4, drop_last=True)
    cursor.take()
    assert not cursor.ended
    cursor.take()
    other = Cursor(Order(8, 0, True), 4, drop_last=True)
    other.load(cursor.state())
    assert (other.epoch, other.ended) == (0, True)
    with pytest.raises(StopIteration):
        other.take()


GOOD = Cursor(Order(8, 0, True), 4, drop_last=True).state()


@pytest.mark.parametrize(
    "state",
    [None, [], {}, {**GOOD, "v": 3}, {**GOOD, "size": 9}, {**GOOD, "seed": 1}, {**GOOD, "shuffle": False}, {**GOOD, "epoch": -1}]
    + [{**GOOD, "samples": value} for value in (-1, 9, 2.0, True, "4", None)]
    + [{"v": 1, "samples": 4, "size": 8, "seed": 0}],
)
def test_what_is_no_position_of_this_data_is_refused(state: Any) -> None:
    cursor = Cursor(Order(8, 0, True), 4, drop_last=True)
    cursor.take()
    with pytest.raises(ValueError, match="position"):
        cursor.load(state)
    assert cursor.samples == 4


def test_a_checkpoint_of_the_first_version_goes_on_in_its_order() -> None:
    sampler = GlobalSampler(11, 4, seed=7)
    sampler.load_state_dict(FIRST)
    assert [next(sampler) for _ in range(4)] == FIRST_GOES_ON
    state = sampler.state_dict()
    assert state == {**FIRST, "samples": 28}
    again = GlobalSampler(11, 4, seed=7)
    again.load_state_dict(state)
    assert next(again) == next(sampler)
    for change in ({"samples": 13}, {"size": 12}, {"seed": 8}):
        with pytest.raises(ValueError, match=r"another|multiple"):
            again.load_state_dict({**FIRST, **change})
