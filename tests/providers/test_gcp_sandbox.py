"""The Google provider on the sandbox's Compute Engine: what the contract leaves to each cloud."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_controller.providers.base import FaultKind, LaunchRequest, Market
from holdfast_controller.providers.gcp import GcpProvider

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from bed_gcp import GCP_TYPE, GCP_ZONE, GcpBed, gcp_cloud, gcp_config, gcp_pool

pytestmark = pytest.mark.timeout(60)  # the client library takes seconds to be imported on a busy machine
BIG = "a3-highgpu-8g"


@pytest.fixture
async def cloud(gcp_bed):
    yield gcp_bed
    await gcp_bed.clean()


@pytest.fixture
async def restarted(cloud):
    """A provider that remembers nothing."""
    provider = GcpProvider(gcp_config(cloud.url, regions=("us-central1", "europe-west4")))
    yield provider
    await provider.close()


def ask(launch_id, count=2, pool=None, **more):
    return LaunchRequest(launch_id, pool or gcp_pool(), count, count, user_data="#!/bin/sh\n", **more)


def ids(instances):
    return {each.instance_id for each in instances}


async def test_a_lost_answer_is_found_and_ended_after_a_restart(cloud, restarted):
    cloud.fail("launch", FaultKind.TRANSIENT)
    assert (await cloud.provider.launch(ask("lost"))).instances == ()
    found = await restarted.find("lost")
    assert len(found) == 2
    assert ids((await restarted.launch(ask("lost"))).instances) == ids(found)
    another = GcpProvider(gcp_config(cloud.url))
    try:
        assert await another.terminate(sorted(ids(found))) == ()
        assert {each["state"] for each in map(cloud.control.instance, ids(found))} <= {"shutting-down", "terminated"}

        async def all_gone():
            return set(await another.terminate(sorted(ids(found)))) == ids(found)

        await cloud.until(all_gone)
    finally:
        await another.close()


async def test_a_lost_answer_of_the_operation_is_no_second_set(cloud, restarted):
    cloud.control.fail(action="zoneOperations.wait", mode="500", count=1)
    result = await cloud.provider.launch(ask("waited"))
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]
    found = await restarted.find("waited")
    assert ids((await cloud.provider.launch(ask("waited"))).instances) == ids(found)
    assert len(found) == 2


async def test_a_refused_launch_is_tried_anew_after_a_restart(cloud, restarted):
    cloud.set_capacity(1)
    assert [fault.kind for fault in (await cloud.provider.launch(ask("again"))).faults] == [FaultKind.CAPACITY]
    cloud.set_capacity(2)
    assert len((await restarted.launch(ask("again"))).instances) == 2


async def test_the_half_minute_of_a_preemption_is_seen_from_outside(cloud):
    told, early, asked = sorted(ids((await cloud.provider.launch(ask("taken", 3))).instances))
    before = cloud.now()
    cloud.announce(told, 20.0)
    cloud.announce(early, 100.0)
    await cloud.provider.terminate([asked])
    (said,) = await cloud.provider.reclaims()
    assert said.instance_id == told
    assert said.deadline == pytest.approx(before + 30, abs=3)
    states = {each.instance_id: each.state for each in await cloud.provider.instances()}
    assert states[told] == "stopping"
    assert states[early] in ("pending", "running")
    cloud.spare(told)
    assert await cloud.provider.reclaims() == ()


async def test_one_that_we_end_in_its_half_minute_was_taken_back_all_the_same(cloud):
    (told,) = ids((await cloud.provider.launch(ask("both", 1))).instances)
    cloud.announce(told, 0.05)
    await cloud.provider.terminate([told])

    async def gone():
        return [each for each in await cloud.provider.instances() if each.instance_id == told and each.state == "gone"]

    assert [each.reclaimed for each in await cloud.until(gone)] == [True]


async def test_the_region_chooses_the_zone_and_the_zone_the_type(cloud):
    cloud.set_capacity(1)
    cloud.set_sibling_capacity(1)
    others = tuple(gcp_pool(zone=zone, type_=kind) for zone, kind in (("us-central1-b", GCP_TYPE), (GCP_ZONE, BIG), ("us-central1-b", BIG)))
    result = await cloud.provider.launch(ask("mixed", 3, others=others))
    assert result.faults == ()
    assert len({each.pool.split("/")[2] for each in result.instances}) == 1, "one zone for all"
    assert sorted(each.pool.split("/")[3] for each in result.instances) == [GCP_TYPE, BIG, BIG]


async def test_each_region_is_listed_and_launched_in(cloud, restarted):
    away = gcp_pool(zone="europe-west4-a")
    here, there = await asyncio.gather(restarted.launch(ask("here", 1)), restarted.launch(ask("there", 1, away)))
    assert {each.pool for each in await restarted.instances()} >= {gcp_pool().name, away.name}
    await restarted.terminate(sorted(ids(here.instances) | ids(there.instances)))


async def test_an_unknown_machine_type_is_a_configuration_fault(cloud):
    result = await cloud.provider.launch(ask("what", 1, gcp_pool(type_="a9-highgpu-8g")))
    assert [fault.kind for fault in result.faults] == [FaultKind.CONFIG]


async def test_scores_come_with_prices(cloud):
    cloud.set_capacity(1)
    plain, scarce = gcp_pool(type_=BIG), gcp_pool()
    quotes = await cloud.provider.quotes([plain, scarce, gcp_pool(Market.ON_DEMAND)], scores=True)
    assert (quotes[plain.name].score, quotes[plain.name].price_usd_h, quotes[plain.name].preemptions_per_h) == (1.0, 12.5, None)
    assert quotes[scarce.name].score == 1.0
    assert quotes[scarce.name].preemptions_per_h == pytest.approx(4.16, abs=0.01)
    assert quotes[gcp_pool(Market.ON_DEMAND).name].score is None
    cloud.set_capacity(0)
    assert (await cloud.provider.quotes([scarce], scores=True))[scarce.name].score == 0.0
    assert (await cloud.provider.quotes([scarce]))[scarce.name].score is None


async def test_the_price_is_that_of_the_market_else_that_of_the_table(cloud):
    cloud.control.set_zone(GCP_ZONE, instance_type=GCP_TYPE, price_usd_h=7.25)
    try:
        assert (await cloud.provider.quotes([gcp_pool()]))[gcp_pool().name].price_usd_h == 7.25
        cloud.control.fail(action="advice.capacityHistory", mode="500")
        fresh = GcpProvider(gcp_config(cloud.url))
        assert (await fresh.quotes([gcp_pool()], scores=True))[gcp_pool().name].price_usd_h == 12.5
        assert (await cloud.provider.quotes([gcp_pool()]))[gcp_pool().name].price_usd_h == 7.25, "what was told stands"
        await fresh.close()
    finally:
        cloud.control.set_zone(GCP_ZONE, instance_type=GCP_TYPE, price_usd_h=12.5)


async def test_a_price_is_asked_for_anew_when_it_is_old(cloud):
    provider = GcpProvider(gcp_config(cloud.url, price_refresh_s=600.0))
    assert (await provider.quotes([gcp_pool()]))[gcp_pool().name].price_usd_h == 12.5
    cloud.control.set_zone(GCP_ZONE, instance_type=GCP_TYPE, price_usd_h=7.25)
    try:
        assert (await provider.quotes([gcp_pool()]))[gcp_pool().name].price_usd_h == 12.5
    finally:
        cloud.control.set_zone(GCP_ZONE, instance_type=GCP_TYPE, price_usd_h=12.5)
    await provider.close()


async def test_offers_are_googles_types_only(cloud, restarted):
    offers = {(offer.region, offer.instance_type): offer for offer in await restarted.offers()}
    assert set(offers) == {(region, kind) for region in ("us-central1", "europe-west4") for kind in (GCP_TYPE, BIG)}
    big = offers["us-central1", BIG]
    assert (big.gpu_model, big.gpus, big.gpu_memory_mb, big.cpus, big.memory_mb) == ("H100", 8, 81_920, 208, 1_916_928)
    assert big.zones == (GCP_ZONE, "us-central1-b")


def test_a_list_that_lags_and_a_quota(tmp_path):
    """A cloud of its own: new instances are listed late, and the project may have three Spot VMs."""

    async def play(url):
        bed = GcpBed(url)
        provider = bed.provider
        first = await provider.launch(ask("late"))
        assert ([fault.code for fault in first.faults], first.instances) == (["NotListedYet"], ())
        assert first.faults[0].retry_s is not None
        assert await provider.find("late") == ()

        async def found():
            return len(await provider.find("late")) == 2

        await bed.until(found)
        again = await provider.launch(ask("late"))
        assert (len(again.instances), again.faults) == (2, ())
        refused = await provider.launch(replace(ask("more"), count=2))
        assert [fault.kind for fault in refused.faults] == [FaultKind.QUOTA]
        await provider.close()

    for url in gcp_cloud(tmp_path, describe_lag_s=1.0, spot_instance_limit=3):
        asyncio.run(play(url))
