"""Launches as calls: what is asked for, what is tried again, and what it costs."""

import asyncio
from dataclasses import replace

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.cloud_effects import CloudEffects
from holdfast_controller.commands import Launch, TerminateInstance
from holdfast_controller.events import LaunchEnded
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Fault, FaultKind, LaunchRequest, LaunchResult, Market, PartialAnswerError, Pool, Quote
from holdfast_controller.providers.fake import FakePool, FakeProvider
from holdfast_controller.providers.fake_faults import hang, lost_answer, partial, refusal


def pool(zone: str, market: Market = Market.SPOT) -> Pool:
    return Pool(f"fake/r1/{zone}/g1/{market}", "fake", "r1", zone, "g1", market, template=f"t-{zone}")


A, B = pool("a"), pool("b")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def cloud(clock) -> FakeProvider:
    return FakeProvider(clock, [FakePool(A, 4, 1.0, 3.0), FakePool(B, 4, 2.0, 3.0)])


@pytest.fixture
def effects(cloud, clock) -> CloudEffects:
    plans = Plans({"n1": Plan("spot", "gpu", (A, B))}, {A.name: Quote(1.5)})
    return CloudEffects({"fake": cloud}, lambda: plans, lambda name, launch: f"{name} {launch}", clock, max_in_flight={"fake": 2})


def order(**more) -> Launch:
    given = {"launch_id": "hf-1", "pool": A.name, "nodes": ("n1", "n2"), "job_id": 7, "minimum": 2} | more
    return Launch("launch:hf-1", "why", **given)


async def done(clock, work):
    task = asyncio.create_task(work)
    await clock.advance(120)
    return await task


def requests(cloud) -> list[LaunchRequest]:
    return [asked for _, method, asked in cloud.calls if method == "launch"]


async def test_a_launch_is_asked_for_with_all_that_it_needs(effects, cloud, clock) -> None:
    (event,) = await done(clock, effects.launch(order(others=(B.name, "fake/r9/gone/g1/spot")), False))
    (request,) = requests(cloud)
    assert (request.count, request.minimum, request.template) == (2, 2, "t-a")
    assert request.user_data == "fake hf-1"
    assert request.others == (B,), "what the policy has dropped meanwhile is not asked"
    assert request.tags["holdfast:job"] == "7"
    assert isinstance(event, LaunchEnded)
    assert (len(event.instances), event.faults, event.price_usd_h, event.on_demand_usd_h) == (2, (), 1.5, 3.0)


async def test_a_shared_launch_takes_what_there_is(effects, cloud, clock) -> None:
    cloud.pools[A.name].capacity = 1
    (event,) = await done(clock, effects.launch(order(minimum=1, job_id=0, job_ids=(1, 2)), False))
    assert (len(event.instances), [fault.kind for fault in event.faults]) == (1, [FaultKind.CAPACITY])
    assert len(requests(cloud)) == 1


async def test_a_throttle_is_waited_out_under_the_same_launch_id(effects, cloud, clock) -> None:
    cloud.inject(refusal(FaultKind.THROTTLE, 2.0))
    (event,) = await done(clock, effects.launch(order(), False))
    assert [request.launch_id for request in requests(cloud)] == ["hf-1", "hf-1"]
    assert (len(event.instances), event.faults) == (2, ())


async def test_a_lost_answer_is_found_and_not_bought_again(effects, cloud, clock) -> None:
    cloud.inject(lost_answer(1.0))
    (event,) = await done(clock, effects.launch(order(), False))
    assert (len(event.instances), len(cloud.machines)) == (2, 2)


async def test_a_launch_that_is_taken_up_again_looks_first(effects, cloud, clock) -> None:
    await done(clock, effects.launch(order(), False))
    (event,) = await done(clock, effects.launch(order(), True))
    assert (len(event.instances), len(requests(cloud)), len(cloud.machines)) == (2, 1, 2)


async def test_no_more_calls_than_allowed_go_to_a_region_at_a_time(effects, cloud, clock) -> None:
    cloud.timing.latency_s = 1.0
    launches = [effects.launch(order(launch_id=f"hf-{number}", nodes=("n1",), minimum=1), False) for number in range(4)]
    tasks = [asyncio.create_task(launch) for launch in launches]
    await clock.advance(1.5)
    assert len(requests(cloud)) == 2
    await clock.advance(20)
    assert len(requests(cloud)) == 4
    await asyncio.gather(*tasks)


async def test_a_pool_that_is_gone_from_the_policy_is_a_configuration_fault(effects, cloud, clock) -> None:
    (event,) = await done(clock, effects.launch(order(pool="fake/r9/z/g1/spot"), False))
    assert [fault.kind for fault in event.faults] == [FaultKind.CONFIG]
    assert requests(cloud) == []


async def test_instances_are_terminated_by_the_cloud_of_their_pool(effects, cloud, clock) -> None:
    (event,) = await done(clock, effects.launch(order(), False))
    iid = event.instances[0].instance_id
    assert await done(clock, effects.terminate(TerminateInstance("t", "why", iid, A.name, "n1"), False)) == ()
    assert cloud.machines[iid].terminated is not None


async def test_whatever_breaks_the_launch_has_an_end(effects, cloud, clock, monkeypatch) -> None:
    async def broken(request):
        raise KeyError("InstanceId")

    monkeypatch.setattr(cloud, "launch", broken)
    (event,) = await done(clock, effects.launch(order(), False))
    assert isinstance(event, LaunchEnded)
    assert [(fault.kind, fault.code) for fault in event.faults] == [(FaultKind.CONFIG, "KeyError")]


async def test_a_refusal_waits_for_no_price(effects, cloud, clock) -> None:
    cloud.pools[A.name].capacity = 0
    cloud.inject(hang(50.0).on("quotes"))
    task = asyncio.create_task(effects.launch(order(), False))
    await clock.advance(0.1)
    (event,) = task.result()
    assert event.price_usd_h is None


async def test_what_an_earlier_try_brought_is_kept(effects, cloud, clock) -> None:
    cloud.pools[A.name].capacity = 1
    cloud.inject(partial(1))
    results = []
    launch = cloud.launch

    async def throttled(request):
        result = await launch(request)
        results.append(result)
        faults = (Fault(FaultKind.THROTTLE, "RequestLimitExceeded", "slow", retry_s=1.0),)
        return replace(result, faults=faults) if len(results) == 1 else LaunchResult(request.launch_id, (), faults)

    cloud.launch = throttled
    cloud.inject(refusal(FaultKind.TRANSIENT, 1.0).on("find", times=2))
    (event,) = await done(clock, effects.launch(order(minimum=1), False))
    assert len(results) == 3
    assert len(event.instances) == 1


async def test_a_silent_region_hides_no_launch(effects, cloud, clock) -> None:
    (event,) = await done(clock, effects.launch(order(), False))

    async def partly(launch_id):
        raise PartialAnswerError(Fault(FaultKind.TRANSIENT, "Silent", "r9"), instances=event.instances)

    cloud.find = partly
    (again,) = await done(clock, effects.launch(order(), True))
    assert (again.instances, again.faults, len(requests(cloud))) == (event.instances, (), 1)


async def test_a_long_wait_is_not_waited_out_in_the_slot(effects, cloud, clock) -> None:
    cloud.inject(refusal(FaultKind.THROTTLE, 90.0))
    task = asyncio.create_task(effects.launch(order(), False))
    await clock.advance(0.1)
    (event,) = task.result()
    assert [fault.kind for fault in event.faults] == [FaultKind.THROTTLE]
