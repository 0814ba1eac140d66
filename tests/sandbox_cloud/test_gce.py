"""The sandbox's Compute Engine, asked by Google's own client and by bare HTTP."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth import credentials
from google.cloud import compute_v1

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from conftest import RunningCloud, running_cloud

pytestmark = pytest.mark.timeout(60)  # the client library takes seconds to be imported on a busy machine

A, B, AWAY = "us-central1-a", "us-central1-b", "europe-west4-a"
SMALL, LARGE = "sim1.small", "sim1.large"
SPOT = {"provisioning_model": "SPOT", "instance_termination_action": "DELETE"}
ZONES = [
    {
        "name": zone,
        "region": zone.rpartition("-")[0],
        "provider": "gcp",
        "capacity": {SMALL: 4, LARGE: 2},
        "spot_price_usd_h": price,
        "on_demand_usd_h": 3.0,
        "on_demand_capacity": 3,
    }
    for zone, price in ((A, 0.5), (B, 0.7), (AWAY, 0.9))
]
AMAZON = {"name": "us-east-1a", "region": "us-east-1", "capacity": {SMALL: 1}, "spot_price_usd_h": 1.0, "on_demand_usd_h": 3.0}
P = {"project": "any"}
NO = {"retry": None, "timeout": 20}


class Google:
    """Google's clients for one cloud."""

    def __init__(self, url: str) -> None:
        anonymous: Any = credentials.AnonymousCredentials
        self.url = url
        self._settings = {"credentials": anonymous(), "client_options": {"api_endpoint": url}}
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = getattr(compute_v1, f"{name}Client")(**self._settings)
        return self._made[name]

    def bulk(self, names: list[str], zone: str = A, kind: str = SMALL, token: str = "", **more: Any) -> Any:
        properties = {
            "machine_type": kind,
            "scheduling": SPOT,
            "disks": [{"boot": True, "initialize_params": {"source_image": "i"}}],
            **more.pop("properties", {}),
        }
        resource = {"count": len(names), "per_instance_properties": {name: {} for name in names}, "instance_properties": properties} | more
        where = {"zone": zone} if zone.count("-") == 2 else {"region": zone}
        client = self.Instances if "zone" in where else self.RegionInstances
        request = P | where | {"bulk_insert_instance_resource_resource": resource} | ({"request_id": token} if token else {})
        started = client.bulk_insert_unary(request=request, **NO)
        operations = self.ZoneOperations if "zone" in where else self.RegionOperations
        return operations.wait(request=P | where | {"operation": started.name}, **NO)

    def listed(self, **more: Any) -> list[Any]:
        pager = self.Instances.aggregated_list(request=P | more, **NO)
        return [instance for _, scope in pager for instance in scope.instances]


def made(operation: Any) -> dict[str, int]:
    return {place: said.created_vm_count for place, said in operation.instances_bulk_insert_operation_metadata.per_location_status.items()}


def codes(operation: Any) -> list[str]:
    return [said.code for said in operation.error.errors]


@pytest.fixture(scope="module")
def gce_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    with running_cloud(tmp_path_factory.mktemp("gce") / "state", zones=[*ZONES, AMAZON]) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def clients(gce_cloud: RunningCloud) -> Google:
    return Google(gce_cloud.url)


@pytest.fixture
def cloud(gce_cloud: RunningCloud) -> Iterator[RunningCloud]:
    yield gce_cloud
    gce_cloud.reset()


@pytest.fixture
def google(cloud: RunningCloud, clients: Google) -> Google:
    return clients


def test_an_instance_has_what_it_was_asked_for(google: Google, cloud: RunningCloud) -> None:
    tags = {"holdfast:cluster": "Alpha", "holdfast:nodes": "n[1-2]"}
    items = [
        {"key": "user-data", "value": "#!/bin/sh\n"},
        {"key": "holdfast-tags", "value": json.dumps(tags)},
        {"key": "more", "value": "1"},
    ]
    done = google.bulk(["hf-1"], properties={"labels": {"launch": "x"}, "metadata": {"items": items}})
    assert (done.status, made(done), codes(done)) == (compute_v1.Operation.Status.DONE, {f"zones/{A}": 1}, [])
    (found,) = google.listed(filter='(labels.launch = "x") AND (name = "hf-1")')
    assert found.id > 2**60
    assert {item.key: item.value for item in found.metadata.items}["more"] == "1"
    assert (found.scheduling.provisioning_model, found.machine_type.rpartition("/")[2]) == ("SPOT", SMALL)
    machine = cloud.control.wait_for(str(found.id), lambda now: now["state"] == "running", 8)
    assert machine["tags"] == tags | {"launch": "x"}
    assert machine["name"] == "hf-1"
    reply = cloud.control.reclaim(tag=("holdfast:nodes", "n[1-2]"), notice_s=60)
    assert reply["instance_id"] == str(found.id)
    for name in ("hf-1", str(found.id)):
        assert google.Instances.get(request=P | {"zone": A, "instance": name}, **NO).status == "RUNNING"


