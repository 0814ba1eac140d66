"""A launch that is asked for again, on Google: never a second set, never a lost one, whatever has changed meanwhile."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.base import FaultKind, LaunchRequest
from holdfast_controller.providers.gcp import GcpProvider
from holdfast_controller.providers.gcp_wire import call_digest, digest_of

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from bed_gcp import gcp_config, gcp_pool
from scripted_gcp import NOW, instance_json, listed_json, operation_json

pytestmark = pytest.mark.timeout(60)  # the client library takes seconds to be imported on a busy machine
CAPACITY = "ZONE_RESOURCE_POOL_EXHAUSTED"
NOW_TEXT, BEFORE_TEXT = "2023-11-14T14:13:20.000-08:00", "2023-11-14T14:12:00.000-08:00"
SIBLING = gcp_pool(zone="us-central1-b")
CAPPED = replace(gcp_pool(), price_cap_usd_h=10.0)


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture
async def provider(gce, clock):
    made = GcpProvider(gcp_config(gce.url, spot_usd_h={}), clock=clock)
    yield made
    await made.close()


def ask(count=8, minimum=1, pool=None, **more):
    return LaunchRequest("launch-1", pool or gcp_pool(), count, minimum, **more)


def kinds(result):
    return [(fault.kind, fault.code) for fault in result.faults]


def ids(result):
    return {each.instance_id for each in result.instances}


def price(usd_h):
    said = {"listPrice": {"currencyCode": "USD", "units": str(usd_h)}, "interval": {"startTime": "2023-11-01T00:00:00Z"}}
    return {"priceHistory": [said]}


async def rises(gce, provider):
    gce.answers.pop("capacityHistory")
    gce.say("capacityHistory", price(11))
    await provider.quotes([CAPPED])


@pytest.mark.parametrize("others", [(), (SIBLING,)], ids=["zonal", "regional"])
async def test_an_earlier_try_that_made_some_is_the_last(gce, provider, others):
    for _ in range(2):
        gce.say("bulkInsert", operation_json(made=6, errors=(CAPACITY,), insertTime=BEFORE_TEXT))
    gce.say("bulkInsert", operation_json(made=8))
    gce.say("aggregated/instances", listed_json(*(instance_json(number) for number in range(1, 7))))
    for _ in range(2):
        result = await provider.launch(ask(others=others))
        assert len(result.instances) == 6
        assert {fault.kind for fault in result.faults} == {FaultKind.CAPACITY}
    assert len({each["query"]["requestId"] for each in gce.asked("bulkInsert")}) == 1, "no new request id, so no second set"


async def test_an_earlier_try_of_which_nobody_knows_what_it_made_is_the_last_where_the_region_chooses(gce, provider):
    gce.say("bulkInsert", operation_json(errors=(CAPACITY,), insertTime=BEFORE_TEXT))
    result = await provider.launch(ask(others=(SIBLING,)))
    assert {fault.kind for fault in result.faults} == {FaultKind.CAPACITY}
    assert len(gce.asked("bulkInsert")) == 1


async def test_more_than_asked_for_is_never_silent(gce, provider):
    gce.say("bulkInsert", operation_json(made=2))
    gce.say("aggregated/instances", listed_json(*(instance_json(number) for number in (1, 2, 3))))
    result = await provider.launch(ask(2))
    assert ids(result) == {"1", "2", "3"}
    assert [(fault.kind, fault.code, fault.retry_s) for fault in result.faults] == [(FaultKind.TRANSIENT, "MoreThanAsked", None)]


async def test_an_operation_that_has_failed_in_its_first_answer_is_one_call_and_says_why(gce, provider):
    gce.say("bulkInsert", operation_json(made=0, errors=(CAPACITY,), insertTime=NOW_TEXT))
    assert kinds(await provider.launch(ask())) == [(FaultKind.CAPACITY, CAPACITY)]
    assert len(gce.asked("bulkInsert")) == 1


async def test_after_it_the_next_try_is_another_one(gce, provider, clock):
    gce.say("bulkInsert", operation_json(made=0, errors=(CAPACITY,), insertTime=NOW_TEXT))
    await provider.launch(ask())
    await clock.advance(60)
    gce.say("bulkInsert", operation_json(made=0, errors=(CAPACITY,), insertTime=NOW_TEXT))
    gce.say("bulkInsert", operation_json(made=1))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    gce.answers["bulkInsert"].pop(0)
    assert kinds(await provider.launch(ask(1))) == []
    first, again, other = (each["query"]["requestId"] for each in gce.asked("bulkInsert"))
    assert first == again != other


async def test_names_that_an_earlier_try_found_taken_are_not_asked_for_under_another_number(gce, provider):
    gce.say("bulkInsert", operation_json(made=0, errors=("RESOURCE_ALREADY_EXISTS",), insertTime=BEFORE_TEXT))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    assert ids(await provider.launch(ask(1))) == {"1"}
    assert len(gce.asked("bulkInsert")) == 1


async def test_what_was_called_in_another_way_is_returned_and_not_called_again(gce, provider):
    """The policy named one pool when the controller died, and names two now: the regional call would not know the zonal one's token."""
    before = ask(2)
    tags = {"holdfast:request": digest_of(before), "holdfast:call": call_digest(gcp_config(gce.url), before)}
    gce.say("bulkInsert", operation_json(made=2))
    gce.say("aggregated/instances", listed_json(instance_json(1, **tags), instance_json(2, **tags)))
    await provider.find("launch-1")
    now = replace(before, others=(SIBLING,))
    result = await provider.launch(now)
    assert (ids(result), result.faults) == ({"1", "2"}, ())
    gce.answers.pop("aggregated/instances")
    gce.say("aggregated/instances", listed_json(instance_json(1, **tags)))
    result = await provider.launch(now)
    assert (ids(result), [(fault.kind, fault.retry_s) for fault in result.faults]) == ({"1"}, [(FaultKind.TRANSIENT, None)])
    assert gce.asked("bulkInsert") == []
    assert kinds(await provider.launch(before)) == [(FaultKind.TRANSIENT, "LaunchSpent")]
    assert len(gce.asked("bulkInsert")) == 1, "the same call is known again"


