"""Calls are spread on our side, in the order of their coming, per API and region."""

import asyncio

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.base import FaultKind, ProviderError
from holdfast_controller.providers.buckets import Buckets, Rate


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


async def drawn(buckets: Buckets, clock: VirtualClock, count: int, api: str = "Run", region: str = "r1") -> list[float]:
    """Draw so many at once; return after how long each may be made."""
    start, times = clock.now(), []

    async def one() -> None:
        await buckets.draw(region, api, patience_s=1000)
        times.append(clock.now() - start)

    tasks = [asyncio.create_task(one()) for _ in range(count)]
    await clock.advance(100)
    await asyncio.gather(*tasks)
    return times


async def test_a_burst_goes_at_once_and_the_rest_at_the_refill_rate(clock) -> None:
    times = await drawn(Buckets({"Run": Rate(5, 2)}.get, clock), clock, 9)
    assert times == pytest.approx([0, 0, 0, 0, 0, 0.5, 1.0, 1.5, 2.0])


async def test_other_regions_and_apis_are_not_held_up(clock) -> None:
    buckets = Buckets({"Run": Rate(1, 0.1)}.get, clock)
    await drawn(buckets, clock, 1)
    assert await drawn(buckets, clock, 1, region="r2") == [0]
    assert await drawn(buckets, clock, 50, api="Describe") == [0] * 50


async def test_who_cannot_wait_so_long_is_told_at_once_and_takes_nothing(clock) -> None:
    buckets = Buckets({"Run": Rate(1, 0.1)}.get, clock)
    await buckets.draw("r1", "Run", patience_s=5)
    with pytest.raises(ProviderError) as raised:
        await buckets.draw("r1", "Run", patience_s=5)
    assert raised.value.fault.kind is FaultKind.THROTTLE
    assert 0 < raised.value.fault.retry_s <= 10
    await clock.advance(10)
    await buckets.draw("r1", "Run", patience_s=0)


async def test_after_a_throttle_the_bucket_counts_as_empty(clock) -> None:
    buckets = Buckets({"Run": Rate(5, 2)}.get, clock)
    buckets.throttled("r1", "Run")
    assert await drawn(buckets, clock, 2) == pytest.approx([0.5, 1.0])
    buckets.throttled("r1", "Describe")


async def test_more_than_a_bucket_holds_is_waited_for_once(clock) -> None:
    buckets = Buckets({"instances": Rate(1000, 2)}.get, clock)
    await buckets.draw("r1", "instances", 1500, patience_s=0)
    with pytest.raises(ProviderError):
        await buckets.draw("r1", "instances", 10, patience_s=1)
    await clock.advance(5)
    await buckets.draw("r1", "instances", 10, patience_s=0)


async def test_a_clock_that_is_set_back_takes_no_tokens_away(clock) -> None:
    buckets = Buckets({"Run": Rate(2, 1)}.get, clock)
    await buckets.draw("r1", "Run", patience_s=0)
    clock.step(-3600)
    await buckets.draw("r1", "Run", patience_s=0)


async def test_who_draws_from_two_buckets_draws_from_both_or_neither(clock) -> None:
    buckets = Buckets({"Run": Rate(1, 0.1), "instances": Rate(100, 1)}.get, clock)
    await buckets.draw("r1", "Run", patience_s=0)
    with pytest.raises(ProviderError, match="Run in r1"):
        await buckets.draw_all("r1", {"instances": 100, "Run": 1, "unknown": 1}, patience_s=5)
    await buckets.draw("r1", "instances", 100, patience_s=0)
    both = asyncio.create_task(buckets.draw_all("r1", {"instances": 5, "Run": 1}, patience_s=20))
    await clock.advance(9.9)
    assert not both.done(), "the slower one decides"
    await clock.advance(0.2)
    assert both.done()
    await both


async def test_what_was_not_used_is_given_back_and_fills_no_bucket_beyond_its_brim(clock) -> None:
    buckets = Buckets({"instances": Rate(1000, 2)}.get, clock)
    for _ in range(20):
        await buckets.draw("r1", "instances", 1500, patience_s=0)
        buckets.give_back("r1", "instances", 1500)
    buckets.give_back("r1", "instances", 1000)
    buckets.give_back("r1", "unknown", 1)
    await buckets.draw("r1", "instances", 1500, patience_s=0)
    buckets.give_back("r1", "instances", 1500, used=900)
    with pytest.raises(ProviderError):
        await buckets.draw("r1", "instances", 103, patience_s=1)
    await buckets.draw("r1", "instances", 100, patience_s=0)
