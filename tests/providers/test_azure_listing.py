"""What the Azure provider lists, deletes and tells of ends, against a Resource Manager that says exactly what it is told to."""

import pytest
from azure_scripted import COMPUTE, ScriptedArm, card, ident, machine, scale_set
from bed_azure import azure_config, azure_pool
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.azure import AzureProvider
from holdfast_controller.providers.azure_wire import set_name
from holdfast_controller.providers.base import FaultKind, Market, ProviderError, Quote

pytestmark = pytest.mark.timeout(30)

NAME = set_name("alpha", "launch-1")
HOUR = 3600.0


@pytest.fixture
def arm():
    server = ScriptedArm()
    yield server
    server.stop()


@pytest.fixture
def clock():
    return VirtualClock()  # the scripted machines were made about a quarter of an hour before its start


@pytest.fixture
async def make_provider(arm, clock):
    made = []

    def make(**more):
        made.append(AzureProvider(azure_config(arm.url, **more), clock=clock))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture
async def provider(make_provider):
    return make_provider()


def again(arm, kind, *items):
    """From now on a listing says this."""
    arm.answers[kind] = []
    arm.lists(kind, *items)


def deleted(arm):
    """The machines whose deletion was asked for, one by one."""
    return [path.rpartition("/")[2] for path, _, _ in arm.asked("delete_machine")]


def told(instances):
    return {each.instance_id: (each.state, each.reclaimed) for each in instances}


async def test_listing_is_whole_or_none(arm, provider):
    following = f"{arm.url}{COMPUTE}/virtualMachines?page=2"
    arm.lists("machines", machine(1), machine(2, cluster="beta"), nextLink=following)
    arm.lists("machines", machine(3), machine(4, tags={}, virtualMachineScaleSet={"id": "/other"}))
    assert set(told(await provider.instances())) == {ident(1), ident(3)}
    assert [query.get("page") for _, query, _ in arm.asked("machines")] == [None, "2"]

    arm.answers["machines"] = []
    arm.lists("machines", machine(1), nextLink=following)
    arm.refuse("machines", "InternalServerError", status=500)
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert raised.value.fault.kind is FaultKind.TRANSIENT


async def test_listing_without_end_is_given_up(arm, provider):
    arm.lists("machines", machine(1), nextLink=f"{arm.url}{COMPUTE}/virtualMachines?page=2")
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert raised.value.fault.code == "EndlessListing"


@pytest.mark.parametrize("kind", ["machines", "states", "cards", "machine"])
async def test_any_list_that_fails_fails_the_whole(arm, provider, clock, kind):
    arm.lists("machines", machine(1))
    await provider.instances()
    again(arm, "machines", machine(2))  # one is missing, and one is new
    await clock.advance(60)
    arm.answers[kind] = []
    arm.refuse(kind, "TooManyRequests", status=429)
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert raised.value.fault.kind is FaultKind.THROTTLE


async def test_addresses_come_from_the_interfaces_and_are_asked_for_once(arm, provider):
    arm.lists("machines", machine(1), machine(2))
    arm.lists("cards", card(1, "10.0.0.1"), card(2, "10.0.0.2"))
    for _ in range(3):
        assert sorted(each.address for each in await provider.instances()) == ["10.0.0.1", "10.0.0.2"]
    assert len(arm.asked("cards")) == 1


async def test_machine_that_shut_itself_down_is_told_of(arm, provider):
    arm.lists("machines", machine(1), machine(2), machine(3, "Failed"), machine(4, "Failed"), machine(5, "Deleting"))
    states = {1: "running", 2: "stopped", 3: "running"}
    arm.lists("states", machine(4, failed="AllocationFailed"), *(machine(number, power=power) for number, power in states.items()))
    found = {each.instance_id: each.state for each in await provider.instances()}
    assert found == {ident(1): "running", ident(2): "stopping", ident(3): "running", ident(4): "stopping", ident(5): "stopping"}
    assert arm.asked("states")[0][1]["statusOnly"] == "true"