async def test_another_request_under_the_same_id_is_not_made_where_instances_are_known(gce, provider):
    gce.say("aggregated/instances", listed_json(instance_json(1, **{"holdfast:request": "another"})))
    await provider.find("launch-1")
    result = await provider.launch(ask())
    assert (ids(result), kinds(result)) == ({"1"}, [(FaultKind.CONFIG, "LaunchIdReused")])
    assert gce.asked("bulkInsert") == []


async def test_a_launch_whose_answer_was_lost_is_found_though_the_price_has_risen(gce, provider, clock):
    gce.say("capacityHistory", price(9))
    gce.refuse("bulkInsert", "backendError", 503)
    assert kinds(await provider.launch(ask(2, pool=CAPPED))) == [(FaultKind.TRANSIENT, "backendError")]
    await rises(gce, provider)
    gce.say("aggregated/instances", listed_json())
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    gce.say("aggregated/instances", listed_json(instance_json(1), instance_json(2)))
    late = [(FaultKind.TRANSIENT, "NotListedYet")]
    seen = [await provider.launch(ask(2, pool=CAPPED)) for _ in range(3)]
    assert [(ids(result), kinds(result)) for result in seen] == [(set(), late), ({"1"}, late), ({"1", "2"}, [])]
    assert len(gce.asked("bulkInsert")) == 1, "above the cap nothing is asked for"
    gce.answers.pop("aggregated/instances")
    gce.say("aggregated/instances", listed_json())
    await clock.advance(250)
    assert kinds(await provider.launch(ask(2, pool=CAPPED))) == [(FaultKind.CAPACITY, "PriceCapTooLow")]


async def test_what_an_earlier_process_launched_is_found_though_the_price_has_risen(gce, provider):
    gce.say("capacityHistory", price(11))
    gce.refuse("aggregated/instances", "backendError", 503)
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    gce.say("aggregated/instances", listed_json(instance_json(1), instance_json(2)))
    seen = [await provider.launch(ask(2, pool=CAPPED)) for _ in range(3)]
    assert [(ids(result), kinds(result)) for result in seen] == [
        (set(), [(FaultKind.TRANSIENT, "backendError")]),
        ({"1"}, [(FaultKind.CAPACITY, "PriceCapTooLow")]),
        ({"1", "2"}, []),
    ]


@pytest.mark.parametrize("reason", ["rateLimitExceeded", "quotaExceeded"])
async def test_a_refused_call_made_nothing_so_that_the_cap_alone_decides(gce, provider, reason):
    gce.say("capacityHistory", price(9))
    gce.refuse("bulkInsert", reason, 403)
    await provider.launch(ask(2, pool=CAPPED))
    await rises(gce, provider)
    gce.say("aggregated/instances", listed_json())
    assert kinds(await provider.launch(ask(2, pool=CAPPED))) == [(FaultKind.CAPACITY, "PriceCapTooLow")]
