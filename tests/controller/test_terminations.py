"""Terminations of one moment are one call; whoever waits hears what came of it."""

import asyncio

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.base import FaultKind, Market, Pool, ProviderError
from holdfast_controller.providers.fake import FakePool, FakeProvider
from holdfast_controller.providers.fake_faults import refusal
from holdfast_controller.terminations import MOST, Terminations


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def cloud(clock) -> FakeProvider:
    return FakeProvider(clock, [FakePool(Pool("fake/r/z/t/spot", "fake", "r", "z", "t", Market.SPOT))])


async def ended(clock, tasks):
    await clock.advance(10)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_those_of_one_moment_go_together_and_in_bounded_calls(cloud, clock) -> None:
    terminations = Terminations(cloud, clock)
    tasks = [asyncio.create_task(terminations.terminate(f"i-{number}")) for number in range(MOST + 1)]
    assert await ended(clock, tasks) == [None] * (MOST + 1)
    assert [len(asked) for _, method, asked in cloud.calls if method == "terminate"] == [MOST, 1]


async def test_the_same_instance_twice_is_asked_for_once_and_both_hear(cloud, clock) -> None:
    terminations = Terminations(cloud, clock)
    tasks = [asyncio.create_task(terminations.terminate("i-1")) for _ in range(2)]
    assert await ended(clock, tasks) == [None, None]
    assert [asked for _, method, asked in cloud.calls if method == "terminate"] == [("i-1",)]


async def test_a_failure_is_heard_by_all_and_the_next_call_is_made_anew(cloud, clock) -> None:
    terminations = Terminations(cloud, clock)
    cloud.inject(refusal(FaultKind.THROTTLE, 5.0).on("terminate"))
    tasks = [asyncio.create_task(terminations.terminate(f"i-{number}")) for number in range(2)]
    assert [type(each) for each in await ended(clock, tasks)] == [ProviderError, ProviderError]
    assert await ended(clock, [asyncio.create_task(terminations.terminate("i-1"))]) == [None]


async def test_one_that_is_cancelled_keeps_nobody_else_waiting(cloud, clock) -> None:
    terminations = Terminations(cloud, clock)
    tasks = [asyncio.create_task(terminations.terminate(f"i-{number}")) for number in range(2)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    first, second = await ended(clock, tasks)
    assert isinstance(first, asyncio.CancelledError)
    assert second is None