async def test_states_are_asked_for_now_and_then(arm, provider, clock):
    arm.lists("machines", machine(1))
    for _ in range(6):
        await provider.instances()
        await clock.advance(7)
    assert len(arm.asked("states")) == 2


async def test_tags_of_a_set_are_its_machines_where_they_have_none(arm, provider):
    arm.lists("machines", machine(1, tags={}))
    arm.lists("sets", scale_set(NAME.upper()), scale_set("foreign", tags={"holdfast:cluster": "beta"}))
    (found,) = await provider.instances()
    assert (found.launch_id, found.pool) == ("launch-1", azure_pool().name)
    assert len(arm.asked("sets")) == 1


async def test_machine_is_gone_only_when_azure_asked_by_name_says_so(arm, provider, clock):
    arm.lists("machines", machine(1), machine(2))
    await provider.instances()
    again(arm, "machines", machine(2))
    arm.say("machine", machine(1))
    await clock.advance(1)
    assert told(await provider.instances()) == {ident(2): ("running", False)}, "a list may lack what is there"
    arm.answers["machine"] = []
    found = await provider.instances()
    assert told(found) == {ident(1): ("gone", True), ident(2): ("running", False)}
    assert "nobody here asked" in next(each.state_reason for each in found if each.state == "gone")
    asked = len(arm.asked("machine"))
    assert told(await provider.instances()) == told(found)
    assert len(arm.asked("machine")) == asked, "what is gone is not asked for again"
    await clock.advance(HOUR)
    assert told(await provider.instances()) == {ident(2): ("running", False)}


async def test_another_machine_of_the_same_name_is_another_machine(arm, provider, clock):
    arm.lists("machines", machine(1))
    await provider.instances()
    reborn = machine(1, vmId=ident(9))
    again(arm, "machines", reborn)
    arm.say("machine", reborn)
    await clock.advance(1)
    assert told(await provider.instances()) == {ident(1): ("gone", True), ident(9): ("running", False)}


async def test_end_that_was_asked_for_is_no_reclaim(arm, provider, clock):
    arm.lists("machines", machine(1))
    await provider.instances()
    arm.say("delete_machines", "", status=202)
    assert await provider.terminate([ident(1)]) == ()
    again(arm, "machines")
    await clock.advance(1)
    assert told(await provider.instances()) == {ident(1): ("gone", False)}


async def test_termination_is_by_set_and_looks_before_it_asks_again(arm, provider):
    arm.lists("machines", machine(1), machine(2), machine(3, launch="launch-2"))
    wanted = [ident(1), ident(2), ident(3)]
    arm.say("delete_machines", "", status=202)
    assert await provider.terminate(wanted) == ()
    assert sorted(body["instanceIds"] for _, _, body in arm.asked("delete_machines")) == [["vm1", "vm2"], ["vm3"]]
    arm.lists("machines_of", machine(2, "Deleting"))
    assert set(await provider.terminate(wanted)) == {ident(1), ident(3)}, "they are neither listed nor found by name"
    assert len(arm.asked("delete_machines")) == 2, "what is being deleted is not asked for again"
    again(arm, "machines_of", machine(2))
    assert set(await provider.terminate(wanted)) == {ident(1), ident(3)}
    assert arm.asked("delete_machines")[-1][2] == {"instanceIds": ["vm2"]}, "a deletion that came to nothing is asked for again"


async def test_termination_after_a_restart_finds_the_names_by_listing(arm, make_provider):
    arm.lists("machines", machine(1), machine(2))
    arm.say("delete_machines", "", status=202)
    assert await make_provider().terminate([ident(1).upper()]) == ()
    assert [body for _, _, body in arm.asked("delete_machines")] == [{"instanceIds": ["vm1"]}]


