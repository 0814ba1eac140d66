"""Launching with real boto3: fleets that come in part, strategies, idempotent tokens, capacity errors."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.timeout(30)  # real processes on a machine that may be busy

A, B, C = "us-east-1a", "us-east-1b", "us-east-1c"
SMALL = [("sim1.small", A), ("sim1.small", B), ("sim1.small", C)]
Fleet = Callable[..., dict[str, Any]]


def status_and_code(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def placed(answer: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(one["InstanceType"], one["AvailabilityZone"]): len(one["InstanceIds"]) for one in answer["Instances"]}


def refused(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"], one["ErrorCode"]) for one in answer["Errors"]]


def run(cloud: Any, most: int = 1, least: int = 1, **more: Any) -> dict[str, Any]:
    request = {
        "ImageId": "ami-1",
        "InstanceType": "sim1.small",
        "MinCount": least,
        "MaxCount": most,
        "InstanceMarketOptions": {"MarketType": "spot"},
    }
    return dict(cloud.ec2().run_instances(**(request | more)))


def test_a_fleet_fills_the_cheapest_pool_first_and_says_what_it_lacked(fleet: Fleet) -> None:
    answer = fleet(5, SMALL)
    assert placed(answer) == {("sim1.small", B): 4, ("sim1.small", C): 1}
    assert refused(answer) == [(B, "InsufficientInstanceCapacity")]
    assert {one["Lifecycle"] for one in answer["Instances"]} == {"spot"}
    override = answer["Instances"][0]["LaunchTemplateAndOverrides"]
    assert override["Overrides"] == {"InstanceType": "sim1.small", "SubnetId": f"subnet-{B}", "AvailabilityZone": B}
    assert override["LaunchTemplateSpecification"]["Version"] == "1"


def test_a_fleet_beyond_all_capacity_comes_in_part(fleet: Fleet) -> None:
    answer = fleet(20, SMALL)
    assert sum(placed(answer).values()) == 12
    assert {code for _, code in refused(answer)} == {"InsufficientInstanceCapacity"}
    again = fleet(1, SMALL)
    assert again["Instances"] == []
    assert len(again["Errors"]) == 3


def test_price_capacity_optimized_prefers_a_pool_that_holds_all(fleet: Fleet, cloud: Any) -> None:
    cloud.control.set_zone(B, capacity=2, instance_type="sim1.small")
    try:
        assert placed(fleet(3, SMALL, AllocationStrategy="price-capacity-optimized")) == {("sim1.small", C): 3}
        assert placed(fleet(3, SMALL, AllocationStrategy="lowest-price")) == {("sim1.small", B): 2, ("sim1.small", C): 1}
    finally:
        cloud.control.set_zone(B, capacity=4, instance_type="sim1.small")


def test_diversified_spreads(fleet: Fleet) -> None:
    answer = fleet(7, SMALL, AllocationStrategy="diversified")
    assert sorted(placed(answer).values()) == [2, 2, 3]


def test_all_or_nothing_in_one_zone(fleet: Fleet) -> None:
    pools = [(name, zone) for zone in (A, B, C) for name in ("sim1.small", "sim1.large")]
    options: dict[str, Any] = {"SingleAvailabilityZone": True, "MinTargetCapacity": 6}
    answer = fleet(6, pools, **options)
    assert {zone for _, zone in placed(answer)} == {B}
    assert sum(placed(answer).values()) == 6
    assert fleet(7, pools, SingleAvailabilityZone=True, MinTargetCapacity=7)["Instances"] == []


def test_one_instance_type(fleet: Fleet) -> None:
    pools = [("sim1.large", A), ("sim1.large", B), *SMALL]
    assert {name for name, _ in placed(fleet(9, pools, SingleInstanceType=True))} == {"sim1.small"}


def test_a_minimum_needs_a_single_pool_rule(fleet: Fleet) -> None:
    with pytest.raises(ClientError, match="InvalidParameterCombination"):
        fleet(2, SMALL, MinTargetCapacity=2)


def test_an_on_demand_fleet(fleet: Fleet, cloud: Any) -> None:
    answer = fleet(7, [("sim1.small", A)], market="on-demand")
    assert placed(answer) == {("sim1.small", A): 6}
    assert answer["Instances"][0]["Lifecycle"] == "on-demand"
    ids = answer["Instances"][0]["InstanceIds"]
    instance = cloud.ec2().describe_instances(InstanceIds=ids[:1])["Reservations"][0]["Instances"][0]
    assert "InstanceLifecycle" not in instance
    assert "SpotInstanceRequestId" not in instance


def test_bids_weights_and_a_type_that_a_zone_lacks(cloud: Any, template: str) -> None:
    overrides = [
        {"InstanceType": "sim1.small", "AvailabilityZone": B, "MaxPrice": "0.1"},
        {"InstanceType": "g6.xlarge", "AvailabilityZone": A},
        {"InstanceType": "sim1.large", "AvailabilityZone": C, "WeightedCapacity": 2},
    ]
    answer = cloud.ec2().create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": "1"},
                "Overrides": overrides,
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": 3, "DefaultTargetCapacityType": "spot"},
        SpotOptions={"AllocationStrategy": "capacity-optimized"},
    )
    assert placed(answer) == {("sim1.large", C): 2}
    assert {(B, "SpotMaxPriceTooLow")} <= set(refused(answer))
    everywhere = cloud.ec2().create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": "$Default"},
                "Overrides": [{"InstanceType": "g6.xlarge", "AvailabilityZone": A}],
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
    )
    assert refused(everywhere) == [(A, "Unsupported")]


def test_refused_on_demand_for_so_many_launches(fleet: Fleet, cloud: Any) -> None:
    cloud.control.refuse(zone=B, count=1)
    cloud.control.refuse(zone=C, code="UnfulfillableCapacity")
    first = fleet(1, SMALL)
    assert placed(first) == {("sim1.small", A): 1}
    assert refused(first) == [(B, "InsufficientInstanceCapacity"), (C, "UnfulfillableCapacity")]
    assert placed(fleet(1, SMALL)) == {("sim1.small", B): 1}
    refusals = [line["code"] for line in cloud.record() if line["event"] == "refused"]
    assert refusals[-2:] == ["InsufficientInstanceCapacity", "UnfulfillableCapacity"]


def test_the_same_fleet_token_gives_the_same_fleet(fleet: Fleet, cloud: Any) -> None:
    first = fleet(5, SMALL, token="fleet-1")
    again = fleet(5, SMALL, token="fleet-1")
    for answer in (first, again):
        answer.pop("ResponseMetadata")
    assert again == first
    assert len([one for one in cloud.control.instances() if one["gone"] is None]) == 5
    with pytest.raises(ClientError) as caught:
        fleet(4, SMALL, token="fleet-1")
    assert status_and_code(caught.value) == (400, "IdempotentParameterMismatch")
    assert fleet(1, SMALL, token="fleet-2")["FleetId"] != first["FleetId"]


def test_a_lost_answer_is_found_by_the_token(fleet: Fleet, cloud: Any) -> None:
    cloud.control.fail(action="CreateFleet", mode="500", when="after", count=1)
    with pytest.raises(ClientError) as caught:
        fleet(2, SMALL, token="lost")
    assert status_and_code(caught.value) == (500, "InternalError")
    ids = {instance_id for one in fleet(2, SMALL, token="lost")["Instances"] for instance_id in one["InstanceIds"]}
    filters = [{"Name": "client-token", "Values": ["lost"]}]
    found = cloud.ec2().describe_instances(Filters=filters)["Reservations"]
    assert {one["InstanceId"] for group in found for one in group["Instances"]} == ids
    assert len(ids) == 2


def test_fleet_tags_join_those_of_the_template(fleet: Fleet, cloud: Any) -> None:
    answer = fleet(1, SMALL, token="tagged")
    ids = answer["Instances"][0]["InstanceIds"]
    tags = cloud.ec2().describe_instances(InstanceIds=ids)["Reservations"][0]["Instances"][0]["Tags"]
    values = {tag["Key"]: tag["Value"] for tag in tags}
    assert values["from"] == "template"
    assert values["launch"] == "tagged"
    assert values["aws:ec2:fleet-id"] == answer["FleetId"]


def test_a_template_without_an_image_is_an_error_of_the_override(cloud: Any) -> None:
    client = cloud.ec2()
    client.create_launch_template(LaunchTemplateName="no-image", LaunchTemplateData={"InstanceType": "sim1.small"})
    request = {
        "Type": "instant",
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": {"LaunchTemplateName": "no-image"}}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
    }
    answer = client.create_fleet(**request)
    assert answer["Instances"] == []
    assert {code for _, code in refused(answer)} == {"MissingParameter"}


def over(*overrides: dict[str, Any]) -> dict[str, Any]:
    return {
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": {"LaunchTemplateName": "holdfast-node"}, "Overrides": list(overrides)}]
    }


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Type": "maintain"}, "UnsupportedOperation"),
        ({"TargetCapacitySpecification": {"TotalTargetCapacity": 0}}, "InvalidTargetCapacitySpecification"),
        (
            {"TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "odd"}},
            "InvalidParameterValue",
        ),
        ({"SpotOptions": {"AllocationStrategy": "best"}}, "InvalidParameterValue"),
        ({"SpotOptions": {"MaxTotalPrice": "1"}}, "UnsupportedOperation"),
        ({"SpotOptions": {"SingleAvailabilityZone": True, "MinTargetCapacity": 1001}}, "InvalidParameterValue"),
        (over({"InstanceType": "sim1.small", "AvailabilityZone": A}, {"InstanceType": "sim1.small"}), "InvalidFleetConfig"),
        (over({"InstanceType": "sim1.small", "MaxPrice": "0.001"}), "InvalidParameterValue"),
        (
            {"LaunchTemplateConfigs": [{"LaunchTemplateSpecification": {"LaunchTemplateName": "nope"}}]},
            "InvalidLaunchTemplateName.NotFoundException",
        ),
    ],
)
def test_a_fleet_that_makes_no_sense(cloud: Any, template: str, change: dict[str, Any], code: str) -> None:
    config = {"LaunchTemplateSpecification": {"LaunchTemplateName": template}, "Overrides": [{"InstanceType": "sim1.small"}]}
    request = {
        "Type": "instant",
        "LaunchTemplateConfigs": [config],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
    }
    with pytest.raises(ClientError) as caught:
        cloud.ec2().create_fleet(**(request | change))
    assert status_and_code(caught.value) == (400, code)


def test_run_instances_gives_between_min_and_max(cloud: Any) -> None:
    answer = run(cloud, most=9, least=2, SubnetId=f"subnet-{A}")
    assert len(answer["Instances"]) == 4
    first = answer["Instances"][0]
    assert first["State"] == {"Code": 0, "Name": "pending"}
    assert first["Placement"]["AvailabilityZone"] == A
    assert first["InstanceLifecycle"] == "spot"
    assert first["SpotInstanceRequestId"].startswith("sir-")
    assert len({one["PrivateIpAddress"] for one in answer["Instances"]}) == 4


def test_run_instances_without_capacity_is_a_server_error(cloud: Any) -> None:
    with pytest.raises(ClientError) as caught:
        run(cloud, most=9, least=5)
    assert status_and_code(caught.value) == (500, "InsufficientInstanceCapacity")
    assert run(cloud)["Instances"][0]["Placement"]["AvailabilityZone"] == B  # nothing was kept of the failed launch


def test_run_instances_is_idempotent(cloud: Any) -> None:
    first = run(cloud, most=2, ClientToken="run-1")
    ids = [one["InstanceId"] for one in first["Instances"]]
    cloud.control.wait_for(ids[0], lambda one: one["state"] == "running", 5)
    again = run(cloud, most=2, ClientToken="run-1")
    assert [one["InstanceId"] for one in again["Instances"]] == ids
    assert again["Instances"][0]["State"]["Name"] == "running"
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        run(cloud, most=3, ClientToken="run-1")


def test_a_failed_launch_may_be_repeated_with_its_token(cloud: Any) -> None:
    cloud.control.refuse(count=3)
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        run(cloud, ClientToken="run-2")
    assert len(run(cloud, ClientToken="run-2")["Instances"]) == 1


def test_run_instances_from_a_template(cloud: Any, template: str) -> None:
    client = cloud.ec2()
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "own", "Value": "1"}]}]
    reference = {"LaunchTemplateName": template}
    answer = client.run_instances(LaunchTemplate=reference, InstanceType="sim1.large", MinCount=1, MaxCount=1, TagSpecifications=tags)
    instance = answer["Instances"][0]
    assert instance["ImageId"] == "ami-0123456789abcdef0"
    assert {tag["Key"] for tag in instance["Tags"]} >= {"own", "from"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"MinCount": 2}, "InvalidParameterValue"),
        ({"InstanceType": "p99.huge"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-mars"}, "InvalidSubnetID.NotFound"),
        ({"ImageId": ""}, "MissingParameter"),
        (
            {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.01"}}},
            "SpotMaxPriceTooLow",
        ),
        ({"UserData": "x" * 20_000}, "InvalidParameterValue"),
        ({"InstanceMarketOptions": {"MarketType": "capacity-block"}}, "MissingParameter"),
        ({"InstanceMarketOptions": {"MarketType": "interruptible-capacity-reservation"}}, "InvalidParameterValue"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0}], "SubnetId": f"subnet-{A}"}, "InvalidParameterCombination"),
        ({"NetworkInterfaces": [{"DeviceIndex": 0}], "SecurityGroupIds": ["sg-1"]}, "InvalidParameterCombination"),
        ({"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "aws:x"}]}]}, "InvalidParameterValue"),
    ],
)
def test_a_launch_that_makes_no_sense(cloud: Any, change: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        run(cloud, **change)
    assert status_and_code(caught.value) == (400, code)


def test_what_a_machine_was_asked_for_is_told_back(cloud: Any) -> None:
    target = {"CapacityReservationTarget": {"CapacityReservationId": "cr-0123456789abcdef0"}}
    interfaces = [
        {"NetworkCardIndex": card, "DeviceIndex": min(card, 1), "InterfaceType": "efa", "SubnetId": f"subnet-{C}", "Groups": ["sg-1"]}
        for card in (0, 1)
    ]
    market = {"InstanceMarketOptions": {"MarketType": "capacity-block"}, "CapacityReservationSpecification": target}
    answer = run(cloud, NetworkInterfaces=interfaces, Placement={"GroupName": "tight"}, **market)
    (machine,) = cloud.ec2().describe_instances(InstanceIds=[answer["Instances"][0]["InstanceId"]])["Reservations"][0]["Instances"]
    assert (machine["Placement"]["GroupName"], machine["Placement"]["AvailabilityZone"]) == ("tight", C)
    assert machine["InstanceLifecycle"] == "capacity-block"
    assert machine["CapacityReservationSpecification"] == target
    assert [one["Attachment"]["NetworkCardIndex"] for one in machine["NetworkInterfaces"]] == [0, 1]
    assert [one.get("PrivateIpAddress") for one in machine["NetworkInterfaces"]] == [machine["PrivateIpAddress"], None]


def test_the_spot_limit_of_the_account(start_cloud: Callable[..., Any]) -> None:
    cloud = start_cloud(spot_instance_limit=3, describe_lag_s=0.3)
    assert len(run(cloud, most=5)["Instances"]) == 3
    assert cloud.ec2().describe_instances()["Reservations"] == []  # as on EC2, new instances show with a delay
    with pytest.raises(ClientError) as caught:
        run(cloud)
    assert status_and_code(caught.value) == (400, "MaxSpotInstanceCountExceeded")
    instance_id = cloud.control.instances()[0]["instance_id"]
    cloud.control.wait_for(instance_id, lambda one: cloud.control.state()["now"] > one["requested"] + 0.3, 5)
    assert len(cloud.ec2().describe_instances()["Reservations"][0]["Instances"]) == 3
