"""What Google's calls must not be led by: a region that hangs, a list that is not whole, another host, a machine that is not ready."""

import asyncio
import sys
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.base import FaultKind, LaunchRequest, PartialAnswerError, ProviderError
from holdfast_controller.providers.gcp import GcpProvider

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from bed_gcp import gcp_config, gcp_pool
from scripted_gcp import NOW, ScriptedGce, instance_json, listed_json, operation_json, operations_json

pytestmark = pytest.mark.timeout(60)  # the client library takes seconds to be imported on a busy machine
AWAY = "europe-west4-a"
HERE_PATH, AWAY_PATH = "zones/us-central1-a/", "zones/europe-west4-a/"
LOST = {"items": {}, "warning": {"code": "UNREACHABLE", "message": "some scopes do not answer"}}


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture
async def make_provider(gce, clock):
    made = []

    def make(**more):
        made.append(GcpProvider(gcp_config(gce.url, regions=("us-central1", "europe-west4"), **more), clock=clock))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
async def provider(make_provider):
    return make_provider()


def ask(launch_id="launch-1", zone="us-central1-a"):
    return LaunchRequest(launch_id, gcp_pool(zone=zone), 1, 1)


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


async def stopped(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_operations_that_hang_in_one_region_keep_no_launch_of_another_waiting(gce, make_provider):
    provider = make_provider(waiters=2)
    there = operation_json("RUNNING", zone=f"https://x/zones/{AWAY}")
    gce.say(f"{AWAY_PATH}instances/bulkInsert", there)
    gce.say(f"{AWAY_PATH}operations/operation-1/wait", there, silence_s=30)
    gce.say(f"{HERE_PATH}instances/bulkInsert", operation_json("RUNNING"))
    gce.say(f"{HERE_PATH}operations/operation-1/wait", operation_json(made=1))
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    hanging = [asyncio.create_task(provider.launch(ask(f"away-{number}", AWAY))) for number in range(3)]
    await until(lambda: len(gce.asked("wait")) == 2)
    async with asyncio.timeout(10):
        assert len((await provider.launch(ask())).instances) == 1
    assert not any(task.done() for task in hanging)
    await stopped(*hanging)


async def test_calls_that_hang_in_one_region_keep_neither_launches_nor_deletions_of_another_waiting(gce, make_provider):
    provider = make_provider(threads=1)
    gce.say("aggregated/instances", listed_json(instance_json(1), *(instance_json(n, launch="b", zone=AWAY) for n in (2, 3))))
    gce.say(f"{AWAY_PATH}instances/bulkInsert", operation_json("RUNNING"), silence_s=30)
    gce.say(f"{HERE_PATH}instances/bulkInsert", operation_json(made=1))
    await provider.instances()
    launch = asyncio.create_task(provider.launch(ask("away", AWAY)))
    await until(lambda: gce.asked("bulkInsert"))
    gce.say("DELETE", operation_json("RUNNING"))
    async with asyncio.timeout(10):
        assert len((await provider.launch(ask())).instances) == 1
        assert await provider.terminate(["1"]) == ()
        assert await provider.terminate(["2"]) == (), "nor those of the same region, behind another method"
    gce.answers.pop("DELETE")
    gce.say("DELETE", operation_json("RUNNING"), silence_s=30)
    gce.say("DELETE", operation_json("RUNNING"))
    deletion = asyncio.create_task(provider.terminate(["3"]))
    await until(lambda: len(gce.asked("DELETE")) == 3)
    async with asyncio.timeout(10):
        assert await provider.terminate(["1"]) == ()
    assert not launch.done()
    assert not deletion.done()
    await stopped(launch, deletion)


@pytest.mark.parametrize("empty", ["NO_RESULTS_ON_PAGE", ""])
async def test_a_warning_of_a_whole_page_is_a_list_of_nothing_known(gce, provider, clock, empty):
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    gce.say("aggregated/instances", LOST)
    gce.say("aggregated/instances", listed_json(instance_json(1)) | {"warning": {"code": empty, "message": "none"}})
    await provider.instances()
    await clock.advance(3600)
    for asked in (provider.instances, lambda: provider.find("launch-1"), lambda: provider.terminate(["99"])):
        gce.answers["aggregated/instances"].insert(0, gce.answers["aggregated/instances"][0])
        with pytest.raises(ProviderError) as raised:
            await asked()
        assert raised.value.fault.kind is FaultKind.TRANSIENT
    gce.answers["aggregated/instances"].pop(0)
    assert [(each.instance_id, each.state) for each in await provider.instances()] == [("1", "running")]


async def test_a_warning_of_any_page_counts(gce, provider):
    gce.say("aggregated/instances", listed_json(instance_json(1), token="more") | {"warning": LOST["warning"]})
    gce.say("aggregated/instances", listed_json(instance_json(2)))
    with pytest.raises(ProviderError):
        await provider.instances()


async def test_a_list_without_the_zone_of_a_known_machine_says_nothing_of_that_region(gce, provider, clock):
    gce.say("aggregated/instances", listed_json(instance_json(1), instance_json(2, zone=AWAY)))
    said = listed_json(instance_json(1))
    del said["items"][f"zones/{AWAY}"]
    gce.say("aggregated/instances", said)
    gce.say("aggregated/operations", operations_json())
    assert len(await provider.instances()) == 2
    for _ in range(3):
        await clock.advance(700)
        with pytest.raises(PartialAnswerError) as raised:
            await provider.instances()
        assert [(each.instance_id, each.state) for each in raised.value.instances] == [("1", "running")]
        assert AWAY in raised.value.fault.message
    gce.answers.pop("aggregated/instances")
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    states = []
    for _ in range(2):
        states.append({each.instance_id: each.state for each in await provider.instances()})
        await clock.advance(700)
    assert states == [{"1": "running"}, {"1": "running", "2": "gone"}], "an empty zone is an answer"


async def test_reclaims_and_offers_are_unknown_after_a_warning_of_a_whole_page(gce, provider):
    gce.say("aggregated/operations", LOST)
    gce.say("aggregated/machineTypes", LOST)
    with pytest.raises(ProviderError):
        await provider.reclaims()
    with pytest.raises(ProviderError):
        await provider.offers()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(gce, provider, status):
    other = ScriptedGce()
    other.say("aggregated/instances", listed_json(instance_json(1)))
    gce.redirect("aggregated/instances", f"{other.url}/compute/v1/projects/sandbox-1/aggregated/instances", status)
    try:
        with pytest.raises(ProviderError) as raised:
            await provider.instances()
        assert raised.value.fault.kind is FaultKind.TRANSIENT
        assert other.requests == []
        assert len(gce.requests) == 1
    finally:
        other.stop()


async def test_a_private_endpoint_is_asked_directly_whatever_the_environment_says(gce, provider, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    proxy = ScriptedGce()
    for name, value in {"http_proxy": proxy.url, "HTTP_PROXY": proxy.url, "NETRC": str(netrc)}.items():
        monkeypatch.setenv(name, value)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    gce.say("aggregated/instances", listed_json(instance_json(1)))
    try:
        assert len(await provider.instances()) == 1
        assert proxy.requests == []
        assert not any("Authorization" in each["headers"] for each in gce.requests)
    finally:
        proxy.stop()


async def test_one_that_is_still_being_made_is_not_ended_by_a_refused_deletion(gce, provider):
    making, ending = instance_json(1, status="PROVISIONING"), instance_json(2, status="STOPPING")
    gce.say("aggregated/instances", listed_json(making, ending))
    gce.refuse("DELETE", "resourceNotReady", 400)
    await provider.instances()
    with pytest.raises(ProviderError) as raised:
        await provider.terminate(["1"])
    assert raised.value.fault.kind is FaultKind.TRANSIENT
    assert raised.value.fault.retry_s is not None
    assert await provider.terminate(["2"]) == (), "its end is under way"
    gce.answers.pop("DELETE")
    gce.say("DELETE", operation_json("RUNNING"))
    gce.refuse("DELETE", "resourceNotReady", 400)
    assert [await provider.terminate(["1"]) for _ in range(2)] == [(), ()], "what was accepted once is under way"
