"""Between our words and Compute Engine's: labels, names, bodies, lists, prices, machine types."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from google.cloud import compute_v1
from google.protobuf import json_format
from holdfast_controller.providers.base import LaunchRequest, Market
from holdfast_controller.providers.gcp_calls import silent
from holdfast_controller.providers.gcp_offers import offers_in
from holdfast_controller.providers.gcp_quotes import newest_price, score_of
from holdfast_controller.providers.gcp_wire import (
    bulk_resource,
    digest_of,
    filter_of,
    instance_of,
    label_value,
    names,
    parts,
    place_of,
    request_id,
    seconds_of,
    tags_of,
)
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from bed_gcp import GCP_TYPE, gcp_config, gcp_pool
from scripted_gcp import instance_json

A, B, C = "us-central1-a", "us-central1-b", "us-central1-c"
BIG = "a3-highgpu-8g"
CONFIG = gcp_config(None)
texts = st.text(max_size=80) | st.from_regex(r"[a-z0-9_-]{1,63}", fullmatch=True) | st.from_regex(r"h--[0-9a-f]{60}", fullmatch=True)


def ask(pool=None, *others, count=2, minimum=1, **more):
    return LaunchRequest("launch-1", pool or gcp_pool(), count, minimum, others=others, **more)


def message(kind, said):
    """A bare message, as the client parses it from JSON."""
    return json_format.ParseDict(said, kind.pb(kind()), ignore_unknown_fields=True)


def body_of(config, request):
    """The body as Compute Engine would get it."""
    resource = bulk_resource(config, request, place_of(config, request), next(parts(request)))
    return json_format.MessageToDict(compute_v1.BulkInsertInstanceResource.pb(compute_v1.BulkInsertInstanceResource(resource)))


@given(texts, texts)
def test_two_texts_never_share_a_label(one, other):
    assert (label_value(one) == label_value(other)) == (one == other)
    assert re.fullmatch(r"[a-z0-9_-]{1,63}", label_value(one))


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True), st.from_regex(r"[A-Za-z0-9._:/=+@-]{1,64}", fullmatch=True))
def test_names_are_such_as_compute_engine_takes_and_each_launchs_own(cluster, launch_id):
    part = next(parts(replace(ask(), count=1000)))
    made = names(cluster, launch_id, part)
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in made)
    assert not set(made) & set(names(cluster, launch_id + "x", part))
    assert made == names(cluster, launch_id, part)


@given(st.integers(1, 5000), st.data())
def test_parts_cover_the_launch_and_carry_its_minimum_first(count, data):
    minimum = data.draw(st.integers(1, count))
    split = list(parts(ask(count=count, minimum=minimum)))
    assert [part.first for part in split] == list(range(0, count, 1000))
    assert sum(part.count for part in split) == count
    assert sum(part.minimum for part in split) >= minimum
    assert all(1 <= part.minimum <= part.count <= 1000 for part in split)
    assert len({request_id("launch-1", part, attempt) for part in split for attempt in range(3)}) == 3 * len(split)


def test_a_filter_holds_no_words_of_others():
    ours = 'labels.holdfast-cluster = "alpha"'
    assert filter_of("alpha") == ours
    wild = 'x" OR name = "'
    assert filter_of("alpha", wild) == f'({ours}) AND (labels.holdfast-launch = "{label_value(wild)}")'


def test_the_digest_tells_requests_apart_and_not_what_else_would_do():
    base = ask()
    assert digest_of(base) == digest_of(replace(base, others=(gcp_pool(zone=B),)))
    changes = [{"count": 3}, {"minimum": 2}, {"template": "t"}, {"user_data": "u"}, {"tags": {"a": "b"}}, {"pool": gcp_pool(zone=B)}]
    assert len({digest_of(replace(base, **change)) for change in changes} | {digest_of(base)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("others", "config", "zones", "types"),
    [
        ([], {}, (A,), (GCP_TYPE,)),
        ([(B, GCP_TYPE), (C, GCP_TYPE)], {}, (A, B, C), (GCP_TYPE,)),
        ([(A, BIG)], {}, (A,), (GCP_TYPE, BIG)),
        ([(B, GCP_TYPE), (A, BIG), (B, BIG)], {}, (A, B), (GCP_TYPE, BIG)),
        ([(B, GCP_TYPE), (A, BIG)], {}, (A, B), (GCP_TYPE,)),
        ([(B, BIG)], {}, (A,), (GCP_TYPE,)),
        ([(A, GCP_TYPE)], {}, (A,), (GCP_TYPE,)),
        ([(B, GCP_TYPE), (A, BIG)], {"placement_policies": {B: "p"}}, (A,), (GCP_TYPE,)),
        ([(B, GCP_TYPE)], {"reservations": {A: "r"}}, (A,), (GCP_TYPE,)),
        ([(B, GCP_TYPE)], {"instance_templates": {gcp_pool(zone=B).name: "other"}}, (A,), (GCP_TYPE,)),
    ],
    ids=str,
)
def test_one_call_crosses_zones_and_types_as_far_as_both_were_named(others, config, zones, types):
    place = place_of(gcp_config(None, **config), ask(None, *(gcp_pool(zone=zone, type_=kind) for zone, kind in others)))
    assert (place.zones, place.types, place.zonal) == (zones, types, len(zones) * len(types) == 1)
    assert {(pool.zone, pool.instance_type) for pool in place.pools} == {(zone, kind) for zone in zones for kind in types}


@pytest.mark.parametrize(
    "request_",
    [
        ask(None, gcp_pool(zone="europe-west4-a")),
        ask(None, gcp_pool(Market.ON_DEMAND, zone=B)),
        ask(None, replace(gcp_pool(zone=B), price_cap_usd_h=3.0)),
        ask(replace(gcp_pool(), price_cap_usd_h=3.0), gcp_pool(zone=B)),
        ask(None, gcp_pool(zone=B), count=1001),
    ],
    ids=str,
)
def test_what_binds_a_launch_to_its_first_pool(request_):
    assert place_of(CONFIG, request_).zonal


def test_the_body_of_a_spot_launch():
    body = body_of(CONFIG, ask(user_data="#!/bin/sh\n", tags={"Job": "7 ü"}))
    properties = body["instanceProperties"]
    assert (body["count"], body["minCount"]) == ("2", "1")
    assert len(body["perInstanceProperties"]) == 2
    assert properties["machineType"] == GCP_TYPE
    assert properties["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
        "automaticRestart": False,
        "preemptionNoticeDuration": {"seconds": "120"},
    }
    items = {item["key"]: item["value"] for item in properties["metadata"]["items"]}
    assert items["user-data"] == "#!/bin/sh\n"
    assert json.loads(items["holdfast-tags"])["Job"] == "7 ü"
    assert properties["labels"] == {"holdfast-cluster": "alpha", "holdfast-launch": "launch-1"}
    assert properties["networkInterfaces"] == [{"network": "global/networks/default"}]
    assert properties["disks"][0]["initializeParams"]["sourceImage"] == CONFIG.image
    assert {"locationPolicy", "instanceFlexibilityPolicy", "sourceInstanceTemplate"}.isdisjoint(body)


@pytest.mark.parametrize(("market", "notice_s", "item"), [(Market.SPOT, 90, ["90"]), (Market.SPOT, None, []), (Market.ON_DEMAND, 90, [])])
def test_a_spot_machine_is_told_its_window(market, notice_s, item):
    body = body_of(gcp_config(None, preemption_notice_s=notice_s), ask(gcp_pool(market)))
    items = body["instanceProperties"]["metadata"]["items"]
    assert [each["value"] for each in items if each["key"] == "holdfast-notice-s"] == item


def test_the_body_of_an_on_demand_launch_with_everything():
    config = gcp_config(
        None,
        instance_template="node",
        network_tags=("gpu",),
        service_account="node@p.iam.gserviceaccount.com",
        placement_policies={A: "compact"},
        reservations={A: "mine"},
    )
    body = body_of(config, ask(gcp_pool(Market.ON_DEMAND)))
    properties = body["instanceProperties"]
    assert body["sourceInstanceTemplate"] == "global/instanceTemplates/node"
    assert {"disks", "networkInterfaces"}.isdisjoint(properties), "the template brings them"
    assert properties["scheduling"] == {"provisioningModel": "STANDARD", "onHostMaintenance": "TERMINATE", "automaticRestart": False}
    assert properties["resourcePolicies"] == ["compact"]
    assert properties["reservationAffinity"]["values"] == ["mine"]
    assert properties["tags"] == {"items": ["gpu"]}
    assert properties["serviceAccounts"][0]["email"] == config.service_account
    spot = body_of(config, ask(template="regions/r/instanceTemplates/own"))
    assert spot["sourceInstanceTemplate"] == "regions/r/instanceTemplates/own"
    assert "reservationAffinity" not in spot["instanceProperties"]


def test_the_body_of_a_launch_that_may_go_elsewhere():
    config = gcp_config(
        None, preemption_notice_s=None, subnetworks={"us-central1": "regions/us-central1/subnetworks/s"}, external_address=True
    )
    others = [gcp_pool(zone=zone, type_=kind) for zone, kind in ((B, GCP_TYPE), (A, BIG), (B, BIG))]
    body = body_of(config, ask(None, *others))
    assert body["locationPolicy"]["targetShape"] == "ANY_SINGLE_ZONE"
    assert body["locationPolicy"]["zones"] == [{"zone": f"zones/{A}"}, {"zone": f"zones/{B}"}]
    assert body["locationPolicy"]["locations"] == {f"zones/{zone}": {"preference": "ALLOW"} for zone in (A, B)}
    chosen = sorted(body["instanceFlexibilityPolicy"]["instanceSelections"].values(), key=lambda each: int(each["rank"]))
    assert [each["machineTypes"] for each in chosen] == [[GCP_TYPE], [BIG]]
    properties = body["instanceProperties"]
    assert "machineType" not in properties
    assert "preemptionNoticeDuration" not in properties["scheduling"]
    assert properties["networkInterfaces"] == [
        {"subnetwork": "regions/us-central1/subnetworks/s", "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]}
    ]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PROVISIONING", "pending"),
        ("STAGING", "pending"),
        ("RUNNING", "running"),
        ("STOPPING", "stopping"),
        ("TERMINATED", "stopping"),
        ("SUSPENDED", "stopping"),
        ("NOVELTY", "running"),
        ("", "running"),
    ],
)
def test_no_status_is_gone_and_an_unknown_one_is_running(status, state):
    assert instance_of(message(compute_v1.Instance, instance_json(1, status=status)), "gcp").state == state


def test_an_instance_as_it_is_listed():
    said = instance_json(2**63 + 5, job="7") | {"networkInterfaces": [{"networkIP": "10.0.0.7"}]}
    found = instance_of(message(compute_v1.Instance, said), "gcp")
    assert (found.instance_id, found.launch_id, found.address) == (str(2**63 + 5), "launch-1", "10.0.0.7")
    assert found.pool == f"gcp/us-central1/{A}/{GCP_TYPE}/spot"
    assert found.launched == 1_700_000_000.0
    assert found.tags["job"] == "7"
    bare = instance_of(message(compute_v1.Instance, {"id": "1", "labels": {"holdfast-launch": "x"}}), "gcp")
    assert (bare.launch_id, bare.tags, bare.launched, bare.address) == ("x", {}, 0.0, "")
    hashed = instance_of(message(compute_v1.Instance, {"id": "1", "labels": {"holdfast-launch": label_value("X")}}), "gcp")
    assert hashed.launch_id == "", "a hash is no launch id"


@pytest.mark.parametrize(
    "written", ["", "{", "[]", "3", "null", "[" * 70_000, '{"a": ' * 9000, '"' + "x" * 70_000 + '"'], ids=lambda text: text[:8]
)
def test_malformed_tags_are_none(written):
    said = {"metadata": {"items": [{"key": "other", "value": "1"}, {"key": "holdfast-tags", "value": written}]}}
    assert tags_of(message(compute_v1.Instance, said)) == {}


@given(st.text(max_size=40))
def test_a_time_is_a_time_or_none(written):
    assert seconds_of(written) is None or written.strip()
    assert seconds_of("2023-11-14T14:13:20.000-08:00") == seconds_of("2023-11-14T22:13:20Z") == 1_700_000_000.0
    assert seconds_of("2023-11-14T22:13:20") is None, "whose time?"


def test_which_regions_are_silent():
    pages = [
        message(
            compute_v1.InstanceAggregatedList,
            {
                "items": {
                    f"zones/{A}": {"warning": {"code": "NO_RESULTS_ON_PAGE"}},
                    f"zones/{B}": {},
                    "zones/us-west1-a": {"warning": {"code": "UNREACHABLE", "message": "down"}},
                },
                "unreachables": ["projects/p/zones/asia-east1-a", "regions/europe-west4"],
            },
        )
    ]
    everywhere = ("us-central1", "us-west1", "asia-east1", "europe-west4")
    assert silent(pages, everywhere) == ({"us-west1", "asia-east1", "europe-west4"}, "zones/us-west1-a: down")
    assert silent(pages, ("us-central1",)) == (set(), "")


def price(usd, start="2026-01-01T00:00:00Z", currency="USD"):
    units = int(usd)
    said = {"units": str(units), "nanos": round((usd - units) * 1e9), "currencyCode": currency}
    return {"listPrice": said, "interval": {"startTime": start}}


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], None),
        ([price(3.25)], 3.25),
        ([price(4.0, "2026-01-02T00:00:00Z"), price(3.0)], 4.0),
        ([price(4.0, "2026-01-02T00:00:00Z", "EUR"), price(3.0)], 3.0),
        ([price(-1.0), price(0.0), price(1e6), {}, price(2.0, "yesterday")], None),
    ],
    ids=str,
)
def test_the_newest_price_is_taken_and_nonsense_left_out(history, expected):
    assert newest_price(message(compute_v1.CapacityHistoryResponse, {"priceHistory": history}).price_history) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"obtainability": 0.4, "estimatedUptime": "600s"}, (0.4, math.log(2) * 6)),
        ({"obtainability": 1.0, "estimatedUptime": "3600s"}, (1.0, None)),
        ({"obtainability": 0.0}, (0.0, None)),
        ({"obtainability": 7.0, "estimatedUptime": "soon"}, (None, None)),
        ({"estimatedUptime": "0s"}, (None, None)),
        ({}, (None, None)),
    ],
    ids=str,
)
def test_scores_and_what_they_say_of_preemptions(scores, expected):
    assert score_of(message(compute_v1.CapacityAdviceResponse, {"recommendations": [{"scores": scores}]})) == pytest.approx(expected)


def test_no_recommendation_is_no_score():
    assert score_of(message(compute_v1.CapacityAdviceResponse, {})) == (None, None)


@pytest.mark.parametrize(
    ("accelerator", "model", "memory_mb"),
    [
        ("nvidia-h100-80gb", "H100", 81_920),
        ("nvidia-h100-mega-80gb", "H100", 81_920),
        ("nvidia-h200-141gb", "H200", 144_384),
        ("nvidia-tesla-a100", "A100", 40_960),
        ("nvidia-a100-80gb", "A100", 81_920),
        ("nvidia-l4", "L4", 24_576),
        ("nvidia-b200", "B200", 0),
        ("nvidia-rtx-pro-6000", "RTX-PRO-6000", 0),
    ],
)
def test_gpus_by_their_accelerator_type(accelerator, model, memory_mb):
    sold = {
        "name": "t",
        "guestCpus": 8,
        "memoryMb": 100,
        "accelerators": [{"guestAcceleratorType": accelerator, "guestAcceleratorCount": 2}],
    }
    (offer,) = offers_in(
        [message(compute_v1.MachineTypeAggregatedList, {"items": {f"zones/{A}": {"machineTypes": [sold]}}})], "gcp", ["us-central1"]
    )
    assert (offer.gpu_model, offer.gpu_memory_mb, offer.gpus) == (model, memory_mb, 2)


def test_offers_are_of_our_regions_by_zone_and_with_gpus():
    def sold(name, accelerator="nvidia-l4", count=1):
        return {
            "name": name,
            "guestCpus": 4,
            "memoryMb": 16,
            "accelerators": [{"guestAcceleratorType": accelerator, "guestAcceleratorCount": count}],
        }

    plain = {"name": "n2-standard-4", "guestCpus": 4, "memoryMb": 16}
    pages = [
        {f"zones/{B}": {"machineTypes": [sold("g2"), plain, sold("tpu", "ct5lp"), sold("none", count=0)]}},
        {f"zones/{A}": {"machineTypes": [sold("g2")]}, "zones/europe-west4-a": {"machineTypes": [sold("g2")]}},
    ]
    listed = [message(compute_v1.MachineTypeAggregatedList, {"items": items}) for items in pages]
    (offer,) = offers_in(listed, "gcp", ["us-central1", "us-west1"])
    assert (offer.instance_type, offer.zones, offer.markets) == ("g2", (A, B), (Market.SPOT, Market.ON_DEMAND))
