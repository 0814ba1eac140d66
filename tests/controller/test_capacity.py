"""What pools did: refusals that fade over half an hour, hazards, quotas."""

import math

import pytest
from holdfast_controller import capacity
from holdfast_controller.providers.base import Fault, FaultKind, Quote
from holdfast_controller.records import PoolMemory, QuotaMemory

NOW, POOL = 1_700_000_000.0, "aws/r1/a/g1/spot"


def test_a_refusal_fades_over_half_an_hour_and_more_of_them_for_longer() -> None:
    pools: dict[str, PoolMemory] = {}
    capacity.refuse(pools, POOL, NOW, "none left")
    memory = pools[POOL]
    assert capacity.doubt(memory, NOW, 1) == 1.0
    assert capacity.doubt(memory, NOW + 1800, 1) == pytest.approx(0.5)
    assert capacity.doubt(memory, NOW + 7200, 1) == pytest.approx(1 / 16)
    capacity.refuse(pools, POOL, NOW + 60, "none left")
    assert capacity.doubt(memory, NOW + 60 + 1700, 1) == 1.0
    assert capacity.doubt(memory, NOW + 60 + 3600, 1) == pytest.approx(0.494, abs=0.01)
    assert memory.refusals == 2


def test_the_wait_doubles_with_refusals_that_still_count_and_is_bounded() -> None:
    pools: dict[str, PoolMemory] = {}
    waits = []
    for number in range(10):
        capacity.refuse(pools, POOL, NOW + number, "none left")
        waits.append(capacity.refusal_wait_s(pools[POOL], 30.0, 1800.0))
    assert waits[:3] == [30.0, pytest.approx(60, rel=0.01), pytest.approx(120, rel=0.01)]
    assert waits[-1] == 1800.0
    capacity.refuse(pools, POOL, NOW + 86_400, "none left")
    assert capacity.refusal_wait_s(pools[POOL], 30.0, 1800.0) == pytest.approx(30.0, rel=0.01), "a day later it is the first again"


def test_a_refusal_of_many_says_less_of_few() -> None:
    pools: dict[str, PoolMemory] = {}
    capacity.refuse(pools, POOL, NOW, "none left", nodes=16)
    assert capacity.doubt(pools[POOL], NOW, 16) == 1.0
    assert capacity.doubt(pools[POOL], NOW, 4) == 0.25
    capacity.grant(pools, POOL, 4)
    assert capacity.doubt(pools[POOL], NOW, 16) == 1.0, "that four were given does not say that there are sixteen"
    capacity.grant(pools, POOL, 16)
    assert capacity.doubt(pools[POOL], NOW, 16) == 0.0


def test_a_refusal_raises_the_hazard_and_what_was_seen_outweighs_the_prior() -> None:
    fresh = capacity.hazard_per_h(None, None, NOW, 1)
    assert fresh == capacity.FRESH_PER_H
    pools: dict[str, PoolMemory] = {}
    capacity.lived(pools, POOL, 0, NOW - 3600)
    capacity.lived(pools, POOL, 200, NOW)
    assert capacity.hazard_per_h(pools[POOL], None, NOW, 1) < fresh / 10
    pools[POOL].reclaims += 100
    assert capacity.hazard_per_h(pools[POOL], None, NOW, 1) == pytest.approx(0.5, abs=0.02)
    assert capacity.hazard_per_h(pools[POOL], None, NOW + 3600, 1, 200) < 0.3, "those that live on count as they live"
    before = capacity.hazard_per_h(pools[POOL], None, NOW, 1)
    capacity.refuse(pools, POOL, NOW, "none left")
    assert capacity.hazard_per_h(pools[POOL], None, NOW, 1) == pytest.approx(before + capacity.SCARCE_PER_H)
    assert capacity.hazard_per_h(pools[POOL], None, NOW + 30 * 86_400, 1) == pytest.approx(fresh, rel=0.05), "all of it fades"


def test_the_clouds_own_word_counts() -> None:
    assert capacity.hazard_per_h(None, Quote(preemptions_per_h=0.01), NOW, 1) == 0.01
    low, high = (capacity.hazard_per_h(None, Quote(score=score), NOW, 1) for score in (0.9, 0.1))
    assert low < high


def test_the_expected_price_grows_with_hazard_and_gang() -> None:
    assert capacity.expected_usd_h(10.0, 0.0, 16, 300.0) == 10.0
    assert capacity.expected_usd_h(10.0, 0.2, 1, 300.0) == pytest.approx(10 / (1 - 1 / 60))
    assert capacity.expected_usd_h(10.0, 0.2, 16, 300.0) > capacity.expected_usd_h(10.0, 0.2, 4, 300.0)
    assert capacity.expected_usd_h(10.0, 1e9, 16, 300.0) == pytest.approx(200.0)