def test_a_request_id_is_good_for_one_operation_however_it_ended(google: Google, cloud: RunningCloud) -> None:
    first = google.bulk(["a-1", "a-2"], token="11111111-1111-1111-1111-111111111111")
    again = google.bulk(["b-1", "b-2", "b-3"], token="11111111-1111-1111-1111-111111111111")
    assert first.name == again.name
    assert {each.name for each in google.listed()} == {"a-1", "a-2"}
    failed = google.bulk(["c-1", "c-2", "c-3"], token="22222222-2222-2222-2222-222222222222")
    assert codes(failed) == ["ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"]
    cloud.control.set_zone(A, capacity=9, instance_type=SMALL)
    try:
        assert codes(google.bulk(["c-1"], token="22222222-2222-2222-2222-222222222222")) == codes(failed)
        assert codes(google.bulk(["c-1"])) == []
    finally:
        cloud.control.set_zone(A, capacity=4, instance_type=SMALL)


def test_a_part_is_had_where_the_minimum_allows_it_and_says_of_each_why_not(google: Google) -> None:
    done = google.bulk([f"p-{number}" for number in range(6)], min_count=2)
    assert made(done) == {f"zones/{A}": 4}
    group = google.GlobalOperations.aggregated_list(request=P | {"filter": f'operationGroupId = "{done.operation_group_id}"'}, **NO)
    single = [said for _, scope in group for said in scope.operations if said.operation_type == "insert"]
    assert len(single) == 6
    assert sum(bool(said.error.errors) for said in single) == 2
    assert {said.target_id for said in single if not said.error.errors} == {each.id for each in google.listed()}
    none = google.bulk(["q-1"], min_count=1)
    assert (made(none), len(codes(none))) == ({f"zones/{A}": 0}, 1)


def test_a_region_chooses_one_zone_and_obeys_the_policy(google: Google, cloud: RunningCloud) -> None:
    cloud.control.set_zone(A, capacity=1, instance_type=SMALL)
    try:
        assert {place for place, count in made(google.bulk(["r-1", "r-2"], "us-central1")).items() if count} == {f"zones/{B}"}
        denied = {"locations": {f"zones/{B}": {"preference": "DENY"}}}
        assert made(google.bulk(["r-3"], "us-central1", location_policy=denied)) == {f"zones/{A}": 1}
        named = {"zones": [{"zone": f"zones/{A}"}]}
        assert codes(google.bulk(["r-4"], "us-central1", location_policy=named))
    finally:
        cloud.control.set_zone(A, capacity=4, instance_type=SMALL)


def test_a_region_may_mix_types_in_their_order_and_zones_where_it_is_told(google: Google) -> None:
    selections = {"second": {"machine_types": [LARGE], "rank": 2}, "first": {"machine_types": [SMALL], "rank": 1}}
    flexible = {"instance_flexibility_policy": {"instance_selections": selections}}
    done = google.bulk([f"m-{number}" for number in range(5)], "us-central1", **flexible)
    assert sorted(made(done).values()) == [5]
    assert sorted(each.machine_type.rpartition("/")[2] for each in google.listed()) == [LARGE, *[SMALL] * 4]
    spread = google.bulk([f"s-{number}" for number in range(4)], "us-central1", location_policy={"target_shape": "ANY"})
    assert sum(made(spread).values()) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "n2-standard-4"},
        {"names": ["Upper"]},
        {"count": 5},
        {"instance_flexibility_policy": {"instance_selections": {"a": {"machine_types": [SMALL]}}}},
        {"location_policy": {"target_shape": "ANY"}},
        {"zone": "us-central1-z"},
        {"zone": "us-central9"},
        {"zone": "us-east-1a"},
        {"zone": "us-central1", "location_policy": {"target_shape": "BALANCED"}},
        {"zone": "us-central1", "location_policy": {"zones": [{"zone": f"zones/{AWAY}"}]}},
        {"properties": {"disks": []}},
        {"properties": {"scheduling": SPOT | {"automatic_restart": True}}},
        {"properties": {"scheduling": {"provisioning_model": "STANDARD", "instance_termination_action": "DELETE"}}},
        {"name_pattern": "x", "per_instance_properties": {}},
    ],
    ids=str,
)
def test_what_is_refused_before_it_is_an_operation(google: Google, wrong: dict[str, Any]) -> None:
    with pytest.raises(exceptions.BadRequest) as raised:
        google.bulk(**({"names": ["w-1"]} | wrong))
    assert raised.value.errors[0]["reason"] in ("invalid", "required")
    assert google.listed() == []


