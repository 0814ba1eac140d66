"""What every cloud must do. One suite; the table says where it cannot be held, and why."""

import asyncio
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from holdfast_controller.providers.base import FaultKind, Instance, LaunchRequest, ProviderError

pytestmark = pytest.mark.timeout(90)  # the first test of a server waits for its start on a busy machine

BEDS = ("fake", "sandbox", "moto", "gcp", "azure")

MOTO_TOKENS = "moto 5.2 does not honour client tokens"
MOTO_CAPACITY = "moto has endless capacity and no quota"
MOTO_FAULTS = "moto cannot be told to fail"
EXEMPT = {
    ("moto", "test_same_launch_again_starts_none"): MOTO_TOKENS,
    ("moto", "test_same_launch_at_the_same_time_starts_one_set"): MOTO_TOKENS,
    ("moto", "test_ended_launch_again_starts_none"): MOTO_TOKENS,
    ("moto", "test_launch_id_with_another_request_is_refused"): MOTO_TOKENS,
    ("moto", "test_same_launch_over_several_pools_again_starts_none"): MOTO_TOKENS,
    ("moto", "test_first_pool_refused_and_the_next_asked"): MOTO_CAPACITY,
    ("moto", "test_less_than_the_minimum_in_each_zone_starts_none"): MOTO_CAPACITY,
    ("moto", "test_lost_answer_is_transient_and_found_again"): MOTO_FAULTS,
    ("moto", "test_refusal_names_pool_and_starts_none"): MOTO_CAPACITY,
    ("moto", "test_price_cap_below_market_is_a_refusal"): MOTO_CAPACITY,
    ("moto", "test_capacity_returns_with_termination"): MOTO_CAPACITY,
    ("moto", "test_fault_kinds_of_a_launch"): MOTO_FAULTS,
    ("moto", "test_failed_listing_raises"): MOTO_FAULTS,
    ("moto", "test_failed_termination_raises"): MOTO_FAULTS,
    ("moto", "test_reclaimed_is_told_from_asked"): "moto's every end is Client.UserInitiatedShutdown",
    ("moto", "test_a_reclaim_is_told_before_it_is_done"): "moto takes nothing back",
    ("moto", "test_termination_is_repeated_until_it_names_all"): "moto's answer says shutting-down for ever",
    ("gcp", "test_a_reclaim_is_told_before_it_is_done"): "Compute Engine tells the machine alone until 30 s before the end",
    ("azure", "test_a_reclaim_is_told_before_it_is_done"): "Resource Manager tells nothing ahead: Scheduled Events tell the machine alone",
    ("fake", "test_other_clusters_instances_are_not_listed"): "the cloud in memory serves one cluster",
}

_numbers = itertools.count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bed" in metafunc.fixturenames:
        name = metafunc.function.__name__
        metafunc.parametrize("bed", [bed for bed in BEDS if (bed, name) not in EXEMPT], indirect=True)


@pytest.fixture
def ask(request_of: Callable[..., LaunchRequest]) -> Callable[..., LaunchRequest]:
    """Requests with a launch id of their own."""
    return lambda pool, count=2, minimum=None: request_of(pool, f"launch-{next(_numbers)}", count, minimum)


def ids(instances: tuple[Instance, ...]) -> set[str]:
    return {instance.instance_id for instance in instances}


async def test_launch_starts_what_was_asked_for(bed, ask):
    request = ask(bed.spot, 3)
    result = await bed.provider.launch(request)
    assert result.faults == ()
    assert result.launch_id == request.launch_id
    assert len(ids(result.instances)) == 3
    for instance in result.instances:
        assert instance.launch_id == request.launch_id
        assert instance.pool == bed.spot.name
        assert instance.state in ("pending", "running")
        assert instance.tags["holdfast:cluster"] == "alpha"
        assert instance.tags["holdfast:launch"] == request.launch_id
        assert instance.tags["holdfast:pool"] == bed.spot.name
        assert instance.tags["job"] == "7"
        assert instance.launched > 1_600_000_000


async def test_on_demand_is_told_from_spot(bed, ask):
    result = await bed.provider.launch(ask(bed.on_demand, 1))
    assert [instance.pool for instance in result.instances] == [bed.on_demand.name]
    assert [instance.pool for instance in await bed.provider.find(result.launch_id)] == [bed.on_demand.name]


async def test_instances_run_and_have_addresses(bed, ask):
    request = ask(bed.spot)
    await bed.provider.launch(request)

    async def running() -> bool:
        found = await bed.provider.find(request.launch_id)
        return len(found) == 2 and all(instance.state == "running" and instance.address for instance in found)

    await bed.until(running)


