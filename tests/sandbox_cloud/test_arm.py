"""The Resource Manager endpoint as Microsoft's own client sees it, with its own pollers and pages."""

import base64
import json
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.policies import HeadersPolicy
from azure.core.rest import HttpRequest
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

pytestmark = pytest.mark.timeout(60)

SUB, GROUP, SMALL = "00000000-0000-4000-8000-000000000001", "holdfast", "sim1.small"
PLACE = f"/subscriptions/{SUB}/resourceGroups/{GROUP}/providers"
SUBNET = f"{PLACE}/Microsoft.Network/virtualNetworks/v/subnets/s"


def zone(number, region="eastus", **more):
    settings = {
        "name": f"{region}-{number}",
        "region": region,
        "provider": "azure",
        "capacity": {SMALL: 4, "Standard_ND96isr_H100_v5": 1},
        "spot_price_usd_h": 0.5,
        "on_demand_usd_h": 2.0,
    }
    return settings | more


class NoToken:
    def get_token(self, *_, **__):
        raise AssertionError("no token is asked for")


class Azure:
    """A cloud, and Microsoft's clients for it, which try nothing again."""

    def __init__(self, cloud):
        self.cloud = cloud
        settings = {
            "base_url": cloud.url,
            "authentication_policy": HeadersPolicy({"Authorization": "Bearer t"}),
            "retry_total": 0,
            "use_env_settings": False,
            "polling_interval": 0.05,
        }
        self.compute = ComputeManagementClient(NoToken(), SUB, **settings)
        self.network = NetworkManagementClient(NoToken(), SUB, **settings)
        self.sets, self.machines = self.compute.virtual_machine_scale_sets, self.compute.virtual_machines

    def close(self):
        self.compute.close()
        self.network.close()

    def create(self, name="one", count=2, **change):
        return self.sets.begin_create_or_update(GROUP, name, scale_set(count, **change), match_condition=MatchConditions.IfMissing)

    def members(self, name="one"):
        wanted = f"'virtualMachineScaleSet/id' eq '{PLACE}/Microsoft.Compute/virtualMachineScaleSets/{name}'"
        return list(self.machines.list(GROUP, filter=wanted, expand="instanceView"))

    def wait(self, condition):
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def start(start_cloud):
    made = []

    def run(**settings):
        made.append(Azure(start_cloud(**({"zones": [zone(1), zone(2), zone(1, "westus")]} | settings))))
        return made[-1]

    yield run
    for azure in made:
        azure.close()


@pytest.fixture
def azure(start):
    return start()


def profile(**change):
    address = {"name": "ip", "properties": {"subnet": {"id": SUBNET}}}
    found = {
        "osProfile": {
            "computerNamePrefix": "vm",
            "adminUsername": "u",
            "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [{"path": "p", "keyData": "k"}]}},
        },
        "storageProfile": {"imageReference": {"publisher": "a", "offer": "b", "sku": "c", "version": "latest"}},
        "networkProfile": {
            "networkApiVersion": "2022-11-01",
            "networkInterfaceConfigurations": [{"name": "n", "properties": {"ipConfigurations": [address]}}],
        },
        "priority": "Spot",
        "evictionPolicy": "Delete",
        "userData": base64.b64encode(b"hello").decode(),
    }
    return {key: value for key, value in (found | change).items() if value is not None}


def scale_set(count=2, *, size=SMALL, zones=("1",), location="East US", tags=None, mode="Flexible", **change):
    return {
        "location": location,
        "zones": list(zones),
        "tags": {"job": "7"} if tags is None else tags,
        "sku": {"name": size, "capacity": count},
        "properties": {"orchestrationMode": mode, "platformFaultDomainCount": 1, "virtualMachineProfile": profile(**change)},
    }


def power(machine):
    return [each.code.partition("/")[2] for each in machine.instance_view.statuses if each.code.startswith("PowerState")]