def test_names_by_a_pattern_go_on_after_the_highest_and_names_that_are_taken_are_refused(google: Google) -> None:
    for _ in range(2):
        google.bulk([], name_pattern="n-###", count=2, per_instance_properties={})
    assert [each.name for each in google.listed()] == ["n-001", "n-002", "n-003", "n-004"]
    with pytest.raises(exceptions.Conflict) as raised:
        google.bulk(["n-003"])
    assert raised.value.errors[0]["reason"] == "alreadyExists"
    assert made(google.bulk(["n-003"], B)) == {f"zones/{B}": 1}, "names are a zone's own"


def test_insert_makes_one(google: Google) -> None:
    resource = {"name": "one", "machine_type": f"zones/{A}/machineTypes/{SMALL}", "disks": [{"initialize_params": {"source_image": "i"}}]}
    google.Instances.insert_unary(request=P | {"zone": A, "instance_resource": resource, "request_id": "x"}, **NO)
    google.Instances.insert_unary(request=P | {"zone": A, "instance_resource": resource, "request_id": "x"}, **NO)
    (found,) = google.Instances.list(request=P | {"zone": A}, **NO)
    assert (found.name, found.scheduling.provisioning_model) == ("one", "")
    google.Instances.delete_unary(request=P | {"zone": A, "instance": "one"}, **NO)


def test_a_deleted_instance_vanishes_and_one_that_stopped_stays(google: Google, cloud: RunningCloud) -> None:
    google.bulk(["d-1", "d-2", "d-3"])
    ids = {each.name: str(each.id) for each in google.listed()}
    google.Instances.delete_unary(request=P | {"zone": A, "instance": ids["d-1"]}, **NO)
    cloud.control.kill(ids["d-2"], reason="Client.InstanceInitiatedShutdown")
    cloud.control.kill(ids["d-3"])
    for iid in ids.values():
        cloud.control.wait_for(iid, lambda now: now["gone"] is not None, 8)
    assert {each.name: each.status for each in google.listed()} == {"d-2": "TERMINATED"}
    told = google.GlobalOperations.aggregated_list(request=P, **NO)
    kinds = {
        said.operation_type: str(said.target_id) for _, scope in told for said in scope.operations if str(said.target_id) in ids.values()
    }
    assert kinds["compute.instances.guestTerminate"] == ids["d-2"]
    assert kinds["compute.instances.preempted"] == ids["d-3"]
    assert kinds["delete"] == ids["d-1"]
    google.Instances.delete_unary(request=P | {"zone": A, "instance": "d-2"}, **NO)
    assert google.listed() == []
    with pytest.raises(exceptions.NotFound):
        google.Instances.delete_unary(request=P | {"zone": A, "instance": "d-2"}, **NO)


def test_a_simulated_maintenance_event_is_a_preemption(google: Google, cloud: RunningCloud) -> None:
    google.bulk(["v-1"])
    google.Instances.simulate_maintenance_event_unary(request=P | {"zone": A, "instance": "v-1"}, **NO)
    (machine,) = [each for each in cloud.control.instances() if each["gone"] is None]
    assert machine["deadline"] == pytest.approx(machine["notice"] + 120)


def test_pages_hold_all_and_each_once(google: Google) -> None:
    google.bulk(["y-1", "y-2", "y-3"])
    google.bulk(["x-1", "x-2"], B)
    pager = google.Instances.aggregated_list(request=P | {"max_results": 2}, **NO)
    pages = [sorted(each.name for scope in page.items.values() for each in scope.instances) for page in pager.pages]
    assert pages == [["y-1", "y-2"], ["x-1", "y-3"], ["x-2"]]
    first = next(iter(google.Instances.aggregated_list(request=P | {"max_results": 2}, **NO).pages))
    assert {scope: said.warning.code for scope, said in first.items.items() if not said.instances} == {
        f"zones/{zone}": "NO_RESULTS_ON_PAGE" for zone in (B, AWAY)
    }


@pytest.mark.parametrize("wrong", [{"filter": "name eq x"}, {"filter": 'name = "x" OR name = "y"'}, {"page_token": "???"}], ids=str)
def test_a_list_that_is_not_understood_is_refused(google: Google, wrong: dict[str, str]) -> None:
    with pytest.raises(exceptions.BadRequest):
        google.listed(**wrong)