async def test_unknown_id_is_gone_only_by_a_whole_listing(arm, provider):
    assert await provider.terminate([ident(8), "i-0123456789abcdef0"]) == (ident(8), "i-0123456789abcdef0")
    arm.refuse("machines", "InternalServerError", status=500)
    with pytest.raises(ProviderError):
        await provider.terminate([ident(9)])
    arm.requests.clear()
    assert await provider.terminate(["nonsense", ""]) == ("nonsense", "")
    assert arm.requests == []


async def test_another_clusters_machine_is_not_deleted(arm, provider):
    arm.lists("machines", machine(1, cluster="beta"))
    assert await provider.terminate([ident(1)]) == (ident(1),)
    assert not arm.asked("delete_machines")
    assert not arm.asked("delete_machine")


async def test_one_machine_that_is_gone_keeps_no_other_alive(arm, provider):
    arm.lists("machines", machine(1), machine(2))
    arm.refuse("delete_machines", "InvalidParameter", status=400)
    arm.say("delete_machine", "", status=204)
    arm.say("delete_machine", "", status=202)
    gone = await provider.terminate([ident(1), ident(2)])
    assert len(gone) == 1
    assert {path.rpartition("/")[2] for path, _, _ in arm.asked("delete_machine")} == {"vm1", "vm2"}


async def test_failed_deletion_raises_after_the_others_were_asked_for(arm, provider):
    arm.lists("machines", machine(1), machine(2, launch="launch-2"))
    arm.refuse("delete_machines", "TooManyRequests", status=429)
    arm.say("delete_machines", "", status=202)
    with pytest.raises(ProviderError) as raised:
        await provider.terminate([ident(1), ident(2)])
    assert raised.value.fault.kind is FaultKind.THROTTLE
    assert len(arm.asked("delete_machines")) == 2


async def test_many_are_deleted_in_batches(arm, provider):
    arm.lists("machines", *(machine(number) for number in range(250)))
    arm.say("delete_machines", "", status=202)
    await provider.terminate([ident(number) for number in range(250)])
    assert [len(body["instanceIds"]) for _, _, body in arm.asked("delete_machines")] == [100, 100, 50]


async def test_empty_set_stays_for_two_hours_and_is_deleted_then(arm, provider, clock):
    arm.lists("sets", scale_set(NAME))
    arm.say("delete_set", "", status=202)
    await clock.advance(HOUR)
    await provider.instances()
    assert not arm.asked("delete_set")
    await clock.advance(HOUR)
    await provider.instances()
    assert [path.rpartition("/")[2] for path, _, _ in arm.asked("delete_set")] == [NAME]


async def hours_of_looks(provider, clock, hours):
    for _ in range(int(hours * 12)):
        await clock.advance(300)
        await provider.instances()


async def test_failed_set_whose_machines_never_existed_is_deleted_after_two_hours_without_any(arm, provider, clock):
    arm.lists("sets", scale_set(NAME, state="Failed", capacity=8))
    arm.say("delete_set", "", status=202)
    await hours_of_looks(provider, clock, 3)
    assert not arm.asked("delete_set"), "it was made two hours ago, but not seen without machines for so long"
    arm.lists("machines", machine(1, "Failed"))
    await hours_of_looks(provider, clock, 1)
    again(arm, "machines")
    arm.say("machine", machine(1, "Failed"))
    await hours_of_looks(provider, clock, 2)
    assert not arm.asked("delete_set")
    arm.lists("machines_of", machine(1, "Failed"))
    await hours_of_looks(provider, clock, 0.5)
    assert not arm.asked("delete_set"), "the set's own list still has one"
    again(arm, "machines_of")
    await hours_of_looks(provider, clock, 0.1)
    assert [path.rpartition("/")[2] for path, _, _ in arm.asked("delete_set")] == [NAME]