async def test_find_keeps_launches_apart(bed, ask):
    first, second = ask(bed.spot), ask(bed.spot, 1)
    one, other = await bed.provider.launch(first), await bed.provider.launch(second)
    assert ids(await bed.provider.find(first.launch_id)) == ids(one.instances)
    assert ids(await bed.provider.find(second.launch_id)) == ids(other.instances)
    assert ids(await bed.provider.instances()) >= ids(one.instances) | ids(other.instances)


async def test_unknown_launch_is_not_found(bed, ask):
    await bed.provider.launch(ask(bed.spot, 1))
    for name in ("no-such-launch", "launch-*", "", "x" * 300):
        assert await bed.provider.find(name) == ()


async def test_other_clusters_instances_are_not_listed(bed, ask):
    foreigner = bed.foreigner()
    request = ask(bed.on_demand, 1)
    theirs = (await foreigner.launch(request)).instances
    try:
        assert len(theirs) == 1
        assert not ids(theirs) & ids(await bed.provider.instances())
        assert await bed.provider.find(request.launch_id) == ()
        assert ids(await foreigner.find(request.launch_id)) == ids(theirs)
    finally:
        await foreigner.terminate([instance.instance_id for instance in theirs])
        await foreigner.close()


async def test_same_launch_again_starts_none(bed, ask):
    request = ask(bed.spot, 3)
    first, again = await bed.provider.launch(request), await bed.provider.launch(request)
    assert ids(first.instances) == ids(again.instances)
    assert ids(await bed.provider.find(request.launch_id)) == ids(first.instances)


async def test_same_launch_at_the_same_time_starts_one_set(bed, ask):
    request = ask(bed.spot)
    results = await asyncio.gather(*(bed.provider.launch(request) for _ in range(4)))
    assert len({frozenset(ids(result.instances)) for result in results}) == 1
    assert ids(await bed.provider.find(request.launch_id)) == ids(results[0].instances)


async def test_ended_launch_again_starts_none(bed, ask):
    request = ask(bed.spot)
    first = ids((await bed.provider.launch(request)).instances)
    await bed.provider.terminate(sorted(first))
    again = await bed.provider.launch(request)
    assert ids(again.instances) <= first
    assert all(fault.kind is FaultKind.TRANSIENT and fault.retry_s is None for fault in again.faults)
    assert {each.instance_id for each in await bed.provider.instances() if each.launch_id == request.launch_id} <= first


async def test_launch_id_with_another_request_is_refused(bed, ask):
    request = ask(bed.spot)
    first = await bed.provider.launch(request)
    other = await bed.provider.launch(replace(request, count=3, minimum=3))
    assert [fault.kind for fault in other.faults] == [FaultKind.CONFIG]
    assert ids(await bed.provider.find(request.launch_id)) == ids(first.instances)


async def test_refusal_names_pool_and_starts_none(bed, ask):
    bed.set_capacity(2)
    request = ask(bed.spot, 3)
    result = await bed.provider.launch(request)
    assert result.instances == ()
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.CAPACITY, bed.spot.name)]
    assert result.faults[0].retry_s is not None
    assert await bed.provider.find(request.launch_id) == ()
    bed.set_capacity(3)
    assert len((await bed.provider.launch(request)).instances) == 3


async def test_capacity_returns_with_termination(bed, ask):
    bed.set_capacity(2)
    held = (await bed.provider.launch(ask(bed.spot))).instances
    assert (await bed.provider.launch(ask(bed.spot, 1))).faults[0].kind is FaultKind.CAPACITY
    await bed.provider.terminate(sorted(ids(held)))

    async def free_again() -> bool:
        return not (await bed.provider.launch(ask(bed.spot, 1))).faults

    await bed.until(free_again)


async def test_partial_launch_keeps_what_there_is_and_says_so(bed, ask):
    bed.set_capacity(2)
    request = ask(bed.spot, 3, 2)
    result = await bed.provider.launch(request)
    assert len(ids(result.instances)) == 2
    assert [fault.kind for fault in result.faults] == [FaultKind.CAPACITY]
    assert ids(await bed.provider.find(request.launch_id)) == ids(result.instances)


async def test_launch_over_several_pools_stands_in_one_zone(bed, ask):
    request = replace(ask(bed.spot, 3), others=(bed.sibling,))
    result = await bed.provider.launch(request)
    assert len(ids(result.instances)) == 3
    assert {each.pool for each in result.instances} in ({bed.spot.name}, {bed.sibling.name})
    assert {(each.state, each.launch_id, each.tags["job"], each.tags["holdfast:cluster"]) for each in result.instances} <= {
        (state, request.launch_id, "7", "alpha") for state in ("pending", "running")
    }
    found = await bed.provider.find(request.launch_id)
    assert {(each.instance_id, each.pool) for each in found} == {(each.instance_id, each.pool) for each in result.instances}