def test_a_throttle_blocks_for_as_long_as_the_cloud_says_and_refuses_nothing() -> None:
    pools: dict[str, PoolMemory] = {}
    capacity.block(pools, POOL, Fault(FaultKind.THROTTLE, "slow", "down", retry_s=2.0), NOW)
    memory = pools[POOL]
    assert (memory.blocked_until, memory.refusals, memory.heat) == (NOW + 2.0, 0, 0.0)
    capacity.block(pools, POOL, Fault(FaultKind.AUTH, "no", "right"), NOW)
    assert memory.blocked_until == NOW + capacity.BLOCK_S[FaultKind.AUTH]


def test_a_quota_is_met_for_all_zones_and_opens_when_an_instance_ends() -> None:
    quotas: dict[str, QuotaMemory] = {}
    living = {"aws/r1/a/g1/spot": 3, "aws/r1/b/g1/spot": 1, "aws/r2/a/g1/spot": 7, "aws/r1/a/g1/on_demand": 7}
    alive = capacity.alive_by(living, capacity.quota_key(POOL))
    capacity.meet_quota({}, quotas, alive, POOL, Fault(FaultKind.QUOTA, "MaxSpot", "no more"), NOW, (1, 1))
    quota = quotas[capacity.quota_key("aws/r1/b/g1/spot")]
    assert (quota.limit, quota.code) == (4, "MaxSpot")
    assert capacity.quota_left(quota, 4, NOW) == 0
    assert capacity.quota_left(quota, 3, NOW) == 1
    assert math.isinf(capacity.quota_left(quota, 4, quota.until))
    assert math.isinf(capacity.quota_left(None, 4, NOW))


def test_a_gang_that_meets_a_quota_bars_no_smaller_one() -> None:
    quotas: dict[str, QuotaMemory] = {}
    capacity.meet_quota({}, quotas, 1, POOL, Fault(FaultKind.QUOTA, "MaxSpot", "no more"), NOW, (3, 3))
    quota = quotas[capacity.quota_key(POOL)]
    assert [capacity.quota_left(quota, 1, NOW) >= nodes for nodes in (1, 2, 3)] == [True, True, False]


def test_a_shared_call_that_meets_a_quota_is_halved_until_one_is_given() -> None:
    pools: dict[str, PoolMemory] = {}
    quotas: dict[str, QuotaMemory] = {}
    fault = Fault(FaultKind.QUOTA, "QuotaExceeded", "no more")
    for asked, expected in ((500, 250), (250, 125), (3, 1)):
        capacity.meet_quota(pools, quotas, 0, POOL, fault, NOW, (1, asked))
        assert pools[POOL].most_shared == expected
    assert quotas == {}
    capacity.grant(pools, POOL, 1)
    assert pools[POOL].most_shared == 0


def test_refusals_of_one_moment_count_once() -> None:
    pools: dict[str, PoolMemory] = {}
    for number in range(8):
        capacity.refuse(pools, POOL, NOW + number / 10, "none left", 1, asked=NOW - 1)
    assert (pools[POOL].heat, pools[POOL].refusals) == (pytest.approx(1.0), 1)
    capacity.refuse(pools, POOL, NOW + 2, "none left", 1, asked=NOW + 1)
    assert pools[POOL].heat == pytest.approx(2.0, rel=0.01)


def test_a_larger_request_that_is_refused_opens_nothing_for_a_smaller_one() -> None:
    pools: dict[str, PoolMemory] = {}
    capacity.refuse(pools, POOL, NOW, "none left", 1)
    capacity.refuse(pools, POOL, NOW + 1, "none left", 4)
    assert pools[POOL].refused_nodes == 1
    capacity.refuse(pools, POOL, NOW + 86_400, "none left", 4)
    assert pools[POOL].refused_nodes == 4, "a day later the first is forgotten"


def test_a_passing_fault_blocks_for_moments_only() -> None:
    pools: dict[str, PoolMemory] = {}
    capacity.block(pools, POOL, Fault(FaultKind.THROTTLE, "OwnRateLimit", "later", retry_s=90.0), NOW)
    assert (pools[POOL].blocked_until, pools[POOL].passing) == (NOW + capacity.PASSING_S, True)


def test_hours_are_counted_from_the_first_look_on() -> None:
    pools = {POOL: PoolMemory()}
    assert capacity.hazard_per_h(pools[POOL], None, NOW, 1, 4) == capacity.FRESH_PER_H
    capacity.lived(pools, POOL, 4, NOW)
    assert pools[POOL].hours == 0.0
    capacity.lived(pools, POOL, 4, NOW + 3600)
    assert pools[POOL].hours == pytest.approx(4.0)
