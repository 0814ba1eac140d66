"""How long a save is expected to take."""

import pytest
from holdfast.estimate import Estimate, Tier
from hypothesis import given
from hypothesis import strategies as st

MIB = 1024 * 1024


def test_before_the_first_save_it_is_a_guess_by_the_size_or_the_bandwidth_limit() -> None:
    estimate = Estimate(None)
    estimate.learn(1000 * MIB)
    assert estimate.expected_s == 10.1
    limited = Estimate(10 * MIB)
    limited.learn(1000 * MIB)
    assert limited.expected_s == 100.1
    assert estimate.save_s(1000 * MIB) is None, "a deadline is not planned by a guess"
    assert estimate.stage_s(1024 * MIB) == 1.0


def test_it_is_on_the_slow_side_of_the_last_ten() -> None:
    estimate = Estimate(None)
    for took_s in (30.0, *(float(took) for took in range(1, 11))):
        estimate.learn(100 * MIB, took_s)
    assert estimate.expected_s == pytest.approx(9.55)
    assert estimate.tier_s(100 * MIB, typical=True) == 5.5
    estimate.learn(100 * MIB, 2.0)
    assert estimate.expected_s == pytest.approx(9.55), "the oldest of eleven is forgotten"


def test_another_size_is_reckoned_by_the_bandwidth() -> None:
    tier = Tier(1.0)
    tier.learn(100 * MIB, 10.1)
    assert tier.seconds(200 * MIB) == pytest.approx(20.1)
    assert tier.seconds(50 * MIB) == pytest.approx(5.1)


def test_the_fixed_cost_is_told_from_the_bandwidth_where_sizes_differ() -> None:
    tier = Tier(1.0)
    for size in (10, 20, 40, 80):
        tier.learn(size * MIB, 2.0 + size / 10)
    assert tier.fixed_s == pytest.approx(2.0)
    assert tier.seconds(160 * MIB) == pytest.approx(18.0)


def test_each_tier_learns_by_itself_and_a_durable_save_is_their_sum() -> None:
    estimate = Estimate(None, ("local", "s3"))
    estimate.learn(100 * MIB, 1.0, tier="local")
    assert estimate.save_s(100 * MIB) is None
    assert estimate.expected_s == pytest.approx(1.0 + 1.1), "of the other tier a guess"
    estimate.learn(100 * MIB, 5.0, tier="s3")
    assert estimate.save_s(100 * MIB) == estimate.expected_s == pytest.approx(6.0)
    estimate.learn_stage(100 * MIB, 0.25)
    assert estimate.save_s(100 * MIB) == pytest.approx(6.25)
    assert estimate.size_bytes == 100 * MIB


@given(st.lists(st.tuples(st.integers(0, 10**12), st.floats(0, 1e4)), max_size=15), st.integers(0, 10**12), st.integers(0, 10**12))
def test_it_is_finite_grows_with_the_size_and_is_never_below_the_typical(samples: list[tuple[int, float]], some: int, more: int) -> None:
    tier = Tier(100 * MIB)
    for size, took_s in samples:
        tier.learn(size, took_s)
    small, large = tier.seconds(min(some, more)), tier.seconds(max(some, more))
    assert 0 <= small <= large < float("inf")
    assert tier.seconds(some, typical=True) <= tier.seconds(some) * (1 + 1e-9)