@pytest.mark.parametrize(
    "kept",
    [
        scale_set(NAME, capacity=1),
        scale_set(NAME, capacity=1, state="Failed", tags={"holdfast:cluster": "beta"}),
        scale_set(NAME, state="Updating"),
        scale_set(NAME, created="nonsense"),
        scale_set(NAME, tags={"holdfast:cluster": "beta"}),
        scale_set("somebodys", tags={"holdfast:cluster": "alpha"}),
    ],
    ids=["has machines", "failed, another cluster's", "is at work", "age unknown", "another cluster's", "not our name"],
)
async def test_set_that_may_be_in_use_is_not_deleted(arm, provider, clock, kept):
    arm.lists("sets", kept)
    for _ in range(2):
        await clock.advance(10 * HOUR)
        await provider.instances()
    assert len(arm.asked("sets")) == 2
    assert not arm.asked("delete_set")


async def test_set_of_a_listed_machine_is_not_deleted_whatever_it_says_of_itself(arm, provider, clock):
    arm.lists("machines", machine(1))
    arm.lists("sets", scale_set(NAME))
    await clock.advance(10 * HOUR)
    await provider.instances()
    assert not arm.asked("delete_set")


async def test_machine_that_was_never_made_is_deleted_and_never_running(arm, provider, clock):
    arm.say("delete_machine", "", status=202)
    arm.lists("machines", *(machine(number, "Failed") for number in (1, 2, 3, 4)))
    without = machine(1, failed="AllocationFailed")
    arm.lists("states", without, machine(2, power="unknown"), machine(3, power="running"))
    for _ in range(10):
        assert told(await provider.instances()) == {
            ident(1): ("stopping", False),
            ident(2): ("running", False),
            ident(3): ("running", False),
            ident(4): ("running", False),
        }
        assert not arm.asked("delete_machine"), "a launch may still be at work on it"
        await clock.advance(65)
    await provider.instances()
    assert deleted(arm) == ["vm1"]


@pytest.mark.parametrize("interlude", [machine(1, power="unknown"), machine(2)], ids=["unknown", "left out"])
async def test_machine_must_look_never_made_at_every_look(arm, provider, clock, interlude):
    arm.lists("machines", machine(1, "Failed"))
    without = machine(1, failed="AllocationFailed")
    for said in (without, interlude, without):
        again(arm, "states", said)
        for _ in range(9):
            await provider.instances()
            await clock.advance(65)
    assert deleted(arm) == []
    for _ in range(2):
        await provider.instances()
        await clock.advance(65)
    assert deleted(arm) == ["vm1"]


@pytest.mark.parametrize(
    "later",
    [machine(1, power="unknown"), machine(1, failed="OSProvisioningInternalError"), machine(2)],
    ids=["unknown", "without", "left out"],
)
async def test_machine_that_was_once_seen_to_run_is_never_taken_for_one_that_was_never_made(arm, provider, clock, later):
    arm.lists("machines", machine(1))
    arm.lists("states", machine(1, power="running"))
    await provider.instances()
    again(arm, "machines", machine(1, "Failed"))
    again(arm, "states", later)
    for _ in range(20):
        await clock.advance(65)
        assert told(await provider.instances()) == {ident(1): ("running", False)}
    assert deleted(arm) == []


async def test_failed_machine_that_shut_itself_down_is_deleted_as_such(arm, provider, clock):
    arm.lists("machines", machine(1))
    await provider.instances()
    again(arm, "machines", machine(1, "Failed"))
    again(arm, "states", machine(1, power="stopped"))
    arm.say("delete_machine", "", status=202)
    for _ in range(7):
        await clock.advance(65)
        assert told(await provider.instances()) == {ident(1): ("stopping", False)}
    assert deleted(arm)


