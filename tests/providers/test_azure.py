"""The Azure provider's launches and calls, against a Resource Manager that says exactly what it is told to."""

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from azure_scripted import ScriptedArm, ident, machine, scale_set
from bed_azure import azure_config, azure_pool
from holdfast_common.errors import ConfigError
from holdfast_controller.providers.azure import AzureProvider
from holdfast_controller.providers.azure_wire import TAG_REQUEST, fingerprint, set_name
from holdfast_controller.providers.base import FaultKind, LaunchRequest, Market, ProviderError

pytestmark = pytest.mark.timeout(30)  # the SDK's first client takes a second on a busy machine

NAME = set_name("alpha", "launch-1")


def ask(count=2, minimum=None, **more):
    request = LaunchRequest("launch-1", azure_pool(), count, count if minimum is None else minimum, "#!/bin/sh\n", tags={"job": "7"})
    return replace(request, **more)


@pytest.fixture
def arm():
    server = ScriptedArm()
    yield server
    server.stop()


@pytest.fixture
async def make_provider(arm):
    made = []

    def make(**more):
        made.append(AzureProvider(azure_config(arm.url, **({"poll_s": 0.01} | more))))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
async def provider(make_provider):
    return make_provider()


def kinds(result):
    return [(fault.kind, fault.code) for fault in result.faults]


def earlier(request, **more):
    """The set of a launch that was asked for before."""
    tags = {"holdfast:cluster": "alpha", "holdfast:launch": request.launch_id, TAG_REQUEST: fingerprint(request)}
    return scale_set(NAME, tags=tags, **more)


async def test_one_write_under_the_condition_that_there_is_no_such_set(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "InProgress"})
    arm.lists("machines_of", machine(1, "Creating", power="running"), machine(2, "Creating", power="running"))
    result = await provider.launch(ask())
    assert [(each.instance_id, each.state) for each in result.instances] == [(ident(1), "pending"), (ident(2), "pending")]
    assert result.faults == ()
    (path, _, body) = arm.asked("put_set")[0]
    assert path.endswith(f"/virtualMachineScaleSets/{NAME}")
    assert body["sku"]["capacity"] == 2
    headers = {name.lower(): value for name, value in arm.headers[0].items()}
    assert headers["if-none-match"] == "*"
    assert headers["authorization"] == "Bearer holdfast-sandbox", "no credential of the environment goes over plain http"


async def test_launch_waits_until_hosts_are_found(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "InProgress"})
    arm.lists("machines_of")
    arm.lists("machines_of", machine(1, "Creating"), machine(2, "Creating"))
    arm.lists("machines_of", machine(1, "Creating", power="running"), machine(2, "Creating"))
    arm.lists("machines_of", machine(1, "Creating", power="running"), machine(2, "Creating", power="running"))
    result = await provider.launch(ask())
    assert (len(result.instances), result.faults) == (2, ())
    assert len(arm.asked("machines_of")) == 4


async def test_launch_that_takes_too_long_says_what_there_is(arm, make_provider):
    provider = make_provider(launch_timeout_s=0.1)
    arm.accepts(NAME)
    arm.say("operation", {"status": "InProgress"})
    arm.lists("machines_of", machine(1, "Creating", power="running"), machine(2, "Creating"))
    result = await provider.launch(ask())
    assert len(result.instances) == 2
    assert kinds(result) == [(FaultKind.TRANSIENT, "CallTimeout")]
    assert result.faults[0].retry_s is not None
    assert not arm.asked("delete_set")
    assert not arm.asked("delete_machines")


async def test_list_that_lags_behind_a_complete_set_is_waited_for(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "Succeeded"})
    arm.say("get_set", scale_set(NAME, capacity=2))
    arm.lists("machines_of")
    arm.lists("machines_of", machine(1))
    arm.lists("machines_of", machine(1), machine(2))
    result = await provider.launch(ask())
    assert (len(result.instances), result.faults) == (2, ())


@pytest.mark.parametrize(("code", "status"), [("SkuNotAvailable", 409), ("ZonalAllocationFailed", 409), ("AllocationFailed", 500)])
async def test_refusal_is_asked_once(arm, provider, code, status):
    arm.refuse("put_set", code, status=status)
    result = await provider.launch(ask())
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.CAPACITY, azure_pool().name)]
    assert [kind for kind, *_ in arm.requests] == ["put_set"]


async def test_throttle_does_not_blame_the_pool_and_says_when(arm, provider):
    arm.refuse("put_set", "OperationThrottled", status=429, Retry_After="17")
    result = await provider.launch(ask())
    assert [(fault.kind, fault.pool, fault.retry_s) for fault in result.faults] == [(FaultKind.THROTTLE, "", 17.0)]
    assert len(arm.requests) == 1


