"""The Google provider against a Compute Engine that says exactly what it is told to: launches, lists, ends."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import ConfigError
from holdfast_controller.providers.base import FaultKind, LaunchRequest, Market, PartialAnswerError, ProviderError
from holdfast_controller.providers.gcp import GcpProvider
from holdfast_controller.providers.gcp_config import GcpConfig

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from bed_gcp import gcp_config, gcp_pool
from scripted_gcp import NOW, instance_json, listed_json, operation_json, operations_json, preempted_json

pytestmark = pytest.mark.timeout(60)  # the client library takes seconds to be imported on a busy machine
POOL = gcp_pool()
CAPACITY = "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture
async def make_provider(gce, clock):
    made = []

    def make(**more):
        made.append(GcpProvider(gcp_config(gce.url, **more), clock=clock))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
async def provider(make_provider):
    return make_provider()


def ask(count=2, minimum=None, pool=POOL, **more):
    return LaunchRequest("launch-1", pool, count, count if minimum is None else minimum, **more)


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


def kinds(result):
    return [(fault.kind, fault.code) for fault in result.faults]


async def test_capacity_error_of_an_operation_is_a_refusal_and_asked_once(gce, provider):
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("wait", operation_json(made=0, errors=(CAPACITY,), httpErrorStatusCode=503))
    result = await provider.launch(ask())
    assert [(fault.kind, fault.code, fault.pool) for fault in result.faults] == [(FaultKind.CAPACITY, CAPACITY, POOL.name)]
    assert [each["path"] for each in gce.requests] == [
        "zones/us-central1-a/instances/bulkInsert",
        "zones/us-central1-a/operations/operation-1/wait",
    ]


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_a_throttle_does_not_blame_the_pool_and_is_asked_once(gce, provider, status):
    gce.refuse("bulkInsert", "rateLimitExceeded", status)
    result = await provider.launch(ask())
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.THROTTLE, "")]
    assert len(gce.requests) == 1


async def test_silence_is_a_transient_fault(gce, make_provider):
    gce.say("bulkInsert", operation_json("RUNNING"), silence_s=20)
    result = await make_provider(request_timeout_s=0.2).launch(ask())
    assert kinds(result) == [(FaultKind.TRANSIENT, "ReadTimeout")]
    assert len(gce.requests) == 1


@pytest.mark.parametrize("body", ["", "<html>Bad gateway", "[]", "{", '{"id": "x"}', '{"status": {}}'], ids=str)
async def test_an_answer_that_is_none_is_a_transient_fault(gce, provider, body):
    gce.say("bulkInsert", body)
    result = await provider.launch(ask())
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]


async def test_a_refused_connection_is_a_transient_fault():
    provider = GcpProvider(gcp_config("http://127.0.0.1:9"))
    assert [fault.kind for fault in (await provider.launch(ask())).faults] == [FaultKind.TRANSIENT]
    with pytest.raises(ProviderError):
        await provider.find("launch-1")
    await provider.close()


@pytest.mark.parametrize("how", [{}, {"credentials_file": "/nowhere/key.json"}], ids=str)
async def test_missing_credentials_are_an_authorization_fault(monkeypatch, how):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/default.json")
    provider = GcpProvider(gcp_config(None, **how))
    assert [fault.kind for fault in (await provider.launch(ask())).faults] == [FaultKind.AUTH]
    await provider.close()


async def test_an_operation_is_asked_for_at_the_configured_endpoint_without_credentials(gce, provider, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/default.json")
    gce.say(
        "bulkInsert",
        operation_json("RUNNING", zone=None, region="https://compute.googleapis.com/compute/v1/projects/p/regions/us-central1"),
    )
    gce.say("wait", operation_json("RUNNING"))
    gce.say("wait", operation_json(made=1))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    started = asyncio.create_task(provider.launch(ask(1, others=(gcp_pool(zone="us-central1-b"),))))
    while len(gce.asked("wait")) < 2:
        await asyncio.sleep(0.01)
        await provider._clock.advance(1)
    assert (await started).faults == ()
    assert {each["path"] for each in gce.asked("wait")} == {"regions/us-central1/operations/operation-1/wait"}
    assert {each["headers"]["Host"] for each in gce.requests} == {gce.url.removeprefix("http://")}
    assert not any("Authorization" in each["headers"] for each in gce.requests)


async def test_an_operation_without_end_is_a_transient_fault(gce, make_provider):
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("wait", operation_json("RUNNING"), silence_s=20)
    result = await make_provider(operation_timeout_s=0.3).launch(ask())
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]
    assert result.faults[0].retry_s is not None


async def test_an_operation_that_is_not_found_says_nothing_of_the_launch(gce, provider):
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.refuse("wait", "notFound", 404)
    result = await provider.launch(ask())
    assert [(fault.kind, fault.retry_s is None) for fault in result.faults] == [(FaultKind.TRANSIENT, False)]


async def test_lists_do_not_stand_behind_operations_nor_run_late(gce, make_provider):
    provider = make_provider(threads=1, waiters=1)
    gce.say("aggregated/instances", listed_json())
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("wait", operation_json("RUNNING"), silence_s=20)
    launch = asyncio.create_task(provider.launch(ask()))
    await until(lambda: gce.asked("wait"))
    assert await provider.instances() == ()
    launch.cancel()


async def test_calls_behind_a_hanging_one_are_given_up_and_never_made(gce, make_provider):
    provider = make_provider(threads=1, call_timeout_s=0.3)
    gce.say("aggregated/instances", listed_json())
    gce.say("aggregated/operations", operations_json())
    for _ in range(100):  # until the client library is imported
        try:
            await provider.instances()
            break
        except ProviderError:
            continue
    gce.answers.clear()
    gce.say("aggregated/instances", listed_json(), silence_s=20)
    gce.say("aggregated/operations", operations_json())
    hanging = asyncio.create_task(provider.instances())
    await asyncio.sleep(0.05)
    with pytest.raises(ProviderError) as raised:
        await provider.reclaims()
    assert raised.value.fault.code == "CallTimeout"
    with pytest.raises(ProviderError):
        await hanging
    gce.released.set()
    await asyncio.sleep(0.1)
    assert gce.asked("aggregated/operations") == []


async def test_a_failed_try_that_compute_engine_remembers_is_stepped_over(gce, provider):
    gce.say("bulkInsert", operation_json(errors=(CAPACITY,)))
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("bulkInsert", operation_json(made=1))
    gce.say("wait", operation_json(made=1))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    for _ in range(2):
        result = await provider.launch(ask(1))
        assert (result.faults, len(result.instances)) == ((), 1)
    tokens = [each["query"]["requestId"] for each in gce.asked("bulkInsert")]
    assert tokens[0] != tokens[1] == tokens[2], "what was made is asked for again by the token that made it"
    names = {tuple(each["body"]["perInstanceProperties"]) for each in gce.asked("bulkInsert")}
    assert len(names) == 1, "a second set could be made only beside names that are taken"


async def test_tries_that_failed_before_have_an_end_that_says_why(gce, provider):
    gce.say("bulkInsert", operation_json(errors=(CAPACITY,)))
    assert kinds(await provider.launch(ask())) == [(FaultKind.CAPACITY, CAPACITY)]
    assert len({each["query"]["requestId"] for each in gce.requests}) == len(gce.requests) == 16


async def test_names_that_are_taken_are_the_launch_come_again(gce, provider):
    gce.refuse("bulkInsert", "alreadyExists", 409)
    gce.say("aggregated/instances", listed_json(instance_json(1), instance_json(2)))
    result = await provider.launch(ask())
    assert [each.instance_id for each in result.instances] == ["1", "2"]
    assert result.faults == ()


async def test_names_that_are_taken_in_the_operation_are_the_same(gce, provider):
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("wait", operation_json(made=0, errors=("RESOURCE_ALREADY_EXISTS",)))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    result = await provider.launch(ask())
    assert [each.instance_id for each in result.instances] == ["1"]
    assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(FaultKind.TRANSIENT, None)]


async def test_names_that_are_taken_by_nothing_listed_wait_for_the_list(gce, provider):
    gce.refuse("bulkInsert", "alreadyExists", 409)
    gce.say("aggregated/instances", listed_json())
    result = await provider.launch(ask())
    assert kinds(result) == [(FaultKind.TRANSIENT, "NotListedYet")]
    assert result.faults[0].retry_s is not None


async def test_a_launch_id_used_for_another_request_is_a_configuration_fault_beside_what_lives(gce, provider):
    gce.refuse("bulkInsert", "alreadyExists", 409)
    gce.say("aggregated/instances", listed_json(instance_json(1, **{"holdfast:request": "another"})))
    result = await provider.launch(ask())
    assert kinds(result) == [(FaultKind.CONFIG, "LaunchIdReused")]
    assert [each.instance_id for each in result.instances] == ["1"]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["QUOTA_EXCEEDED"], [(FaultKind.QUOTA, "QUOTA_EXCEEDED")]),
        ([CAPACITY, CAPACITY], [(FaultKind.CAPACITY, CAPACITY)]),
        (["VM_MIN_COUNT_NOT_REACHED", "IP_SPACE_EXHAUSTED"], [(FaultKind.QUOTA, "IP_SPACE_EXHAUSTED")]),
        ([], [(FaultKind.CAPACITY, "FewerThanAsked")]),
    ],
    ids=str,
)
async def test_a_part_says_why_it_is_no_more(gce, provider, reasons, expected):
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("wait", operation_json(made=1))
    gce.say("aggregated/operations", operations_json(*(operation_json(errors=(code,)) for code in reasons)))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    result = await provider.launch(ask(3, 1))
    assert (len(result.instances), kinds(result)) == (1, expected)
    assert gce.asked("aggregated/operations")[0]["query"]["filter"] == 'operationGroupId = "g1"'


async def test_too_few_for_the_minimum_is_told_by_the_single_instances(gce, provider):
    gce.say("bulkInsert", operation_json("RUNNING"))
    gce.say("wait", operation_json(made=0, errors=("VM_MIN_COUNT_NOT_REACHED",)))
    gce.say("aggregated/operations", operations_json(operation_json(errors=("QUOTA_EXCEEDED",))))
    assert kinds(await provider.launch(ask())) == [(FaultKind.QUOTA, "QUOTA_EXCEEDED")]
    gce.answers.pop("aggregated/operations")
    assert kinds(await provider.launch(ask())) == [(FaultKind.CAPACITY, "VM_MIN_COUNT_NOT_REACHED")]


@pytest.mark.parametrize(
    ("ended", "code", "again"),
    [("2023-11-14T14:13:10.000-08:00", "NotListedYet", True), ("2023-11-14T14:11:10.000-08:00", "LaunchSpent", False)],
)
async def test_what_was_made_and_is_not_listed_is_late_or_has_ended(gce, provider, ended, code, again):
    gce.say("bulkInsert", operation_json(made=2, endTime=ended))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    result = await provider.launch(ask())
    assert (len(result.instances), kinds(result)) == (1, [(FaultKind.TRANSIENT, code)])
    assert (result.faults[0].retry_s is not None) == again


async def test_a_launch_whose_list_fails_is_a_transient_fault(gce, provider):
    gce.say("bulkInsert", operation_json(made=2))
    gce.refuse("aggregated/instances", "backendError", 503)
    result = await provider.launch(ask())
    assert (kinds(result), result.instances) == ([(FaultKind.TRANSIENT, "backendError")], ())


async def test_large_launch_is_several_calls_that_stop_at_the_first_refusal(gce, provider):
    gce.say("bulkInsert", operation_json(made=1000))
    gce.refuse("bulkInsert", "quotaExceeded", 403)
    gce.say("aggregated/instances", listed_json(*(instance_json(number) for number in range(1, 1001))))
    result = await provider.launch(ask(2500))
    assert len(result.instances) == 1000
    assert kinds(result) == [(FaultKind.QUOTA, "quotaExceeded")]
    assert [(each["body"]["count"], each["body"]["minCount"]) for each in gce.asked("bulkInsert")] == [("1000", "1000")] * 2


async def test_a_list_is_whole_or_none(gce, make_provider):
    provider = make_provider(page_size=2)
    gce.say("aggregated/instances", listed_json(instance_json(1), instance_json(2), token="more"))
    gce.say("aggregated/instances", listed_json(instance_json(3)))
    assert [each.instance_id for each in await provider.instances()] == ["1", "2", "3"]
    assert [each["query"].get("pageToken") for each in gce.requests] == [None, "more"]
    assert {each["query"]["maxResults"] for each in gce.requests} == {"2"}
    gce.answers.clear()
    gce.say("aggregated/instances", listed_json(instance_json(1), token="more"))
    gce.refuse("aggregated/instances", "backendError", 503)
    with pytest.raises(ProviderError):
        await provider.instances()


async def test_a_list_without_end_is_given_up(gce, provider):
    gce.say("aggregated/instances", listed_json(instance_json(1), token="again"))
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert raised.value.fault.code == "EndlessListing"


@pytest.mark.parametrize(
    "silent", [{"unreachable": ("zones/europe-west4-a",)}, {"unreachable": ("zones/europe-west4-b",), "why": "UNREACHABLE"}], ids=str
)
async def test_a_silent_region_hides_nothing_of_the_others_and_ends_nothing_of_its_own(gce, make_provider, silent, clock):
    provider = make_provider(regions=("us-central1", "europe-west4"))
    away = instance_json(2, zone="europe-west4-a")
    gce.say("aggregated/instances", listed_json(instance_json(1), away))
    gce.say("aggregated/operations", operations_json())
    assert len(await provider.instances()) == 2
    await clock.advance(3600)
    gce.answers["aggregated/instances"] = []
    gce.say("aggregated/instances", listed_json(instance_json(1), **silent))
    for _ in range(3):
        with pytest.raises(PartialAnswerError) as raised:
            await provider.instances()
        assert [(each.instance_id, each.state) for each in raised.value.instances] == [("1", "running")]
        assert raised.value.fault.kind is FaultKind.TRANSIENT
        await clock.advance(600)
    with pytest.raises(PartialAnswerError):
        await provider.find("launch-1")


async def test_where_no_region_answers_there_is_no_partial_answer(gce, provider):
    gce.say("aggregated/instances", listed_json(unreachable=("zones/us-central1-a",)))
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert not isinstance(raised.value, PartialAnswerError)


async def test_a_silent_region_that_is_not_ours_does_not_matter(gce, provider):
    gce.say("aggregated/instances", listed_json(instance_json(1), unreachable=("zones/asia-east1-a", "regions/asia-east1")))
    assert len(await provider.instances()) == 1


async def test_find_believes_tags_not_filters(gce, provider):
    foreign = instance_json(3, **{"holdfast:cluster": "beta"})
    gce.say("aggregated/instances", listed_json(instance_json(1), instance_json(2, launch="launch-10"), foreign))
    assert [each.instance_id for each in await provider.find("launch-1")] == ["1"]


async def test_after_a_restart_an_instance_is_found_before_it_is_ended_by_its_id(gce, provider):
    gce.say("aggregated/instances", listed_json(instance_json(11), instance_json(12, zone="us-central1-b")))
    gce.say("DELETE", operation_json("RUNNING"))
    assert await provider.terminate(["12", "99", "hf-1", "-1"]) == ("99", "hf-1", "-1")
    assert [each["path"] for each in gce.asked("DELETE")] == ["zones/us-central1-b/instances/12"]
    assert await provider.terminate(["11"]) == ()
    assert len(gce.asked("aggregated/instances")) == 1, "what has been seen is remembered"


async def test_an_unknown_id_is_not_gone_by_a_list_that_is_not_whole(gce, make_provider):
    provider = make_provider(regions=("us-central1", "europe-west4"))
    gce.say("aggregated/instances", listed_json(instance_json(11), unreachable=("zones/europe-west4-a",)))
    gce.say("DELETE", operation_json("RUNNING"))
    with pytest.raises(ProviderError):
        await provider.terminate(["99", "11"])
    assert [each["path"] for each in gce.asked("DELETE")] == ["zones/us-central1-a/instances/11"], "the others are asked for"


async def test_one_that_may_not_be_deleted_keeps_no_other_alive_and_is_told(gce, provider):
    gce.say("aggregated/instances", listed_json(*(instance_json(number) for number in (1, 2, 3, 4))))
    gce.refuse("DELETE", "resourceInUseByAnotherResource", 400)
    gce.refuse("DELETE", "notFound", 404)
    gce.refuse("DELETE", "resourceNotReady", 400)
    gce.say("DELETE", operation_json("RUNNING"))
    with pytest.raises(ProviderError) as raised:
        await provider.terminate(["1", "2", "3", "4"])
    assert raised.value.fault.code == "resourceInUseByAnotherResource"
    assert len(gce.asked("DELETE")) == 4
    gce.answers["DELETE"] = gce.answers["DELETE"][-1:]
    assert len(await provider.terminate(["1", "2", "3", "4"])) == 1, "only what was not found is gone"


async def test_how_an_instance_ended_is_told_by_the_operations(gce, provider, clock):
    gce.say("aggregated/instances", listed_json(*(instance_json(number) for number in (1, 2, 3))))
    gce.say("DELETE", operation_json("RUNNING"))
    await provider.instances()
    await provider.terminate(["1", "2"])
    gce.answers["aggregated/instances"] = []
    gce.say("aggregated/instances", listed_json())
    gce.refuse("aggregated/operations", "backendError", 503)
    with pytest.raises(PartialAnswerError) as raised:
        await provider.instances()
    assert raised.value.instances == (), "who took them is not known yet"
    gce.answers.pop("aggregated/operations")
    gce.say("aggregated/operations", operations_json(preempted_json(2, "2023-11-14T14:13:20.000-08:00")))
    found = {each.instance_id: each for each in await provider.instances()}
    assert {iid: (each.state, each.reclaimed) for iid, each in found.items()} == {"1": ("gone", False), "2": ("gone", True)}
    assert all(each.state_reason for each in found.values())
    await clock.advance(599)
    assert "3" not in {each.instance_id for each in await provider.instances()}, "a list may lag for that long"
    await clock.advance(2)
    assert {each.instance_id: each.reclaimed for each in await provider.instances()}["3"] is False
    await clock.advance(3600)
    assert await provider.instances() == ()


async def test_an_instance_that_comes_back_was_never_gone(gce, provider, clock):
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    gce.say("aggregated/instances", listed_json())
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    gce.say("aggregated/operations", operations_json())
    states = []
    for _ in range(3):
        states.append([each.state for each in await provider.instances()])
        await clock.advance(700)
    assert states == [["running"], [], ["running"]]


async def test_a_preemption_is_told_while_the_machine_has_its_half_minute(gce, provider, clock):
    gce.say("aggregated/operations", operations_json(preempted_json(1, "2023-11-14T14:13:10.000-08:00"), preempted_json(2, "nonsense")))
    gce.say("aggregated/instances", listed_json(instance_json(1, status="STOPPING"), instance_json(2)))
    (said,) = await provider.reclaims()
    assert (said.instance_id, said.deadline) == ("1", NOW + 20)
    assert said.reason
    await clock.advance(40)
    gce.requests.clear()
    assert await provider.reclaims() == ()
    assert [each["path"] for each in gce.requests] == ["aggregated/operations"], "nothing near its end needs no list"


async def test_reclaims_of_a_silent_region_are_unknown(gce, provider):
    gce.say("aggregated/operations", {"items": {"zones/us-central1-a": {"warning": {"code": "UNREACHABLE"}}}})
    with pytest.raises(PartialAnswerError) as raised:
        await provider.reclaims()
    assert raised.value.reclaims == ()


async def test_a_price_cap_is_held_against_the_price_that_is_known(gce, make_provider):
    capped = replace(POOL, price_cap_usd_h=10.0)
    provider = make_provider(spot_usd_h={})
    gce.say("aggregated/instances", listed_json())
    gce.refuse("capacityHistory", "rateLimitExceeded", 403)
    assert kinds(await provider.launch(ask(pool=capped))) == [(FaultKind.THROTTLE, "rateLimitExceeded")]
    gce.answers.pop("capacityHistory")
    gce.say("capacityHistory", {"machineType": "a2-highgpu-8g"})
    assert kinds(await provider.launch(ask(pool=capped))) == [(FaultKind.CONFIG, "PriceUnknown")]
    gce.answers.pop("capacityHistory")
    price = {"listPrice": {"currencyCode": "USD", "units": "10", "nanos": 1}, "interval": {"startTime": "2023-11-01T00:00:00Z"}}
    gce.say("capacityHistory", {"priceHistory": [price]})
    assert kinds(await provider.launch(ask(pool=capped))) == [(FaultKind.CAPACITY, "PriceCapTooLow")]
    assert gce.asked("bulkInsert") == []
    dear = gcp_pool(Market.ON_DEMAND)
    gce.say("bulkInsert", operation_json(made=1))
    gce.answers.pop("aggregated/instances")
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    assert (await provider.launch(ask(1, pool=replace(dear, price_cap_usd_h=1.0)))).faults == (), "the cap is of spot prices"


async def test_offers_are_whole_or_none(gce, provider):
    gce.say("aggregated/machineTypes", {"items": {"zones/us-central1-a": {"warning": {"code": "UNREACHABLE"}}}})
    with pytest.raises(ProviderError):
        await provider.offers()


async def test_a_wrong_request_never_reaches_compute_engine(gce, provider, make_provider):
    elsewhere = gcp_pool(zone="europe-west4-a")
    wrong = [
        ask(pool=elsewhere),
        ask(others=(elsewhere,)),
        ask(pool=replace(POOL, region="europe-west4")),
        ask(user_data="é" * 131_073),
        ask(tags={"job": "x" * 70_000}),
        ask(tags={"a/b": "c"}),
    ]
    for request in wrong:
        assert [fault.kind for fault in (await provider.launch(request)).faults] == [FaultKind.CONFIG]
    assert [fault.kind for fault in (await make_provider(image="").launch(ask())).faults] == [FaultKind.CONFIG]
    assert gce.requests == []


def test_pools_are_checked_at_the_start():
    with pytest.raises(ConfigError) as raised:
        GcpProvider(gcp_config(None), [POOL, replace(POOL, name="wrong"), replace(POOL, provider="aws")])
    assert len(raised.value.faults) == 2


async def test_closed_provider_says_so(gce, provider):
    await provider.close()
    assert [fault.code for fault in (await provider.launch(ask())).faults] == ["Closed"]
    with pytest.raises(ProviderError):
        await provider.instances()
    assert gce.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"regions": ()},
        {"regions": ("r", "r")},
        {"project": "No Project"},
        {"cluster": "a b"},
        {"nonsense": 1},
        {"call_timeout_s": 0},
        {"endpoint_url": "ftp://x"},
        {"endpoint_url": "http://127.0.0.1:1/path"},
        {"endpoint_url": "http://127.0.0.1:1", "credentials_file": "/key.json"},
        {"preemption_notice_s": -1},
    ],
    ids=str,
)
def test_settings_are_strict(wrong):
    with pytest.raises(ValueError, match=r"validation error"):
        GcpConfig.model_validate({"cluster": "alpha", "project": "p-1", "regions": ("us-central1",)} | wrong)


def test_the_client_library_is_not_imported_before_it_is_used():
    code = (
        "import sys; from holdfast_controller.providers.gcp import GcpProvider;"
        "from holdfast_controller.providers.gcp_config import GcpConfig;"
        "GcpProvider(GcpConfig(cluster='a', project='p', regions=('us-central1',)));"
        "print([name for name in sys.modules if name.startswith(('google.cloud', 'google.auth', 'google.api_core', 'requests', 'proto.'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
