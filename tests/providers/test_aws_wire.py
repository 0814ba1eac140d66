"""Our words to EC2's and back, without a server."""

import datetime
from dataclasses import replace

import pytest
from holdfast_controller.providers.aws_wire import CALL_MAX, instance_of, newest_prices, parts, run_parameters
from holdfast_controller.providers.base import LaunchRequest, Market, Pool
from hypothesis import given, settings
from hypothesis import strategies as st

POOL = Pool("aws/us-east-1/us-east-1a/p5.48xlarge/spot", "aws", "us-east-1", "us-east-1a", "p5.48xlarge", Market.SPOT)
ON_DEMAND = replace(POOL, name=POOL.name.replace("/spot", "/on_demand"), market=Market.ON_DEMAND)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000), st.data())
def test_parts_add_up_and_are_the_same_every_time(count, data):
    minimum = data.draw(st.integers(1, count))
    request = LaunchRequest("launch-1", POOL, count, minimum)
    split = list(parts(request))
    assert split == list(parts(request))
    assert sum(part.count for part in split) == count
    assert minimum <= sum(part.minimum for part in split) <= minimum + len(split)
    assert all(1 <= part.minimum <= part.count <= CALL_MAX for part in split)
    assert len({part.token for part in split}) == len(split)
    assert split[0].token == "launch-1"


def test_tokens_of_a_long_launch_id_fit_and_differ():
    tokens = [part.token for part in parts(LaunchRequest("x" * 64, POOL, 1600, 1))]
    assert len(set(tokens)) == 4
    assert max(map(len, tokens)) == 64


def parameters(config, request):
    return run_parameters(config, request, next(parts(request)))


def test_parameters_of_a_spot_launch(config_of, request_of):
    config = config_of(
        "http://127.0.0.1:1",
        subnets={"us-east-1a": "subnet-1"},
        security_groups={"us-east-1": ["sg-1", "sg-2"]},
        placement_groups={"us-east-1a": "tight"},
    )
    said = parameters(config, request_of(replace(POOL, price_cap_usd_h=0.00001), count=4, minimum=3))
    tags = said.pop("TagSpecifications")
    assert said == {
        "MinCount": 3,
        "MaxCount": 4,
        "ClientToken": "launch-1",
        "InstanceType": "p5.48xlarge",
        "Placement": {"AvailabilityZone": "us-east-1a", "GroupName": "tight"},
        "SubnetId": "subnet-1",
        "SecurityGroupIds": ["sg-1", "sg-2"],
        "ImageId": "ami-12345678",
        "UserData": "#!/bin/sh\n",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "InstanceMetadataTags": "enabled"},
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate", "MaxPrice": "0.000010"},
        },
    }
    assert [each["ResourceType"] for each in tags] == ["instance", "volume"]
    assert {tag["Key"]: tag["Value"] for tag in tags[0]["Tags"]} == {
        "Name": "holdfast-alpha",
        "holdfast:cluster": "alpha",
        "holdfast:launch": "launch-1",
        "holdfast:pool": POOL.name,
        "job": "7",
    }


def test_our_tags_cannot_be_overridden(config_of, request_of):
    request = replace(request_of(POOL), tags={"holdfast:cluster": "beta", "Name": "mine"})
    tags = {tag["Key"]: tag["Value"] for tag in parameters(config_of("http://127.0.0.1:1"), request)["TagSpecifications"][0]["Tags"]}
    assert (tags["holdfast:cluster"], tags["Name"]) == ("alpha", "mine")


def test_on_demand_has_no_market_options(config_of, request_of):
    said = parameters(config_of("http://127.0.0.1:1"), request_of(replace(POOL, market=Market.ON_DEMAND)))
    assert "InstanceMarketOptions" not in said


def test_interfaces_of_efa_hold_subnet_and_security_groups(config_of, request_of):
    config = config_of(
        "http://127.0.0.1:1",
        efa_interfaces={"p5.48xlarge": 32},
        subnets={"us-east-1a": "subnet-1"},
        security_groups={"us-east-1": ["sg-1"]},
    )
    said = parameters(config, request_of(POOL))
    assert not {"SubnetId", "SecurityGroupIds"} & said.keys(), "EC2 refuses them beside interfaces"
    assert [each["NetworkCardIndex"] for each in said["NetworkInterfaces"]] == list(range(32))
    assert [(each["DeviceIndex"], each["InterfaceType"]) for each in said["NetworkInterfaces"]] == [(0, "efa")] + [(1, "efa-only")] * 31
    assert all((each["SubnetId"], each["Groups"]) == ("subnet-1", ["sg-1"]) for each in said["NetworkInterfaces"])
    assert "NetworkInterfaces" not in parameters(config, request_of(replace(POOL, instance_type="g6.xlarge")))


