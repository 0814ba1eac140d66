"""The cloud in memory: its faults, its time, and that no fault makes two sets of instances of one launch."""

import asyncio
from dataclasses import replace

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_controller.providers.base import FaultKind, Market, ProviderError
from holdfast_controller.providers.fake import FakePool, FakeProvider
from holdfast_controller.providers.fake_faults import HANG_S, Injection, duplicate, hang, lost_answer, partial, refusal
from holdfast_controller.providers.fake_machines import Timing
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def spot(pool_of):
    return pool_of("fake")


@pytest.fixture
def cloud(clock, spot, pool_of):
    return FakeProvider(clock, [FakePool(spot, 10, 4.0, 10.0), FakePool(pool_of("fake", Market.ON_DEMAND), 5)])


def ids(instances):
    return {each.instance_id for each in instances}


async def test_boots_ends_and_is_forgotten(cloud, clock, spot, request_of):
    cloud.timing = Timing(boot_s=30, shutdown_s=5, gone_listed_s=100)
    (instance,) = (await cloud.launch(request_of(spot, count=1))).instances

    async def state():
        return [each.state for each in await cloud.instances()]

    assert await state() == ["pending"]
    await clock.advance(30)
    assert await state() == ["running"]
    assert await cloud.terminate([instance.instance_id]) == ()
    assert await state() == ["stopping"]
    await clock.advance(5)
    assert await state() == ["gone"]
    assert await cloud.terminate([instance.instance_id]) == (instance.instance_id,)
    await clock.advance(100)
    assert await state() == []


async def test_listing_lag_hides_births_and_ends(cloud, clock, spot, request_of):
    cloud.timing = Timing(boot_s=0, shutdown_s=0, listing_lag_s=10)
    started = (await cloud.launch(request_of(spot))).instances
    assert await cloud.find("launch-1") == ()
    assert await cloud.instances() == ()
    assert ids((await cloud.launch(request_of(spot))).instances) == ids(started)
    await clock.advance(10)
    assert ids(await cloud.find("launch-1")) == ids(started)
    assert set(await cloud.terminate(sorted(ids(started)))) == ids(started)
    assert {each.state for each in await cloud.instances()} == {"running"}
    await clock.advance(10)
    assert {each.state for each in await cloud.instances()} == {"gone"}
    assert await cloud.find("launch-1") == ()


async def test_reclaim_comes_when_it_was_announced(cloud, clock, spot, request_of):
    (instance,) = (await cloud.launch(request_of(spot, count=1))).instances
    cloud.reclaim([instance.instance_id], after_s=120)
    await clock.advance(119)
    assert [each.state for each in await cloud.instances()] == ["running"]
    await clock.advance(1)
    assert [(each.state, each.reclaimed) for each in await cloud.instances()] == [("gone", True)]
    with pytest.raises(KeyError):
        cloud.reclaim(["i-none"])


async def test_quota_is_of_the_account_not_of_the_pool(cloud, spot, pool_of, request_of):
    cloud.quota = 3
    assert (await cloud.launch(request_of(spot, "a", 2))).faults == ()
    refused = await cloud.launch(request_of(pool_of("fake", Market.ON_DEMAND), "b", 2))
    assert [fault.kind for fault in refused.faults] == [FaultKind.QUOTA]
    assert refused.instances == ()


async def test_partial_may_fall_below_the_minimum(cloud, spot, request_of):
    cloud.inject(partial(1))
    result = await cloud.launch(request_of(spot, count=3))
    assert len(result.instances) == 1
    assert [fault.kind for fault in result.faults] == [FaultKind.CAPACITY]


@pytest.mark.parametrize("kind", list(FaultKind))
async def test_refusals_are_not_carried_out_and_are_used_up(cloud, spot, request_of, kind):
    cloud.inject(refusal(kind, 7.0).on(times=2))
    for _ in range(2):
        result = await cloud.launch(request_of(spot))
        assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(kind, 7.0)]
    assert cloud.machines == {}
    assert (await cloud.launch(request_of(spot))).faults == ()


async def test_refusal_of_one_pool_spares_the_others(cloud, spot, pool_of, request_of):
    cloud.inject(refusal(FaultKind.CAPACITY).on(pool=spot.name))
    assert not (await cloud.launch(request_of(pool_of("fake", Market.ON_DEMAND), "other"))).faults
    assert (await cloud.launch(request_of(spot))).faults
    cloud.inject(refusal(FaultKind.CAPACITY))
    cloud.clear()
    assert not (await cloud.launch(request_of(spot))).faults


@pytest.mark.parametrize("method", ["find", "instances", "terminate", "quotes", "offers"])
async def test_every_other_method_raises(cloud, spot, request_of, method):
    (instance,) = (await cloud.launch(request_of(spot, count=1))).instances
    arguments = {"find": ["launch-1"], "instances": [], "offers": [], "terminate": [[instance.instance_id]]}.get(method, [[spot]])
    cloud.inject(refusal(FaultKind.AUTH).on(method))
    cloud.inject(lost_answer().on(method))
    for kind in (FaultKind.AUTH, FaultKind.TRANSIENT):
        with pytest.raises(ProviderError) as raised:
            await getattr(cloud, method)(*arguments)
        assert raised.value.fault.kind is kind
    states = [each.state for each in await cloud.instances()]
    assert states == (["stopping"] if method == "terminate" else ["pending"])


