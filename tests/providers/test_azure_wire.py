"""Azure's shapes and ours: what goes into a scale set, and what is made of answers."""

import base64
from dataclasses import replace

import pytest
from azure_scripted import card, ident, machine
from bed_azure import SUBNET, azure_config, azure_pool
from holdfast_controller.providers.azure_machines import addresses, power_of, reason_of, remembered, seen_of, state_of
from holdfast_controller.providers.azure_offers import gpu_of, offer_of
from holdfast_controller.providers.azure_wire import (
    all_tags,
    fingerprint,
    set_body,
    set_name,
    tags_fault,
)
from holdfast_controller.providers.base import LaunchRequest, Market, Offer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

REQUEST = LaunchRequest("launch-1", azure_pool(), 3, 2, user_data="#!/bin/sh\n", tags={"job": "7"})
KEYS = (
    *("id", "name", "tags", "zones", "properties", "vmId", "instanceView", "statuses", "code", "location", "hardwareProfile"),
    *("virtualMachine", "virtualMachineScaleSet", "ipConfigurations", "privateIPAddress", "capabilities", "locationInfo"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(ident(1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


def body(request=REQUEST, **more):
    return set_body(azure_config("http://127.0.0.1:9", **more), request, "holdfast-0123")


def profile(request=REQUEST, **more):
    return body(request, **more)["properties"]["virtualMachineProfile"]


def test_names_are_azures_and_one_per_launch():
    names = [set_name("alpha", "launch-1"), set_name("alpha", "Launch-1"), set_name("beta", "launch-1"), set_name("alpha", "a:/=+@b")]
    assert len(set(names)) == 4
    for name in names:
        assert len(name) <= 64
        assert name == name.lower()
        assert name.replace("-", "").isalnum()
    assert set_name("alpha", "launch-1") == names[0], "the name is what makes a launch idempotent"


@given(st.text())
def test_any_launch_id_has_a_name(launch_id):
    assert set_name("alpha", launch_id).startswith("holdfast-")


def test_spot_set():
    found = body(replace(REQUEST, pool=replace(azure_pool(), price_cap_usd_h=12.3456789)))
    assert (found["location"], found["zones"]) == ("eastus", ["1"])
    assert found["sku"] == {"name": "Standard_ND96asr_v4", "tier": "Standard", "capacity": 3}
    assert found["properties"]["orchestrationMode"] == "Flexible"
    inner = found["properties"]["virtualMachineProfile"]
    assert (inner["priority"], inner["evictionPolicy"]) == ("Spot", "Delete")
    assert inner["billingProfile"] == {"maxPrice": 12.34568}
    assert profile()["billingProfile"] == {"maxPrice": -1}
    assert base64.b64decode(inner["userData"]) == b"#!/bin/sh\n"
    assert inner["storageProfile"]["osDisk"]["deleteOption"] == "Delete"
    (interface,) = inner["networkProfile"]["networkInterfaceConfigurations"]
    assert interface["properties"]["deleteOption"] == "Delete"
    (address,) = interface["properties"]["ipConfigurations"]
    assert address["properties"]["subnet"] == {"id": SUBNET}
    assert "publicIPAddressConfiguration" not in address["properties"]
    assert inner["osProfile"]["linuxConfiguration"]["disablePasswordAuthentication"] is True
    assert inner["scheduledEventsProfile"] == {"terminateNotificationProfile": {"enable": True, "notBeforeTimeout": "PT5M"}}


def test_what_is_not_asked_for_is_left_out():
    inner = profile(replace(REQUEST, pool=azure_pool(Market.ON_DEMAND), user_data=""), terminate_notice_minutes=None)
    assert profile(security_type="Standard")["securityProfile"] == {"securityType": "Standard"}
    assert (
        not {"securityProfile", "priority", "evictionPolicy", "billingProfile", "userData", "capacityReservation", "scheduledEventsProfile"}
        & inner.keys()
    )
    assert "identity" not in body()
    assert "proximityPlacementGroup" not in body()["properties"]


def test_settings_by_place():
    def resource(kind):
        return f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/{kind}/x"

    settings = {
        "images": {"eastus": resource("galleries")},
        "security_groups": {"eastus": resource("nsg")},
        "proximity_placement_groups": {"eastus/1": resource("proximityPlacementGroups")},
        "capacity_reservation_groups": {"eastus/1": resource("capacityReservationGroups")},
        "identities": (resource("identity"),),
        "os_disk_gb": 256,
    }
    found = body(**settings)
    inner = found["properties"]["virtualMachineProfile"]
    assert inner["storageProfile"]["imageReference"] == {"id": resource("galleries")}
    assert inner["storageProfile"]["osDisk"]["diskSizeGB"] == 256
    interface = inner["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]
    assert interface["networkSecurityGroup"] == {"id": resource("nsg")}
    assert found["properties"]["proximityPlacementGroup"] == {"id": resource("proximityPlacementGroups")}
    assert found["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {resource("identity"): {}}}
    assert "capacityReservation" not in inner, "spot instances run in no reservation"
    reserved = profile(replace(REQUEST, pool=azure_pool(Market.ON_DEMAND)), **settings)
    assert reserved["capacityReservation"] == {"capacityReservationGroup": {"id": resource("capacityReservationGroups")}}
    assert profile()["storageProfile"]["imageReference"] == {
        "publisher": "microsoft-dsvm",
        "offer": "ubuntu-hpc",
        "sku": "2204",
        "version": "latest",
    }


def test_tags_are_ours_and_the_requests():
    tags = all_tags(azure_config("http://127.0.0.1:9"), REQUEST)
    assert tags["holdfast:cluster"] == "alpha"
    assert tags["holdfast:pool"] == azure_pool().name
    assert tags["job"] == "7"
    assert tags_fault(tags) == ""


@pytest.mark.parametrize(
    "change",
    [{"count": 4}, {"minimum": 1}, {"user_data": "x"}, {"tags": {"job": "8"}}, {"pool": replace(azure_pool(), price_cap_usd_h=1.0)}],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_tells_requests_apart(change):
    assert fingerprint(REQUEST) == fingerprint(replace(REQUEST, tags=dict(REQUEST.tags)))
    assert fingerprint(replace(REQUEST, **change)) != fingerprint(REQUEST)


def test_machine_as_told():
    seen = seen_of(machine(1, power="running"), "azure", address="10.0.0.1")
    instance = seen.instance
    assert (instance.instance_id, instance.launch_id, instance.pool) == (ident(1), "launch-1", azure_pool().name)
    assert (instance.state, instance.address, instance.launched) == ("running", "10.0.0.1", 1_699_999_200.0)
    assert (seen.name, seen.set_name) == ("vm1", set_name("alpha", "launch-1"))
    regular = seen_of(machine(1, priority="Regular", zones=None), "azure").instance
    assert regular.pool == azure_pool(Market.ON_DEMAND).name


@pytest.mark.parametrize("vm_id", [None, "", "vm1", 7, "0" * 36, ident(1) + "0"])
def test_machine_without_an_id_is_none(vm_id):
    assert seen_of(machine(1, vmId=vm_id), "azure") is None


@pytest.mark.parametrize(
    ("provisioning", "power", "state"),
    [
        ("creating", "", "pending"),
        ("creating", "running", "pending"),
        ("succeeded", "", "running"),
        ("succeeded", "running", "running"),
        ("updating", "", "running"),
        ("novelty", "novelty", "running"),
        ("succeeded", "stopped", "stopping"),
        ("succeeded", "deallocated", "stopping"),
        ("deleting", "running", "stopping"),
        ("failed", "", "running"),
        ("failed", "unknown", "running"),
        ("failed", "starting", "running"),
        ("failed", "none", "stopping"),
        ("failed", "stopped", "stopping"),
        ("failed", "running", "running"),
    ],
)
def test_states(provisioning, power, state):
    assert state_of(provisioning, power) == state


def test_failure_of_a_machine_says_why():
    failed = machine(1, "Failed", failed="AllocationFailed")["properties"]
    assert reason_of(failed) == "AllocationFailed: none left"
    assert power_of(failed) == "none"
    assert power_of(machine(1, "Failed")["properties"]) == ""


@pytest.mark.parametrize("power", ["", "running", "unknown", "starting", "stopping", "deallocating"])
def test_failed_machine_that_is_not_shown_to_be_without_power_is_alive(power):
    assert not seen_of(machine(1, "Failed", power=power), "azure").litter


def test_failed_machine_without_power_was_never_made_unless_it_has_been_seen():
    for told in (machine(1, "Failed", failed="AllocationFailed"), machine(1, "Failed", power="deallocated")):
        seen = seen_of(told, "azure")
        assert (seen.litter, seen.instance.state) == (True, "stopping")
        assert not remembered(seen).litter
    assert remembered(seen_of(machine(1, "Failed", failed="AllocationFailed"), "azure")).instance.state == "running"
    stopped = seen_of(machine(1, "Failed", power="stopped"), "azure")
    assert (stopped.shut_down, remembered(stopped).shut_down) == (False, True)


def test_addresses_are_those_of_the_primary_interface():
    second = card(1, "10.9.9.9")
    second["properties"]["primary"] = False
    found = addresses([second, card(1, "10.0.0.1"), card(2, "10.0.0.2"), {"properties": {"ipConfigurations": 7}}, {}])
    key = machine(1)["id"].lower()
    assert found[key] == "10.0.0.1"
    assert addresses([card(1, "10.0.0.1"), second])[key] == "10.0.0.1"
    assert len(found) == 2


@given(st.dictionaries(st.sampled_from(["id", "name", "tags", "zones", "properties", "location"]), JSON))
def test_no_answer_is_too_odd(said):
    seen = seen_of(said, "azure")
    assert seen is None or seen.instance.instance_id
    assert isinstance(addresses([said]), dict)
    assert offer_of(said, "azure", "eastus") is None


def sku(name="Standard_ND96isr_H100_v5", gpus="8", **more):
    capabilities = [
        {"name": "vCPUs", "value": "96"},
        {"name": "MemoryGB", "value": "1900"},
        {"name": "LowPriorityCapable", "value": "True"},
    ]
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "family": "standardNDSH100v5Family",
        "locationInfo": [{"location": "EastUS", "zones": ["3", "1"]}, {"location": "westus", "zones": ["2"]}],
        "capabilities": [*capabilities, {"name": "GPUs", "value": gpus}],
        "restrictions": [],
    } | more


def test_offer_has_its_shape():
    assert offer_of(sku(), "azure", "eastus") == Offer(
        "azure", "eastus", "Standard_ND96isr_H100_v5", ("1", "3"), "H100", 8, 81_920, 96, 1_945_600, (Market.SPOT, Market.ON_DEMAND)
    )


@pytest.mark.parametrize(
    "said",
    [
        sku(resourceType="disks"),
        sku(gpus="0"),
        sku(gpus="many"),
        sku(name="Standard_D96s_v5", family="standardDSv5Family"),
        sku(name="Standard_ND96isr_MI300X_v5", family="standardNDSMI300Xv5Family"),
        sku(name="Standard_NV12ads_A10_v5", gpus="1"),
        sku(locationInfo=[]),
        sku(restrictions=[{"type": "Location", "values": ["eastus"], "reasonCode": "NotAvailableForSubscription"}]),
    ],
    ids=["disk", "no gpu", "odd count", "general purpose", "amd", "part of a gpu", "no zone", "not for this subscription"],
)
def test_no_offer(said):
    assert offer_of(said, "azure", "eastus") is None


def test_restricted_zones_are_left_out():
    restriction = {"type": "Zone", "restrictionInfo": {"zones": ["1"]}, "reasonCode": "NotAvailableForSubscription"}
    assert offer_of(sku(restrictions=[restriction]), "azure", "eastus").zones == ("3",)
    without_spot = [each for each in sku()["capabilities"] if each["name"] != "LowPriorityCapable"]
    assert offer_of(sku(capabilities=without_spot), "azure", "eastus").markets == (Market.ON_DEMAND,)


@pytest.mark.parametrize(
    ("name", "family", "expected"),
    [
        ("Standard_ND96isr_H100_v5", "", ("H100", 81_920)),
        ("Standard_NC40ads_H100_v5", "", ("H100", 96_256)),
        ("Standard_ND96isr_H200_v5", "", ("H200", 144_384)),
        ("Standard_ND96asr_v4", "standardNDASv4_A100Family", ("A100", 40_960)),
        ("Standard_ND96amsr_A100_v4", "", ("A100", 81_920)),
        ("Standard_NC24ads_A100_v4", "", ("A100", 81_920)),
        ("Standard_NV36ads_A10_v5", "", ("A10", 24_576)),
        ("Standard_NC4as_T4_v3", "", ("T4", 16_384)),
        ("Standard_NC6s_v3", "", ("V100", 16_384)),
        ("Standard_ND40rs_v2", "", ("V100", 32_768)),
        ("Standard_ND128isr_NDR_GB200_v6", "", ("GB200", 0)),
        ("Standard_NV4as_v4", "standardNVSv4Family", ("", 0)),
        ("Standard_D4s_v5", "standardDSv5Family", ("", 0)),
    ],
)
def test_gpu_by_name(name, family, expected):
    assert gpu_of(name, family) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"regions": ()},
        {"regions": ("eastus", "eastus")},
        {"endpoint_url": "ftp://x"},
        {"images": {"eastus": "ubuntu"}},
        {"subnets": {"eastus": "gpu"}},
        {"ssh_public_key": "-----BEGIN OPENSSH PRIVATE KEY-----"},
        {"terminate_notice_minutes": 1},
        {"capacity_reservation_groups": {"azure/eastus/1/x/spot": "/subscriptions/x"}},
        {"odd": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValidationError):
        azure_config(**({"endpoint_url": "http://127.0.0.1:9"} | wrong))