async def test_unregistered_resource_provider_is_not_registered_on_the_side(arm, provider):
    arm.refuse("put_set", "MissingSubscriptionRegistration", status=409)
    result = await provider.launch(ask())
    assert [fault.kind for fault in result.faults] == [FaultKind.CONFIG]
    assert len(arm.requests) == 1


async def test_failed_machine_is_deleted_and_the_others_kept(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "Failed", "error": {"code": "ZonalAllocationFailed", "message": "none left"}})
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="ZonalAllocationFailed"))
    arm.say("delete_machines", "", status=202)
    result = await provider.launch(ask(minimum=1))
    assert [each.instance_id for each in result.instances] == [ident(1)]
    assert kinds(result) == [(FaultKind.CAPACITY, "ZonalAllocationFailed")]
    assert [body for _, _, body in arm.asked("delete_machines")] == [{"instanceIds": ["vm2"]}]
    assert not arm.asked("delete_set")


async def test_less_than_the_minimum_is_deleted_as_a_whole(arm, provider):
    arm.accepts(NAME)
    error = {"code": "OverconstrainedZonalAllocationRequest", "message": "none left"}
    arm.say("operation", {"status": "Failed", "error": {"code": "DeploymentFailed", "message": "see details", "details": [error]}})
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="AllocationFailed"))
    arm.say("delete_set", "", status=202)
    result = await provider.launch(ask())
    assert result.instances == ()
    assert kinds(result) == [(FaultKind.CAPACITY, "OverconstrainedZonalAllocationRequest")]
    assert result.faults[0].pool == azure_pool().name
    assert len(arm.asked("delete_set")) == 1


async def test_what_a_failed_launch_deleted_was_not_reclaimed(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "Failed", "error": {"code": "AllocationFailed", "message": "none left"}})
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="AllocationFailed"))
    arm.say("delete_set", "", status=202)
    await provider.launch(ask())
    assert [(each.instance_id, each.state, each.reclaimed) for each in await provider.instances()] == [(ident(1), "gone", False)]


async def test_what_cannot_be_deleted_is_handed_to_the_caller(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "Failed", "error": {"code": "AllocationFailed", "message": "none left"}})
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="AllocationFailed"))
    arm.refuse("delete_set", "TooManyRequests", status=429)
    result = await provider.launch(ask())
    assert [each.instance_id for each in result.instances] == [ident(1)]
    assert kinds(result) == [(FaultKind.CAPACITY, "AllocationFailed")]


async def test_repeat_of_a_failed_launch_deletes_no_machine_that_runs(arm, provider):
    request = ask()
    arm.refuse("put_set", "ConditionNotMet", status=412)
    arm.say("get_set", earlier(request, state="Failed", capacity=2))
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="SkuNotAvailable"))
    arm.say("delete_machines", "", status=202)
    result = await provider.launch(request)
    assert [each.instance_id for each in result.instances] == [ident(1)]
    assert kinds(result) == [(FaultKind.CAPACITY, "SkuNotAvailable")]
    assert [body for _, _, body in arm.asked("delete_machines")] == [{"instanceIds": ["vm2"]}]
    assert not arm.asked("delete_set")


async def test_repeat_of_a_launch_of_which_nothing_ever_ran_begins_anew_after_this(arm, provider):
    request = ask()
    arm.refuse("put_set", "PreconditionFailed", status=412)
    arm.say("get_set", earlier(request, state="Failed", capacity=2))
    arm.lists("machines_of", machine(1, "Failed", failed="QuotaExceeded"), machine(2, "Failed", failed="AllocationFailed"))
    arm.say("delete_set", "", status=202)
    result = await provider.launch(request)
    assert (result.instances, kinds(result)) == ((), [(FaultKind.QUOTA, "QuotaExceeded")])
    assert len(arm.asked("delete_set")) == 1


@pytest.mark.parametrize("power", ["unknown", "starting", ""])
async def test_repeat_of_a_failed_launch_deletes_no_machine_whose_power_is_not_known(arm, provider, power):
    request = ask()
    arm.refuse("put_set", "ConditionNotMet", status=412)
    arm.say("get_set", earlier(request, state="Failed", capacity=2))
    arm.lists("machines_of", machine(1, "Failed", power=power), machine(2, "Failed", failed="SkuNotAvailable"))
    arm.say("delete_machines", "", status=202)
    arm.say("delete_set", "", status=202)
    result = await provider.launch(request)
    assert [(each.instance_id, each.state) for each in result.instances] == [(ident(1), "running")]
    assert kinds(result) == [(FaultKind.CAPACITY, "SkuNotAvailable")]
    assert [body for _, _, body in arm.asked("delete_machines")] == [{"instanceIds": ["vm2"]}]
    assert not arm.asked("delete_set")


