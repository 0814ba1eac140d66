"""The market is never oversold, takes back the newest first, and gives the same answers to the same questions."""

from typing import Literal

import pytest
from holdfast_sandbox.market import Market, Pool, PoolState, Zone
from holdfast_sandbox.timeline import Timeline
from hypothesis import given
from hypothesis import strategies as st

POOL = Pool("z1", "sim1.small", "spot")
LINES = st.lists(st.integers(0, 8), min_size=1, max_size=12).map(
    lambda values: Timeline((10.0 * step, float(value)) for step, value in enumerate(values))
)


def market_of(capacity: Timeline, price: Timeline | None = None, kind: Literal["spot", "on_demand"] = "spot") -> Market:
    pool = Pool("z1", "sim1.small", kind)
    return Market([Zone("z1", "r1")], {pool: PoolState(capacity, price or Timeline([(0, 1.0)]))})


@given(capacity=LINES, asks=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 15)), max_size=20))
def test_never_sold_above_capacity(capacity: Timeline, asks: list[tuple[int, int]]) -> None:
    market = market_of(capacity)
    now, serial = 0.0, 0
    for wanted, wait in asks:
        now += wait
        for victim in market.overdrawn(now):
            market.release(POOL, victim)
        quote = market.quote(POOL, wanted, now)
        ids = [f"i-{serial + index}" for index in range(quote.count)]
        serial += quote.count
        market.hold(POOL, ids, now)
        assert len(market.pools[POOL].held) <= market.capacity(POOL, now)
        assert 0 <= quote.count <= wanted
        assert (quote.code is None) == (quote.count == wanted)


@given(capacity=st.integers(0, 10), held=st.integers(0, 10), doomed=st.sets(st.integers(0, 9)))
def test_the_newest_are_taken_back_and_no_more_than_needed(capacity: int, held: int, doomed: set[int]) -> None:
    market = market_of(Timeline([(0, held), (10, capacity)]))
    ids = [f"i-{index}" for index in range(held)]
    market.hold(POOL, ids, 0)
    leaving = {f"i-{index}" for index in doomed} & set(ids)
    staying = [instance_id for instance_id in ids if instance_id not in leaving]
    victims = market.overdrawn(10, leaving)
    assert victims == staying[::-1][: max(0, len(staying) - capacity)]
    assert market.overdrawn(9.9, leaving) == []


def test_on_demand_is_never_taken_back() -> None:
    market = market_of(Timeline([(0, 2), (1, 0)]), kind="on_demand")
    market.hold(Pool("z1", "sim1.small", "on_demand"), ["i-1", "i-2"], 0)
    assert market.overdrawn(5) == []


def test_a_hold_takes_all_or_none() -> None:
    market = market_of(Timeline([(0, 2)]))
    with pytest.raises(ValueError, match="no room"):
        market.hold(POOL, ["i-1", "i-2", "i-3"], 0)
    assert market.free(POOL, 0) == 2
    market.hold(POOL, ["i-1"], 0)
    market.hold(POOL, ["i-1", "i-2"], 0)  # held already: not counted twice
    assert market.free(POOL, 0) == 0
    market.release(POOL, "i-1")
    market.release(POOL, "i-1")
    assert market.free(POOL, 0) == 1


def test_a_low_bid_and_an_unknown_pool_are_told_apart() -> None:
    market = market_of(Timeline([(0, 2)]), Timeline([(0, 1.0), (10, 2.0)]))
    assert market.quote(POOL, 1, 0, 1.0).code is None
    assert market.quote(POOL, 1, 10, 1.0).code == "SpotMaxPriceTooLow"
    assert market.quote(Pool("z1", "p5.48xlarge", "spot"), 1, 0).code == "Unsupported"


@given(LINES, st.floats(0, 150), st.floats(0, 150), st.floats(0, 150))
def test_costs_add_up(line: Timeline, a: float, b: float, c: float) -> None:
    start, middle, end = sorted((a, b, c))
    whole = line.integral(start, end)
    assert whole == pytest.approx(line.integral(start, middle) + line.integral(middle, end))
    assert 0 <= whole <= 8 * (end - start) + 1e-9


@given(LINES, st.floats(0, 150))
def test_nothing_changes_before_the_next_change(line: Timeline, now: float) -> None:
    change = line.next_after(now)
    if change is None:
        assert line.at(now) == line.at(1e9)
    else:
        assert change > now
        assert line.at((now + change) / 2) == line.at(now)
        assert line.at(change) != line.at(now)


def test_setting_a_value_forgets_the_recorded_future() -> None:
    line = Timeline([(0, 1), (10, 2), (20, 3)])
    line.set_from(15, 7)
    assert [line.at(t) for t in (5, 10, 15, 25)] == [1, 2, 7, 7]
    assert line.between(12, 30) == [(10, 2), (15, 7)]
    assert line.next_after(15) is None


def test_the_next_change_is_that_of_any_pool() -> None:
    market = market_of(Timeline([(0, 1), (30, 2)]), Timeline([(0, 1), (20, 2)]))
    assert [market.next_change(now) for now in (0, 20, 30)] == [20, 30, None]


def test_a_pool_needs_its_zone() -> None:
    with pytest.raises(ValueError, match="unknown zones"):
        Market([], {POOL: PoolState(Timeline([(0, 1)]), Timeline([(0, 1)]))})