GROUP = "arn:aws:resource-groups:us-east-1:123456789012:group/gpus"


@pytest.mark.parametrize(
    ("reservations", "expected"),
    [
        ({"us-east-1a": GROUP}, {"CapacityReservationResourceGroupArn": GROUP}),
        ({"us-east-1a": GROUP, ON_DEMAND.name: "cr-0123456789abcdef0"}, {"CapacityReservationId": "cr-0123456789abcdef0"}),
        ({"us-east-1b": GROUP}, None),
    ],
    ids=["zone", "pool first", "elsewhere"],
)
def test_on_demand_runs_in_its_reservation_and_spot_in_none(config_of, request_of, reservations, expected):
    config = config_of("http://127.0.0.1:1", capacity_reservations=reservations)
    said = parameters(config, request_of(ON_DEMAND))
    assert said.get("CapacityReservationSpecification") == (expected and {"CapacityReservationTarget": expected})
    assert "InstanceMarketOptions" not in said
    assert "CapacityReservationSpecification" not in parameters(config, request_of(POOL))


def test_a_capacity_block_is_a_market_of_its_own(config_of, request_of):
    config = config_of("http://127.0.0.1:1", capacity_blocks={ON_DEMAND.name: "cr-0123456789abcdef0"})
    said = parameters(config, request_of(ON_DEMAND))
    assert said["InstanceMarketOptions"] == {"MarketType": "capacity-block"}
    assert said["CapacityReservationSpecification"]["CapacityReservationTarget"] == {"CapacityReservationId": "cr-0123456789abcdef0"}


@pytest.mark.parametrize(
    ("of_request", "of_pool", "default", "expected"),
    [
        ("mine", "pools", "default", {"LaunchTemplateName": "mine", "Version": "$Default"}),
        ("", "pools:7", "default", {"LaunchTemplateName": "pools", "Version": "7"}),
        ("", "", "lt-0123456789abcdef0:3", {"LaunchTemplateId": "lt-0123456789abcdef0", "Version": "3"}),
    ],
)
def test_the_nearest_template_is_used(config_of, request_of, of_request, of_pool, default, expected):
    config = config_of("http://127.0.0.1:1", launch_template=default, launch_templates={POOL.name: of_pool} if of_pool else {})
    said = parameters(config, replace(request_of(POOL), template=of_request))
    assert said["LaunchTemplate"] == expected
    assert "ImageId" not in said


SAID = {
    "InstanceId": "i-0123456789abcdef0",
    "InstanceType": "p5.48xlarge",
    "InstanceLifecycle": "spot",
    "Placement": {"AvailabilityZone": "us-east-1a"},
    "LaunchTime": datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC),
    "PrivateIpAddress": "10.0.0.7",
    "Tags": [{"Key": "holdfast:launch", "Value": "launch-1"}],
}


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("pending", "", ("pending", False)),
        ("running", "", ("running", False)),
        ("stopped", "Server.SpotInstanceShutdown", ("stopping", True)),
        ("shutting-down", "Client.UserInitiatedShutdown", ("stopping", False)),
        ("terminated", "Client.UserInitiatedShutdown", ("gone", False)),
        ("terminated", "Server.SpotInstanceTermination", ("gone", True)),
        ("terminated", "Server.InsufficientInstanceCapacity", ("gone", False)),
        ("never-heard-of", "", ("running", False)),
    ],
)
def test_states(state, reason, expected):
    instance = instance_of(SAID | {"State": {"Name": state}, "StateReason": {"Code": reason, "Message": "m"}}, "aws", "us-east-1")
    assert (instance.state, instance.reclaimed) == expected
    assert (instance.launch_id, instance.pool, instance.address, instance.launched) == ("launch-1", POOL.name, "10.0.0.7", 1795478400.0)


def test_a_bare_instance_is_still_an_instance():
    instance = instance_of({"InstanceId": "i-1"}, "aws", "us-east-1")
    assert (instance.instance_id, instance.launch_id, instance.address, instance.launched) == ("i-1", "", "", 0.0)


def test_the_newest_price_counts():
    def entry(hour, price, zone="us-east-1a"):
        at = datetime.datetime(2026, 11, 24, hour, tzinfo=datetime.UTC)
        return {"AvailabilityZone": zone, "InstanceType": "t", "Timestamp": at, "SpotPrice": price}

    history = [entry(1, "1.5"), entry(3, "3.5"), entry(2, "2.5"), entry(1, "9", "us-east-1b")]
    assert newest_prices(history) == {("us-east-1a", "t"): 3.5, ("us-east-1b", "t"): 9.0}