def test_life_of_a_set(azure):
    made = azure.create().result()
    assert (made.provisioning_state, made.sku.capacity, list(made.zones)) == ("Succeeded", 2, ["1"])
    members = azure.members()
    assert {each.provisioning_state for each in members} == {"Succeeded"}
    assert [power(each) for each in members] == [["running"]] * 2
    assert {each.tags["job"] for each in members} == {"7"}
    assert {each.hardware_profile.vm_size for each in members} == {SMALL}
    told = azure.cloud.control.instance(members[0].vm_id)
    assert (told["provider"], told["name"], told["zone"], told["tags"]) == ("azure", members[0].name, "eastus-1", {"job": "7"})
    view = azure.machines.get(GROUP, members[0].name.upper(), expand="userData")
    assert base64.b64decode(view.user_data) == b"hello"
    addresses = [card.ip_configurations[0].private_ip_address for card in azure.network.network_interfaces.list(GROUP)]
    assert sorted(addresses) == sorted(each["ip"] for each in azure.cloud.control.instances())

    azure.sets.begin_delete_instances(GROUP, "one", {"instanceIds": [members[0].name]}).result()
    assert [each.name for each in azure.members()] == [members[1].name]
    assert azure.sets.get(GROUP, "one").sku.capacity == 1, "a deletion lowers the capacity, and nothing is started in its place"
    azure.sets.begin_delete(GROUP, "one").result()
    assert list(azure.sets.list(GROUP)) == []
    assert list(azure.machines.list(GROUP)) == []
    with pytest.raises(ResourceNotFoundError):
        azure.sets.get(GROUP, "one")


def test_set_is_made_once(azure):
    azure.create().result()
    with pytest.raises(HttpResponseError) as raised:
        azure.create(count=3)
    assert raised.value.status_code == 412
    assert len(azure.members()) == 2
    grown = azure.sets.begin_create_or_update(GROUP, "one", scale_set(3)).result()
    assert grown.sku.capacity == 3
    shrunk = azure.sets.begin_create_or_update(GROUP, "one", scale_set(1)).result()
    assert shrunk.sku.capacity == 1
    with pytest.raises(HttpResponseError) as raised:
        azure.sets.begin_create_or_update(GROUP, "one", scale_set(1, zones=["2"]))
    assert raised.value.error.code == "PropertyChangeNotAllowed"


def test_what_cannot_be_made_stays_failed_until_it_is_deleted(azure):
    with pytest.raises(HttpResponseError) as raised:
        azure.create(count=6).result()
    assert raised.value.error.code == "ZonalAllocationFailed"
    members = azure.members()
    failed = [each for each in members if each.provisioning_state == "Failed"]
    assert (len(members), len(failed)) == (6, 2)
    assert {each.instance_view.statuses[0].code for each in failed} == {"ProvisioningState/failed/ZonalAllocationFailed"}
    assert azure.sets.get(GROUP, "one").provisioning_state == "Failed"
    azure.sets.begin_delete_instances(GROUP, "one", {"instanceIds": [each.name for each in failed]}).result()
    assert len(azure.members()) == 4


WRONG = [
    ({"size": "Standard_D2s_v5"}, "InvalidParameter"),
    ({"size": "p5.48xlarge"}, "InvalidParameter"),
    ({"location": "moon"}, "LocationNotAvailableForResourceType"),
    ({"zones": ["9"]}, "InvalidAvailabilityZone"),
    ({"mode": "Uniform"}, "InvalidParameter"),
    ({"count": 1001}, "InvalidParameter"),
    ({"osProfile": {"adminUsername": "u"}}, "InvalidParameter"),
    ({"osProfile": None}, "InvalidParameter"),
    ({"storageProfile": {}}, "InvalidParameter"),
    ({"networkProfile": {}}, "InvalidParameter"),
    ({"networkProfile": {"networkApiVersion": "2023-09-01", "networkInterfaceConfigurations": [{}]}}, "InvalidParameter"),
    ({"userData": "not base64!"}, "InvalidParameter"),
    ({"userData": base64.b64encode(b"x" * 70_000).decode()}, "InvalidParameter"),
    ({"priority": "Regular"}, "EvictionPolicyCanBeSetOnlyOnAzureSpotVirtualMachines"),
    ({"evictionPolicy": "Deallocate"}, "InvalidParameter"),
    ({"billingProfile": {"maxPrice": 0}}, "MaxPriceValueInvalid"),
    ({"billingProfile": {"maxPrice": 0.1}}, "SpotPriceGreaterThanProvidedMaxPrice"),
    ({"tags": {"a<b": "c"}}, "InvalidTagNameCharacters"),
    ({"tags": {"a": "x" * 257}}, "InvalidTagValueLength"),
    ({"tags": {str(number): "" for number in range(51)}}, "InvalidTags"),
]


def test_wrong_requests_make_nothing(azure):
    for change, code in WRONG:
        with pytest.raises(HttpResponseError) as raised:
            azure.create(**change)
        assert raised.value.error.code == code, change
    assert list(azure.sets.list(GROUP)) == []
    assert list(azure.machines.list(GROUP)) == []