def test_zones_regions_types_and_operations_are_told(google: Google) -> None:
    done = google.bulk(["o-1"])
    (also,) = google.ZoneOperations.list(request=P | {"zone": A, "filter": f'name = "{done.name}"'}, **NO)
    assert also.id == done.id == google.ZoneOperations.get(request=P | {"zone": A, "operation": done.name}, **NO).id
    with pytest.raises(exceptions.NotFound):
        google.ZoneOperations.get(request=P | {"zone": B, "operation": done.name}, **NO)
    assert [zone.name for zone in google.Zones.list(request=P, **NO)] == [AWAY, A, B]
    assert [region.name for region in google.Regions.list(request=P, **NO)] == ["europe-west4", "us-central1"]
    types = dict(google.MachineTypes.aggregated_list(request=P, **NO))
    assert [kind.name for kind in types[f"zones/{A}"].machine_types] == [LARGE, SMALL]
    assert types[f"zones/{A}"].machine_types[0].accelerators[0].guest_accelerator_count == 2


def test_advice_follows_the_market(google: Google, cloud: RunningCloud) -> None:
    def advice(size: int) -> Any:
        selections = {"a": {"machine_types": [SMALL]}}
        resource = {
            "distribution_policy": {"zones": [{"zone": f"zones/{A}"}]},
            "instance_flexibility_policy": {"instance_selections": selections},
            "instance_properties": {"scheduling": {"provisioning_model": "SPOT"}},
            "size": size,
        }
        request = P | {"region": "us-central1", "capacity_advice_request_resource": resource}
        return google.Advice.capacity(request=request, **NO).recommendations[0]

    def history(*types: str, location: str = f"zones/{A}") -> Any:
        resource = {
            "instance_properties": {"machine_type": SMALL, "scheduling": {"provisioning_model": "SPOT"}},
            "location_policy": {"location": location},
            "types": list(types),
        }
        return google.Advice.capacity_history(request=P | {"region": "us-central1", "capacity_history_request_resource": resource}, **NO)

    assert [advice(size).scores.obtainability for size in (1, 4, 8)] == [1.0, 1.0, 0.5]
    assert [advice(size).scores.estimated_uptime for size in (1, 4)] == ["3600s", "600s"]
    google.bulk(["h-1", "h-2"])
    for each, reason in zip(google.listed(), ("Server.SpotInstanceTermination", "Client.UserInitiatedShutdown"), strict=True):
        cloud.control.kill(str(each.id), reason=reason)
        cloud.control.wait_for(str(each.id), lambda now: now["gone"] is not None, 8)
    told = history("PRICE", "PREEMPTION")
    assert told.price_history[-1].list_price.nanos == 500_000_000
    assert 0 < told.preemption_history[0].preemption_rate < 1
    assert not history("PRICE").preemption_history
    with pytest.raises(exceptions.BadRequest):
        history("PRICE", location=f"zones/{AWAY}")


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ({"mode": "500"}, 500, "internalError"),
        ({"mode": "error", "code": "quotaExceeded"}, 403, "quotaExceeded"),
        ({"mode": "error", "code": "RequestLimitExceeded"}, 403, "rateLimitExceeded"),
        ({"mode": "error", "code": "notFound"}, 404, "notFound"),
    ],
    ids=str,
)
def test_faults_on_demand(google: Google, cloud: RunningCloud, fault: dict[str, str], status: int, reason: str) -> None:
    cloud.control.fail(action="aggregatedList", count=1, **fault)
    with pytest.raises(exceptions.GoogleAPICallError) as raised:
        google.listed()
    assert (raised.value.code, raised.value.errors[0]["reason"]) == (status, reason)
    assert google.listed() == []


def test_an_answer_that_is_lost_was_carried_out(google: Google, cloud: RunningCloud) -> None:
    cloud.control.fail(action="bulkInsert", mode="500", when="after", count=1)
    with pytest.raises(exceptions.ServerError):
        google.bulk(["l-1"])
    assert [each.name for each in google.listed()] == ["l-1"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"zones/{A}/instances/bulkInsert", "[]"),
        (f"zones/{A}/instances/bulkInsert", "{"),
        (f"zones/{A}/instances/bulkInsert", '{"instanceProperties": 3, "perInstanceProperties": {"a": {}}}'),
        (f"zones/{A}/instances/bulkInsert", '{"count": "many", "namePattern": "a-#"}'),
        (f"zones/{A}/instances/bulkInsert", '{"namePattern": 7}'),
        (f"zones/{A}/instances", '{"name": [], "machineType": {}}'),
        ("regions/us-central1/advice/capacity", '{"instanceProperties": {"scheduling": "SPOT"}}'),
        ("regions/us-central1/advice/capacityHistory", '{"locationPolicy": []}'),
        ("nothing/here", "{}"),
    ],
)
def test_nonsense_is_refused_as_google_refuses_it(google: Google, path: str, body: str) -> None:
    request = urllib.request.Request(f"{google.url}/compute/v1/projects/any/{path}", body.encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as raised:
        opener.open(request, timeout=10)
    with raised.value as error:
        said = json.load(error)["error"]
    assert said["code"] == raised.value.code in (400, 404)
    assert said["errors"][0]["reason"]