async def test_same_launch_over_several_pools_again_starts_none(bed, ask):
    request = replace(ask(bed.spot, 3), others=(bed.sibling,))
    first = await bed.provider.launch(request)
    for again in await asyncio.gather(*(bed.provider.launch(request) for _ in range(3))):
        assert ids(again.instances) == ids(first.instances)
    assert ids(await bed.provider.find(request.launch_id)) == ids(first.instances)


async def test_first_pool_refused_and_the_next_asked(bed, ask):
    bed.set_capacity(2)
    request = replace(ask(bed.spot, 3), others=(bed.sibling,))
    result = await bed.provider.launch(request)
    assert [(fault.kind, fault.pool) for fault in result.faults] in ([(FaultKind.CAPACITY, bed.spot.name)], [])
    assert [each.pool for each in result.instances] == [bed.sibling.name] * 3 * bed.chooses
    assert result.faults or bed.chooses
    assert ids(await bed.provider.find(request.launch_id)) == ids(result.instances)


async def test_less_than_the_minimum_in_each_zone_starts_none(bed, ask):
    bed.set_capacity(2)
    bed.set_sibling_capacity(2)
    request = replace(ask(bed.spot, 3), others=(bed.sibling,))
    result = await bed.provider.launch(request)
    assert result.instances == ()
    assert {fault.kind for fault in result.faults} == {FaultKind.CAPACITY}
    assert {fault.pool for fault in result.faults} == {bed.spot.name} | ({bed.sibling.name} if bed.chooses else set())
    assert len(result.faults) == 1 + bed.chooses
    assert await bed.provider.find(request.launch_id) == ()
    bed.set_capacity(3)
    assert len((await bed.provider.launch(request)).instances) == 3


async def test_price_cap_below_market_is_a_refusal(bed, ask):
    result = await bed.provider.launch(ask(replace(bed.spot, price_cap_usd_h=1.25)))
    assert [fault.kind for fault in result.faults] == [FaultKind.CAPACITY]
    assert not (await bed.provider.launch(ask(replace(bed.spot, price_cap_usd_h=20.0)))).faults


@pytest.mark.parametrize("kind", [FaultKind.CAPACITY, FaultKind.THROTTLE, FaultKind.QUOTA, FaultKind.AUTH, FaultKind.CONFIG])
async def test_fault_kinds_of_a_launch(bed, ask, kind):
    bed.fail("launch", kind)
    request = ask(bed.spot)
    result = await bed.provider.launch(request)
    assert result.instances == ()
    assert [fault.kind for fault in result.faults] == [kind]
    assert (result.faults[0].retry_s is None) == (kind in (FaultKind.AUTH, FaultKind.CONFIG))
    assert len((await bed.provider.launch(request)).instances) == 2


async def test_lost_answer_is_transient_and_found_again(bed, ask):
    bed.fail("launch", FaultKind.TRANSIENT)
    request = ask(bed.spot)
    result = await bed.provider.launch(request)
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]
    assert result.faults[0].retry_s is not None
    found = await bed.provider.find(request.launch_id)
    assert len(found) == 2
    assert ids((await bed.provider.launch(request)).instances) == ids(found)


@pytest.mark.parametrize(
    "change",
    [{"minimum": 3}, {"minimum": 0}, {"count": 0, "minimum": 0}, {"launch_id": ""}, {"launch_id": "x" * 65}, {"launch_id": "a*"}],
    ids=str,
)
async def test_senseless_request_is_a_configuration_fault(bed, ask, change):
    result = await bed.provider.launch(replace(ask(bed.spot), **change))
    assert result.instances == ()
    assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(FaultKind.CONFIG, None)]


async def test_pool_of_another_cloud_is_a_configuration_fault(bed, ask):
    result = await bed.provider.launch(ask(replace(bed.spot, name="x/y/z/t/spot", provider="x")))
    assert [fault.kind for fault in result.faults] == [FaultKind.CONFIG]


async def test_terminated_instances_end_and_stay_listed(bed, ask):
    result = await bed.provider.launch(ask(bed.spot))
    wanted = ids(result.instances)
    assert set(await bed.provider.terminate(sorted(wanted))) <= wanted

    async def ended() -> list[Instance]:
        found = [each for each in await bed.provider.instances() if each.instance_id in wanted]
        return found if all(each.state == "gone" for each in found) else []

    assert [(each.launch_id, each.reclaimed) for each in await bed.until(ended)] == [(result.launch_id, False)] * 2
    assert await bed.provider.find(result.launch_id) == ()