async def test_machine_that_shut_itself_down_is_deleted_and_its_end_is_no_reclaim(arm, provider, clock):
    arm.lists("machines", machine(1), machine(2), machine(3))
    arm.lists("states", machine(1, power="stopped"), machine(2, power="deallocating"), machine(3, power="running"))
    arm.say("delete_machine", "", status=202)
    for _ in range(5):
        await clock.advance(70)
        await provider.instances()
        assert not arm.asked("delete_machine"), "Azure may be restarting it elsewhere"
    again(arm, "states", machine(1, power="starting"))
    await clock.advance(70)
    await provider.instances()
    again(arm, "states", machine(1, power="stopped"), machine(2, power="deallocating"))
    for _ in range(6):
        assert not arm.asked("delete_machine")
        await clock.advance(70)
        await provider.instances()
    assert [path.rpartition("/")[2] for path, _, _ in arm.asked("delete_machine")] == ["vm1"]
    again(arm, "machines", machine(3))
    await clock.advance(1)
    assert told(await provider.instances()) == {ident(1): ("gone", False), ident(2): ("gone", True), ident(3): ("running", False)}


async def test_machine_that_was_never_made_can_be_terminated(arm, provider):
    arm.lists("machines", machine(1, "Failed"))
    arm.say("delete_machines", "", status=202)
    assert await provider.terminate([ident(1)]) == ()
    assert [body for _, _, body in arm.asked("delete_machines")] == [{"instanceIds": ["vm1"]}]


async def test_failed_sweep_fails_no_listing(arm, provider, clock):
    arm.lists("machines", machine(1))
    arm.refuse("sets", "AuthorizationFailed", status=403)
    await clock.advance(10 * HOUR)
    assert set(told(await provider.instances())) == {ident(1)}


async def test_prices_are_the_settings_and_scores_azures_words(arm, make_provider):
    provider = make_provider(score_instances=16)
    spot, on_demand, elsewhere = azure_pool(), azure_pool(Market.ON_DEMAND), azure_pool(zone="2")
    rows = [("1", "High"), ("2", "Low"), ("3", "DataNotFoundOrStale")]
    entries = [{"sku": spot.instance_type.upper(), "region": "EastUS", "availabilityZone": zone, "score": score} for zone, score in rows]
    arm.say("scores", {"placementScores": [*entries, "x", {"score": 7}]})
    assert await provider.quotes([spot, on_demand]) == {spot.name: Quote(12.5, 32.77), on_demand.name: Quote(32.77, 32.77)}
    assert arm.requests == []
    assert await provider.quotes([spot, on_demand, elsewhere, azure_pool(zone="3")], scores=True) == {
        spot.name: Quote(12.5, 32.77, 0.9),
        elsewhere.name: Quote(12.5, 32.77, 0.1),
        azure_pool(zone="3").name: Quote(12.5, 32.77),
        on_demand.name: Quote(32.77, 32.77),
    }
    ((path, query, body),) = arm.asked("scores")
    assert path.endswith("/locations/eastus/placementScores/spot/generate")
    assert query == {"api-version": "2025-06-05"}
    assert body == {
        "desiredLocations": ["eastus"],
        "desiredSizes": [{"sku": spot.instance_type}],
        "desiredCount": 16,
        "availabilityZones": True,
    }


async def test_prices_are_told_where_no_score_is_to_be_had(arm, provider):
    arm.refuse("scores", "TooManyRequests", status=429)
    assert await provider.quotes([azure_pool()], scores=True) == {azure_pool().name: Quote(12.5, 32.77)}


async def test_offers_fail_as_a_whole(arm, provider):
    arm.refuse("sizes", "AuthorizationFailed", status=403)
    with pytest.raises(ProviderError) as raised:
        await provider.offers()
    assert raised.value.fault.kind is FaultKind.AUTH


async def test_each_missing_machine_has_its_turn_though_others_are_still_there(arm, provider, clock):
    arm.lists("machines", *(machine(number) for number in range(150)))
    await provider.instances()
    again(arm, "machines")
    arm.say("machine", machine(1, vmId="nonsense"))  # no word of an end
    await clock.advance(1)
    for _ in range(3):
        await provider.instances()
    assert len({path for path, _, _ in arm.asked("machine")}) == 150