def test_size_that_a_zone_has_not_and_a_spot_limit(start):
    azure = start(zones=[zone(1), zone(2, capacity={SMALL: 4})], spot_instance_limit=3)
    with pytest.raises(HttpResponseError) as raised:
        azure.create(count=1, size="Standard_ND96isr_H100_v5", zones=["2"])
    assert raised.value.error.code == "SkuNotAvailable"
    with pytest.raises(HttpResponseError) as raised:
        azure.create(count=4)
    assert (raised.value.status_code, raised.value.error.code) == (409, "OperationNotAllowed")
    assert "quota" in raised.value.error.message
    azure.create(count=3).result()
    usage = {each.name.value: (each.current_value, each.limit) for each in azure.compute.usage.list("eastus")}
    assert usage["lowPriorityCores"] == (3, 3)
    azure.create("regular", count=3, priority="Regular", evictionPolicy=None).result()


def test_eviction_deletes_the_machine(azure):
    azure.create(count=1).result()
    (member,) = azure.members()
    azure.machines.simulate_eviction(GROUP, member.name)
    told = azure.cloud.control.instance(member.vm_id)
    assert told["deadline"] == pytest.approx(told["notice"] + 30)
    azure.cloud.control.kill(member.vm_id)
    azure.wait(lambda: not azure.members())
    with pytest.raises(ResourceNotFoundError):
        azure.machines.get(GROUP, member.name)
    assert azure.sets.get(GROUP, "one").sku.capacity == 0
    azure.create("two", count=1, priority="Regular", evictionPolicy=None).result()
    with pytest.raises(HttpResponseError) as raised:
        azure.machines.simulate_eviction(GROUP, azure.members("two")[0].name)
    assert raised.value.error.code == "OperationNotAllowed"


def test_machine_that_shuts_itself_down_stays_stopped(start):
    azure = start(instance_command=["sleep", "0.1"])
    azure.create(count=1)
    azure.wait(lambda: [power(each) for each in azure.members()] == [["stopped"]])
    (stopped,) = azure.machines.list_all(status_only="true")
    assert (power(stopped), stopped.hardware_profile) == (["stopped"], None)
    azure.machines.begin_delete(GROUP, stopped.name).result()
    assert azure.members() == []


def test_single_machine(azure):
    body = {"location": "eastus", "zones": ["2"], "properties": profile(hardwareProfile={"vmSize": SMALL})}
    made = azure.machines.begin_create_or_update(GROUP, "alone", body, match_condition=MatchConditions.IfMissing).result()
    assert (made.provisioning_state, made.virtual_machine_scale_set, list(made.zones)) == ("Succeeded", None, ["2"])
    with pytest.raises(HttpResponseError) as raised:
        azure.machines.begin_create_or_update(GROUP, "alone", body, match_condition=MatchConditions.IfMissing)
    assert raised.value.status_code == 412
    assert azure.machines.instance_view(GROUP, "alone").statuses[1].code == "PowerState/running"
    azure.machines.begin_delete(GROUP, "alone").result()
    azure.machines.begin_delete(GROUP, "alone").result()  # what is not there is deleted
    assert list(azure.machines.list(GROUP)) == []


def test_lists_have_pages_and_lag_behind(start):
    azure = start(zones=[zone(1, capacity={SMALL: 200})], boot_delay_s=600, describe_lag_s=1.0)
    pending = azure.sets.begin_create_or_update(GROUP, "one", scale_set(120), polling=False).result()
    assert pending.provisioning_state == "Creating"
    assert azure.members() == []
    azure.wait(lambda: len(azure.members()) == 120)
    pages = [len(list(page)) for page in azure.machines.list(GROUP).by_page()]
    assert pages == [50, 50, 20]
    assert list(azure.machines.list("other")) == []
    assert {each.provisioning_state for each in azure.members()} == {"Creating"}
    assert len(list(azure.compute.virtual_machine_scale_set_vms.list(GROUP, "one"))) == 120


def test_sizes(azure):
    sizes = {each.name: each for each in azure.compute.resource_skus.list(filter="location eq 'eastus'")}
    assert "p5.48xlarge" not in sizes
    h100 = sizes["Standard_ND96isr_H100_v5"]
    assert {each.name: each.value for each in h100.capabilities}["GPUs"] == "8"
    assert h100.location_info[0].zones == ["1", "2"]
    assert h100.restrictions == []
    assert sizes["Standard_ND96asr_v4"].restrictions[0].type == "Location", "no zone has it"
    everywhere = list(azure.compute.resource_skus.list())
    assert {each.locations[0] for each in everywhere} == {"eastus", "westus"}