async def test_termination_is_repeated_until_it_names_all(bed, ask):
    wanted = sorted(ids((await bed.provider.launch(ask(bed.spot))).instances))

    async def all_gone() -> bool:
        return set(await bed.provider.terminate(wanted)) == set(wanted)

    await bed.until(all_gone)
    assert set(await bed.provider.terminate(wanted)) == set(wanted)


async def test_unknown_ids_keep_nothing_alive(bed, ask):
    result = await bed.provider.launch(ask(bed.spot))
    unknown = ["i-00000000000000bad", "i-0badbadbadbadbad1", "nonsense", "i-NOTHEX"]
    assert set(await bed.provider.terminate([*unknown[:2], *sorted(ids(result.instances)), *unknown[2:]])) >= set(unknown)

    async def all_gone() -> bool:
        return await bed.provider.find(result.launch_id) == ()

    await bed.until(all_gone)


async def test_nothing_to_terminate(bed):
    assert await bed.provider.terminate([]) == ()


async def test_reclaimed_is_told_from_asked(bed, ask):
    result = await bed.provider.launch(ask(bed.spot))
    taken, asked = sorted(ids(result.instances))
    bed.reclaim(taken)
    await bed.provider.terminate([asked])

    async def both_gone() -> list[Instance]:
        found = [each for each in await bed.provider.instances() if each.launch_id == result.launch_id]
        return found if all(each.state == "gone" for each in found) else []

    found = {each.instance_id: each for each in await bed.until(both_gone)}
    assert (found[taken].reclaimed, found[asked].reclaimed) == (True, False)
    assert found[taken].state_reason


async def test_a_reclaim_is_told_before_it_is_done(bed, ask):
    result = await bed.provider.launch(ask(bed.spot, 3))
    told, spared, _ = sorted(ids(result.instances))
    before = bed.now()
    bed.announce(told, 100.0)
    bed.announce(spared, 100.0)
    found = {each.instance_id: each for each in await bed.provider.reclaims()}
    assert set(found) == {told, spared}
    assert all(abs(each.deadline - before - 100.0) < 5 and each.reason for each in found.values())
    bed.spare(spared)
    bed.reclaim(told)
    assert await bed.provider.reclaims() == (), "what was withdrawn, and what has been done, stands no longer"


async def test_nothing_is_reclaimed(bed, ask):
    await bed.provider.launch(ask(bed.spot, 1))
    assert await bed.provider.reclaims() == ()


async def test_failed_listing_raises(bed):
    for method in ("find", "instances"):
        bed.fail(method, FaultKind.THROTTLE)
        with pytest.raises(ProviderError) as raised:
            await (bed.provider.find("launch-1") if method == "find" else bed.provider.instances())
        assert raised.value.fault.kind is FaultKind.THROTTLE
    await bed.provider.instances()


async def test_failed_termination_raises(bed, ask):
    wanted = sorted(ids((await bed.provider.launch(ask(bed.spot))).instances))
    bed.fail("terminate", FaultKind.THROTTLE)
    with pytest.raises(ProviderError) as raised:
        await bed.provider.terminate(wanted)
    assert raised.value.fault.kind is FaultKind.THROTTLE


async def test_prices(bed, pool_of):
    unknown = pool_of(bed.spot.provider, type_="g6.xlarge" if bed.name != "fake" else "none", zone="us-east-1f")
    quotes = await bed.provider.quotes([bed.spot, bed.on_demand, unknown])
    assert 0 < quotes[bed.spot.name].price_usd_h < quotes[bed.on_demand.name].price_usd_h == 32.77
    on_demand = {name: quote.on_demand_usd_h for name, quote in quotes.items() if quote.on_demand_usd_h is not None}
    assert on_demand == {bed.spot.name: 32.77, bed.on_demand.name: 32.77}
    assert await bed.provider.quotes([]) == {}


async def test_offers_have_a_shape(bed):
    offers = await bed.provider.offers()
    for offer in offers:
        assert offer.zones
        assert offer.markets
        assert offer.provider == bed.provider.name
        assert min(offer.gpus, offer.cpus, offer.memory_mb) > 0
        assert offer.gpu_model
    if bed.name != "fake":
        (ours,) = [offer for offer in offers if offer.instance_type == bed.spot.instance_type]
        assert (ours.gpu_model, ours.gpus, ours.region) == ("A100", 8, bed.spot.region)
        assert bed.spot.zone in ours.zones


def test_exemptions_name_tests_that_exist():
    module = sys.modules[__name__]
    assert all(bed in BEDS and hasattr(module, test) for bed, test in EXEMPT)