@pytest.mark.parametrize("acts", [False, True])
async def test_hang_can_be_left_at_any_time(cloud, clock, spot, request_of, acts):
    cloud.inject(hang(acts=acts))
    task = asyncio.create_task(cloud.launch(request_of(spot)))
    await clock.advance(1000)
    assert not task.done()
    task.cancel()
    await settle()
    assert len(cloud.machines) == (2 if acts else 0)
    cloud.inject(hang(60, acts=acts))
    task = asyncio.create_task(cloud.launch(request_of(spot)))
    await clock.advance(60)
    assert [fault.kind for fault in task.result().faults] == [FaultKind.TRANSIENT]


async def test_calls_take_their_time_and_are_recorded(cloud, clock, spot, request_of):
    cloud.timing.latency_s = 2
    begun = clock.now()
    task = asyncio.create_task(cloud.launch(request_of(spot)))
    await clock.advance(1.9)
    assert cloud.calls == []
    await clock.advance(0.1)
    assert task.done()
    assert cloud.calls == [(begun + 2, "launch", request_of(spot))]


async def test_closed_cloud_refuses(cloud, spot, request_of):
    await cloud.close()
    assert [fault.kind for fault in (await cloud.launch(request_of(spot))).faults] == [FaultKind.TRANSIENT]
    with pytest.raises(ProviderError):
        await cloud.instances()


troubles: st.SearchStrategy[Injection] = st.one_of(
    st.builds(refusal, st.sampled_from(list(FaultKind)), st.none() | st.just(5.0)),
    st.builds(partial, st.integers(0, 4)),
    st.builds(lost_answer, st.sampled_from([0.0, 30.0])),
    st.just(duplicate()),
    st.builds(hang, st.just(60.0), acts=st.booleans()),
)
steps = st.one_of(
    st.tuples(st.just("trouble"), troubles),
    st.tuples(st.just("launch"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("cancelled launch"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("advance"), st.sampled_from([0.0, 1.0, 45.0])),
    st.tuples(st.just("capacity"), st.integers(0, 6)),
    st.tuples(st.just("end"), st.sampled_from(["terminate", "reclaim"])),
)


class Play:
    """A script of troubles, launches and ends, with two launch ids."""

    def __init__(self, spot, request_of, lag_s, minimum):
        self.clock = VirtualClock()
        self.spot = FakePool(spot, 4)
        self.cloud = FakeProvider(self.clock, [self.spot], timing=Timing(listing_lag_s=lag_s))
        self.request = lambda launch_id: request_of(spot, launch_id, 3, minimum)
        self.answers = []

    async def step(self, what, argument):
        if what == "trouble":
            self.cloud.inject(argument)
        elif what == "advance":
            await self.clock.advance(argument)
        elif what == "capacity":
            self.spot.capacity = argument
        elif argument == "reclaim":
            self.cloud.reclaim(list(self.cloud.machines))
        elif what == "end":
            await self.cloud.terminate(list(self.cloud.machines))
        else:
            await self.launch(argument, cancelled=what.startswith("cancelled"))

    async def launch(self, launch_id, *, cancelled):
        task = asyncio.create_task(self.cloud.launch(self.request(launch_id)))
        await settle(1)
        if cancelled:
            task.cancel()
        else:
            self.answers.append(task)

    async def judge(self):
        await self.clock.advance(2 * HANG_S)
        for task in self.answers:
            result = await task
            assert result.faults or len(result.instances) == 3
            assert ids(result.instances) in (set(), self.made(result.launch_id))
        self.cloud.clear()
        for launch_id in ("a", "b"):
            made = self.made(launch_id)
            assert len(made) <= 3
            assert ids(await self.cloud.find(launch_id)) <= made
            assert ids((await self.cloud.launch(self.request(launch_id))).instances) == made or not made

    def made(self, launch_id):
        return {each.instance_id for each in self.cloud.machines.values() if each.launch_id == launch_id}


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, max_size=25), st.sampled_from([0.0, 20.0]), st.integers(1, 3))
def test_no_fault_makes_two_sets_of_one_launch(pool_of, request_of, script, lag_s, minimum):
    async def run():
        play = Play(pool_of("fake"), request_of, lag_s, minimum)
        for what, argument in script:
            await play.step(what, argument)
        await play.judge()

    asyncio.run(run())


def test_the_same_script_gives_the_same_cloud(pool_of, request_of):
    async def run():
        clock = VirtualClock()
        cloud = FakeProvider(clock, [FakePool(pool_of("fake"), 5)])
        for number in range(4):
            await cloud.launch(replace(request_of(pool_of("fake"), f"l{number}"), count=2, minimum=1))
            await clock.advance(7)
        return await cloud.instances()

    assert asyncio.run(run()) == asyncio.run(run())