def test_placement_scores(azure):
    url = f"{{endpoint}}/subscriptions/{SUB}/providers/Microsoft.Compute/locations/eastus/placementScores/spot/generate"
    body = {
        "desiredLocations": ["eastus", "westus"],
        "desiredSizes": [{"sku": SMALL}],
        "desiredCount": 2,
        "availabilityZones": True,
    }

    def post(**change):
        return azure.compute.send_request(HttpRequest("POST", url, params={"api-version": "2025-06-05"}, json=body | change)).json()

    def scores(**change):
        found = post(**change)["placementScores"]
        return {(each["region"], each.get("availabilityZone")): each["score"] for each in found}

    assert scores() == {("eastus", "1"): "High", ("eastus", "2"): "High", ("westus", "1"): "High"}
    assert set(scores(desiredCount=3).values()) == {"Medium"}
    assert set(scores(desiredCount=5).values()) == {"Low"}
    assert scores(availabilityZones=False, desiredCount=5) == {("eastus", None): "Medium", ("westus", None): "Low"}
    assert scores(desiredSizes=[{"sku": "Standard_NV36ads_A10_v5"}]) == {}
    assert post(desiredLocations=["x"] * 9)["error"]["code"] == "BadRequest"
    assert post(desiredSizes=[7])["error"]["code"] == "BadRequest"


def test_faults_are_ordered_by_the_names_of_operations(azure):
    control = azure.cloud.control
    control.throttle(action="VirtualMachines_List", count=1)
    with pytest.raises(HttpResponseError) as raised:
        list(azure.machines.list(GROUP))
    assert (raised.value.status_code, raised.value.error.code) == (429, "TooManyRequests")
    assert raised.value.response.headers["Retry-After"] == "5"
    control.fail(action="VirtualMachineScaleSets_CreateOrUpdate", mode="500", when="after", count=1)
    with pytest.raises(HttpResponseError) as raised:
        azure.create(count=1)
    assert raised.value.status_code == 500
    assert len(azure.members()) == 1, "only the answer was lost"
    control.refuse(zone="eastus-1", code="OverconstrainedZonalAllocationRequest", count=1)
    with pytest.raises(HttpResponseError) as raised:
        azure.create("two", count=1)
    assert raised.value.error.code == "OverconstrainedZonalAllocationRequest"
    control.refuse(zone="eastus-1", count=1)
    with pytest.raises(HttpResponseError) as raised:
        azure.create("two", count=1).result()
    assert raised.value.error.code == "ZonalAllocationFailed"


def test_what_is_no_call_of_azures(azure):
    def ask(path, method="GET", body=None, token="Bearer t"):
        request = Request(azure.cloud.url + path, body, {"Content-Type": "application/json"}, method=method)
        if token:
            request.add_header("Authorization", token)
        with pytest.raises(HTTPError) as raised:
            urlopen(request)
        with raised.value as answer:
            return answer.code, json.load(answer)["error"]["code"]

    machines, version = f"{PLACE}/Microsoft.Compute/virtualMachines", "?api-version=2026-04-01"
    assert ask(machines + version, token="") == (401, "AuthenticationFailed")
    assert ask(machines) == (400, "MissingApiVersionParameter")
    assert ask(f"{machines}{version}&$expand=instanceView") == (400, "InvalidParameter")
    assert ask(f"{machines}{version}&$filter=name%20eq%20x") == (400, "InvalidParameter")
    assert ask(f"{machines}{version}&$skiptoken=x") == (400, "InvalidParameter")
    assert ask(f"{machines}/x{version}", "PATCH", b"{}") == (400, "InvalidResourceType")
    assert ask(f"{PLACE}/Microsoft.Storage/accounts{version}") == (400, "InvalidResourceType")
    for body in (b"[]", b"{", b"\xff", b"7"):
        assert ask(f"{machines}/x{version}", "PUT", body) == (400, "InvalidRequestContent")
    for body in (b"{}", b'{"properties": 7}', b'{"location": ["x"]}', b'{"tags": 7}', b'{"location": "eastus", "zones": 7}'):
        assert ask(f"{machines}/x{version}", "PUT", body)[0] == 400
    assert ask(f"{machines}/x..{version}", "PUT", b"{}") == (400, "InvalidParameter")