@pytest.mark.parametrize("state", ["Succeeded", "Failed"])
async def test_ended_launch_starts_no_others(arm, provider, state):
    request = ask()
    arm.refuse("put_set", "PreconditionFailed", status=412)
    arm.say("get_set", earlier(request, state=state))
    arm.lists("machines_of")
    result = await provider.launch(request)
    assert result.instances == ()
    assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(FaultKind.TRANSIENT, None)]
    assert not arm.asked("delete_set"), "the empty set is what keeps the launch from being made again"


async def test_launch_whose_set_is_being_deleted_is_to_be_tried_later(arm, provider):
    request = ask()
    arm.refuse("put_set", "PreconditionFailed", status=412)
    arm.say("get_set", earlier(request, state="Deleting"))
    assert kinds(await provider.launch(request)) == [(FaultKind.TRANSIENT, "BeingDeleted")]


async def test_another_request_by_the_same_launch_id_is_refused(arm, provider):
    arm.refuse("put_set", "PreconditionFailed", status=412)
    arm.say("get_set", earlier(ask(count=3)))
    assert kinds(await provider.launch(ask())) == [(FaultKind.CONFIG, "LaunchIdMismatch")]


async def test_another_request_by_the_same_launch_id_hides_none_of_its_machines(arm, provider):
    arm.refuse("put_set", "PreconditionFailed", status=412)
    arm.say("get_set", earlier(ask(user_data="#!/bin/sh\n# as it was\n"), capacity=3))
    arm.lists("machines_of", machine(1, power="running"), machine(2, tags={}), machine(3, "Failed", failed="AllocationFailed"))
    result = await provider.launch(ask())
    assert kinds(result) == [(FaultKind.CONFIG, "LaunchIdMismatch")]
    assert [(each.instance_id, each.launch_id) for each in result.instances] == [(ident(1), "launch-1"), (ident(2), "launch-1")]
    arm.answers["machines_of"] = []
    arm.refuse("machines_of", "InternalServerError", status=500)
    result = await provider.launch(ask())
    assert (result.instances, [fault.kind for fault in result.faults]) == ((), [FaultKind.TRANSIENT]), "not known is not none"


async def test_machines_of_other_sets_are_none_of_a_launch_whatever_the_filter_lets_through(arm, provider):
    arm.accepts(NAME)
    arm.say("operation", {"status": "Failed", "error": {"code": "AllocationFailed", "message": "none left"}})
    strangers = machine(3, launch="launch-2"), machine(4, "Failed", failed="AllocationFailed", launch="launch-2", tags={})
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="AllocationFailed"), *strangers)
    arm.say("delete_machines", "", status=202)
    result = await provider.launch(ask(minimum=1))
    assert [each.instance_id for each in result.instances] == [ident(1)]
    assert [body for _, _, body in arm.asked("delete_machines")] == [{"instanceIds": ["vm2"]}]
    again = machine(5, launch="launch-2", tags={})
    arm.answers["machines_of"] = []
    arm.lists("machines_of", machine(1, power="running"), again)
    assert [each.instance_id for each in await provider.find("launch-1")] == [ident(1)]


async def test_any_failure_to_look_at_an_accepted_launch_is_transient(arm, provider):
    arm.accepts(NAME)
    arm.refuse("operation", "AuthorizationFailed", status=403)
    result = await provider.launch(ask())
    assert kinds(result) == [(FaultKind.TRANSIENT, "AuthorizationFailed")]
    assert result.faults[0].retry_s is not None


async def test_lost_answer_then_find(arm, make_provider):
    provider = make_provider(read_timeout_s=0.3)
    arm.say("put_set", scale_set(NAME), status=201, silence_s=10)
    result = await provider.launch(ask())
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]
    assert len(arm.asked("put_set")) == 1
    arm.released.set()
    arm.lists("machines_of", machine(1, power="running"), machine(2, "Failed", failed="AllocationFailed"))
    found = await provider.find("launch-1")
    assert [each.instance_id for each in found] == [ident(1)], "what could not be made is no instance"
    assert NAME in arm.asked("machines_of")[0][1]["$filter"]


async def test_calls_behind_a_hanging_one_do_not_wait_for_ever_nor_run_late(arm, make_provider):
    provider = make_provider(threads=1, read_timeout_s=20, call_timeout_s=0.4)
    while True:
        try:
            await provider.find("launch-0")  # the SDK is imported and connected
            break
        except ProviderError:
            continue
    arm.requests.clear()
    arm.say("machines", {"value": []}, silence_s=20)
    hanging = asyncio.create_task(provider.instances())
    await asyncio.sleep(0.05)
    assert kinds(await provider.launch(ask())) == [(FaultKind.TRANSIENT, "CallTimeout")]
    with pytest.raises(ProviderError) as raised:
        await hanging
    assert raised.value.fault.code == "CallTimeout"
    arm.released.set()
    assert await provider.find("launch-1") == ()  # its turn comes after the launch's, which was withdrawn
    assert not arm.asked("put_set")


