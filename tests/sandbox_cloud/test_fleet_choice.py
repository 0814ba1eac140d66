"""The choice among pools: never more than was asked for, never more than a pool gives, and always as much as could be had."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from holdfast_sandbox.ec2_fleet import Candidate, Placed, Refused, fill, groups, placed_capacity, ranked, spread
from holdfast_sandbox.machine import LaunchSpec
from holdfast_sandbox.market import Pool, Quote
from hypothesis import given
from hypothesis import strategies as st

Chooser = Callable[..., tuple[list[Placed], list[Refused]]]
SPEC = LaunchSpec(image_id="ami-1")


def candidate(zone: str, free: int, price: float = 1.0, weight: int = 1, name: str = "sim1.small") -> Candidate:
    return Candidate(Pool(zone, name, "spot"), SPEC, {}, price, free, weight=weight)


def quote(one: Candidate, wanted: int, elsewhere: int) -> Quote:
    return Quote(wanted) if wanted <= one.free else Quote(one.free, "InsufficientInstanceCapacity")


CANDIDATES = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=6).map(
    lambda rows: [candidate(f"z{index}", free, weight=weight) for index, (free, weight) in enumerate(rows)]
)


@pytest.mark.parametrize("choose", [fill, spread])
@given(candidates=CANDIDATES, target=st.integers(1, 20))
def test_what_is_placed(choose: Chooser, candidates: list[Candidate], target: int) -> None:
    placed, refused = choose(candidates, target, quote)
    total = placed_capacity(placed)
    assert all(0 < one.count <= one.candidate.free for one in placed)
    heaviest = max((one.candidate.weight for one in placed), default=1)
    assert total < target + heaviest
    if total < target:
        assert total == sum(one.free * one.weight for one in candidates)
        assert {one.candidate.pool for one in refused} == {one.pool for one in candidates}


@given(CANDIDATES, st.integers(1, 20), st.integers(0, 8))
def test_a_limit_over_all_pools_is_kept(candidates: list[Candidate], target: int, limit: int) -> None:
    def limited(one: Candidate, wanted: int, elsewhere: int) -> Quote:
        room = max(0, limit - elsewhere)
        return quote(one, wanted, elsewhere) if wanted <= room else Quote(min(room, one.free), "Limit")

    for choose in (fill, spread):
        placed, _ = choose(candidates, target, limited)
        assert sum(one.count for one in placed) <= limit


def test_two_overrides_of_one_pool_share_its_capacity() -> None:
    placed, refused = fill([candidate("z", 3), candidate("z", 3)], 5, quote)
    assert sum(one.count for one in placed) == 3
    assert len(refused) == 2


def test_orders() -> None:
    deep = candidate("deep", 9, price=3.0)
    cheap = candidate("cheap", 1, price=1.0)
    middle = candidate("middle", 4, price=2.0)
    offers = [deep, cheap, middle]
    assert ranked(offers, "lowest-price", 4) == [cheap, middle, deep]
    assert ranked(offers, "price-capacity-optimized", 4) == [middle, deep, cheap]
    assert ranked(offers, "capacity-optimized", 4) == [deep, middle, cheap]


def test_priority_decides_among_pools_that_hold_all() -> None:
    deep = replace(candidate("deep", 9), priority=2.0)
    enough = replace(candidate("enough", 4), priority=1.0)
    short = replace(candidate("short", 3), priority=0.0)
    assert ranked([deep, short, enough], "capacity-optimized-prioritized", 4) == [enough, deep, short]
    assert ranked([deep, short, enough], "prioritized", 4) == [short, enough, deep]


def test_groups_have_one_type_or_one_zone() -> None:
    offers = [candidate("a", 1), candidate("a", 1, name="sim1.large"), candidate("b", 1)]
    assert [len(group) for group in groups(offers, one_type=False, one_zone=True)] == [2, 1]
    assert [len(group) for group in groups(offers, one_type=True, one_zone=False)] == [2, 1]
    assert [len(group) for group in groups(offers, one_type=True, one_zone=True)] == [1, 1, 1]
    assert [len(group) for group in groups(offers, one_type=False, one_zone=False)] == [3]