async def test_no_link_leads_to_another_host(arm, provider):
    other = ScriptedArm()
    try:
        arm.say("put_set", scale_set(NAME), status=201, Azure_AsyncOperation=f"{other.url}/subscriptions/s/operations/1")
        assert kinds(await provider.launch(ask())) == [(FaultKind.TRANSIENT, "MalformedAnswer")]
        arm.lists("machines", machine(1), nextLink=f"{other.url}/subscriptions/s/virtualMachines?page=2")
        with pytest.raises(ProviderError) as raised:
            await provider.instances()
        assert raised.value.fault.code == "MalformedAnswer"
        arm.say("get_set", "", status=307, Location=f"{other.url}/elsewhere")
        arm.answers["put_set"] = []
        arm.refuse("put_set", "PreconditionFailed", status=412)
        assert [fault.kind for fault in (await provider.launch(ask())).faults] == [FaultKind.TRANSIENT]
        assert other.requests == []
    finally:
        other.stop()


@pytest.mark.parametrize("body", ["<html>Bad gateway", "[]", "7", '{"value": 7}', '{"value": [7]}', '{"value": {"a": "b"}}'])
async def test_nonsense_is_transient_and_no_listing(arm, provider, body):
    arm.say("machines", body)
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert raised.value.fault.kind is FaultKind.TRANSIENT


@pytest.mark.parametrize("body", ["<html>Bad gateway", "[]", '"x"'])
async def test_nonsense_after_a_creation_is_transient(arm, provider, body):
    arm.say("put_set", body, status=201)
    assert [fault.kind for fault in (await provider.launch(ask())).faults] == [FaultKind.TRANSIENT]
    arm.answers.clear()
    arm.accepts(NAME)
    arm.say("operation", body)
    assert [fault.kind for fault in (await provider.launch(ask())).faults] == [FaultKind.TRANSIENT]


async def test_refused_connection_is_a_transient_fault():
    provider = AzureProvider(azure_config("http://127.0.0.1:9"))
    assert [fault.kind for fault in (await provider.launch(ask())).faults] == [FaultKind.TRANSIENT]
    with pytest.raises(ProviderError):
        await provider.instances()
    await provider.close()


async def test_close_waits_for_no_client_that_is_being_made(arm, make_provider):
    provider = make_provider()
    lock = provider._arm._calls._clients._lock
    lock.acquire()
    waiting = asyncio.create_task(provider.find("launch-1"))
    await asyncio.sleep(0.05)
    late = threading.Timer(2, lock.release)
    late.start()
    begun = time.monotonic()
    await provider.close()
    assert time.monotonic() - begun < 1
    with pytest.raises(ProviderError) as raised:
        await waiting
    assert raised.value.fault.code == "Closed"
    assert arm.requests == []
    late.join()


async def test_closed_provider_makes_no_call(arm, make_provider):
    provider = make_provider()
    await provider.close()
    with pytest.raises(ProviderError):
        await provider.find("launch-1")
    assert kinds(await provider.launch(ask())) == [(FaultKind.TRANSIENT, "Closed")]
    assert arm.requests == []


@pytest.mark.parametrize(
    "change",
    [
        {"user_data": "x" * 65_536},
        {"count": 1001, "minimum": 1},
        {"tags": {f"t{number}": "x" for number in range(47)}},
        {"tags": {"job": "x" * 257}},
        {"tags": {"Job": "1", "job": "2"}},
        {"tags": {"azure-thing": "1"}},
        {"pool": azure_pool(zone="eastus-1")},
        {"pool": replace(azure_pool(), region="westus", name="azure/westus/1/Standard_ND96asr_v4/spot")},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_azure_would_not_take_is_refused_without_a_call(arm, provider, change):
    result = await provider.launch(replace(ask(), **change))
    assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(FaultKind.CONFIG, None)]
    assert arm.requests == []


def test_pools_are_checked_at_the_start():
    bad = [azure_pool(zone="a"), azure_pool(Market.ON_DEMAND), replace(azure_pool(), provider="aws")]
    with pytest.raises(ConfigError) as raised:
        AzureProvider(azure_config("http://127.0.0.1:9"), bad)
    assert len(raised.value.faults) == 2
    with pytest.raises(ConfigError, match="no image and no subnet"):
        AzureProvider(azure_config("http://127.0.0.1:9", images={}, subnets={}), [azure_pool()])


async def test_nothing_is_told_of_evictions_ahead(arm, provider):
    assert await provider.reclaims() == ()
    assert arm.requests == []


def test_sdk_is_imported_at_the_first_call_only():
    code = "import sys, holdfast_controller.providers.azure; print(sorted(name for name in sys.modules if name.split('.')[0] == 'azure'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
