"""What EC2 tells, with real boto3: instances by filter and page, zones, types, prices, scores, templates, tags."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = pytest.mark.timeout(30)  # real processes on a machine that may be busy

A, B = "us-east-1a", "us-east-1b"


def launch(cloud: Any, count: int = 1, zone: str = A, tags: dict[str, str] | None = None, spot: bool = True) -> list[str]:
    pairs = [{"Key": key, "Value": value} for key, value in (tags or {"group": "none"}).items()]
    market = {"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}
    answer = cloud.ec2().run_instances(
        ImageId="ami-1",
        InstanceType="sim1.small",
        MinCount=count,
        MaxCount=count,
        Placement={"AvailabilityZone": zone},
        TagSpecifications=[{"ResourceType": "instance", "Tags": pairs}],
        **market,
    )
    return [one["InstanceId"] for one in answer["Instances"]]


def found(cloud: Any, **filters: str | list[str]) -> set[str]:
    named = [
        {"Name": name.replace("__", ":").replace("_", "-"), "Values": [value] if isinstance(value, str) else value}
        for name, value in filters.items()
    ]
    groups = cloud.ec2().describe_instances(Filters=named)["Reservations"]
    return {one["InstanceId"] for group in groups for one in group["Instances"]}


def test_instances_by_filter(cloud: Any) -> None:
    live = {"instance_state_name": ["pending", "running"]}
    first = launch(cloud, 2, A, {"node": "n[1]", "cluster": "c"})
    second = launch(cloud, 1, B, {"node": "n2", "cluster": "c"}, spot=False)
    assert found(cloud, tag__cluster="c", **live) == {*first, *second}
    assert found(cloud, tag__node="n[1]", **live) == set(first)
    assert found(cloud, tag__node=["n?", "no"], **live) == set(second)
    assert found(cloud, tag_key="node", availability_zone=B, **live) == set(second)
    assert found(cloud, instance_lifecycle="spot", **live) == set(first)
    assert found(cloud, instance_type="sim1.*", tag__node="n*", **live) == {*first, *second}
    assert found(cloud, instance_id=first[0]) == {first[0]}
    assert found(cloud, tag__node="N2", **live) == set()
    assert found(cloud, tag__absent="*", **live) == set()


@pytest.mark.parametrize("name", ["colour", "tagkey"])
def test_an_unknown_filter_is_refused_even_without_instances(cloud: Any, name: str) -> None:
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        cloud.ec2("us-west-2").describe_instances(Filters=[{"Name": name, "Values": ["x"]}])


def test_pages_are_complete_while_instances_come_and_go(cloud: Any) -> None:
    before = [launch(cloud, 4, zone, {"paged": "yes"}) for zone in (A, B, "us-east-1c")]
    filters = [{"Name": "tag:paged", "Values": ["yes"]}]
    client = cloud.ec2()
    page = client.describe_instances(Filters=filters, MaxResults=5)
    seen = [one["InstanceId"] for group in page["Reservations"] for one in group["Instances"]]
    assert len(seen) == 5
    launch(cloud, 1, A, {"paged": "yes"}, spot=False)
    while "NextToken" in page:
        page = client.describe_instances(Filters=filters, MaxResults=5, NextToken=page["NextToken"])
        seen += [one["InstanceId"] for group in page["Reservations"] for one in group["Instances"]]
    assert len(seen) == len(set(seen)) == 13
    assert {instance_id for launched in before for instance_id in launched} <= set(seen)
    paginator = client.get_paginator("describe_instances")
    pages = list(paginator.paginate(Filters=filters, PaginationConfig={"PageSize": 5}))
    assert [sum(len(group["Instances"]) for group in one["Reservations"]) for one in pages] == [5, 5, 3]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"MaxResults": 4}, "InvalidParameterValue"),
        ({"MaxResults": 1001}, "InvalidParameterValue"),
        ({"NextToken": "!!"}, "InvalidNextToken"),
        ({"InstanceIds": ["i-0123456789abcdef0"], "MaxResults": 5}, "InvalidParameterCombination"),
        ({"InstanceIds": ["i-0123456789abcdef0"]}, "InvalidInstanceID.NotFound"),
        ({"InstanceIds": ["nonsense"]}, "InvalidInstanceID.Malformed"),
    ],
)
def test_a_describe_that_makes_no_sense(cloud: Any, request_: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        cloud.ec2().describe_instances(**request_)
    assert caught.value.response["Error"]["Code"] == code


def test_another_region_sees_nothing_of_it(cloud: Any) -> None:
    ids = launch(cloud)
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        cloud.ec2("us-west-2").describe_instances(InstanceIds=ids)
    with pytest.raises(ClientError) as caught:
        cloud.ec2("eu-west-1").describe_instances()
    assert caught.value.response["Error"]["Code"] == "OptInRequired"


def test_status_of_running_instances_only(cloud: Any) -> None:
    instance_id = launch(cloud)[0]
    cloud.control.wait_for(instance_id, lambda one: one["state"] == "running", 5)
    statuses = cloud.ec2().describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    assert statuses[0]["InstanceState"]["Name"] == "running"
    assert statuses[0]["InstanceStatus"]["Status"] == "ok"
    cloud.control.kill(instance_id)
    cloud.control.wait_for(instance_id, lambda one: one["gone"] is not None, 5)
    assert cloud.ec2().describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"] == []
    statuses = cloud.ec2().describe_instance_status(InstanceIds=[instance_id], IncludeAllInstances=True)
    assert statuses["InstanceStatuses"][0]["InstanceState"]["Name"] == "terminated"


def test_tags_are_added_and_removed(cloud: Any) -> None:
    client, (one, two) = cloud.ec2(), launch(cloud, 2)
    client.create_tags(Resources=[one, two], Tags=[{"Key": "holdfast:node", "Value": "n1"}])
    filters = [{"Name": "tag:holdfast:node", "Values": ["n1"]}]
    groups = client.describe_instances(Filters=filters)["Reservations"]
    assert {i["InstanceId"] for group in groups for i in group["Instances"]} == {one, two}
    client.delete_tags(Resources=[two], Tags=[{"Key": "holdfast:node"}])
    groups = client.describe_instances(Filters=filters)["Reservations"]
    assert {i["InstanceId"] for group in groups for i in group["Instances"]} == {one}
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        client.create_tags(Resources=[one, "i-0123456789abcdef0"], Tags=[{"Key": "half", "Value": "done"}])
    assert found(cloud, tag_key="half") == set()
    with pytest.raises(ClientError, match="TagLimitExceeded"):
        client.create_tags(Resources=[one], Tags=[{"Key": f"k{n}", "Value": ""} for n in range(50)])


def test_zones_and_subnets(cloud: Any) -> None:
    client = cloud.ec2()
    zones = client.describe_availability_zones()["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in zones] == [A, B, "us-east-1c"]
    assert zones[1]["ZoneId"] == "use1-az2"
    subnets = client.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [B]}])["Subnets"]
    assert [subnet["SubnetId"] for subnet in subnets] == [f"subnet-{B}"]
    with pytest.raises(ClientError, match=r"InvalidSubnetID\.NotFound"):
        client.describe_subnets(SubnetIds=["subnet-mars"])


def test_instance_types_and_where_they_are_offered(cloud: Any) -> None:
    client = cloud.ec2()
    info = client.describe_instance_types(InstanceTypes=["p5.48xlarge"])["InstanceTypes"][0]
    assert info["VCpuInfo"]["DefaultVCpus"] == 192
    assert info["GpuInfo"]["Gpus"][0] == {
        "Name": "H100",
        "Manufacturer": "NVIDIA",
        "Count": 8,
        "MemoryInfo": {"SizeInMiB": 81920},
    }
    with pytest.raises(ClientError, match="InvalidInstanceType"):
        client.describe_instance_types(InstanceTypes=["p99.huge"])
    filters = [{"Name": "instance-type", "Values": ["sim1.small"]}]
    offered = client.describe_instance_type_offerings(LocationType="availability-zone", Filters=filters)
    assert [one["Location"] for one in offered["InstanceTypeOfferings"]] == [A, B, "us-east-1c"]
    by_region = cloud.ec2("us-west-2").describe_instance_type_offerings()["InstanceTypeOfferings"]
    assert by_region == [{"InstanceType": "sim1.small", "LocationType": "region", "Location": "us-west-2"}]


def test_spot_prices_and_their_history(cloud: Any) -> None:
    west, zone = cloud.ec2("us-west-2"), "us-west-2a"
    started = cloud.control.state()["now"]
    for price in (0.25, 0.4):
        cloud.control.set_zone(zone, price_usd_h=price)
    history = west.describe_spot_price_history(StartTime=started, InstanceTypes=["sim1.small"])["SpotPriceHistory"]
    assert [float(one["SpotPrice"]) for one in history] == [0.4, 0.25, 0.2]
    assert {one["AvailabilityZone"] for one in history} == {zone}
    now = west.describe_spot_price_history(StartTime=cloud.control.state()["now"])["SpotPriceHistory"]
    assert [float(one["SpotPrice"]) for one in now] == [0.4]
    pages = west.get_paginator("describe_spot_price_history").paginate(StartTime=started, PaginationConfig={"PageSize": 1})
    assert [one["SpotPrice"] for page in pages for one in page["SpotPriceHistory"]] == [h["SpotPrice"] for h in history]
    assert west.describe_spot_price_history(AvailabilityZone=A)["SpotPriceHistory"] == []
    prices = [line["price_usd_h"] for line in cloud.record() if line.get("zone") == zone and "price_usd_h" in line]
    assert prices == [0.25, 0.4]


def test_placement_scores(cloud: Any) -> None:
    client, types = cloud.ec2(), ["sim1.small", "sim1.large", "p5.48xlarge"]
    scores = client.get_spot_placement_scores(InstanceTypes=types, TargetCapacity=4, SingleAvailabilityZone=True)
    by_zone = {(one["Region"], one["AvailabilityZoneId"]): one["Score"] for one in scores["SpotPlacementScores"]}
    assert by_zone[("us-east-1", "use1-az1")] == 10
    assert by_zone[("us-west-2", "usw2-az1")] == 6
    few = client.get_spot_placement_scores(InstanceTypes=["sim1.small"], TargetCapacity=1, RegionNames=["us-east-1"])
    assert [one["Score"] for one in few["SpotPlacementScores"]] == [3]  # fewer than three types: always low
    big = client.get_spot_placement_scores(InstanceTypes=types, TargetCapacity=1000, RegionNames=["us-east-1"])
    assert [one["Score"] for one in big["SpotPlacementScores"]] == [1]


def test_the_life_of_a_launch_template(cloud: Any) -> None:
    client, data = cloud.ec2(), {"ImageId": "ami-1", "UserData": "aGk="}
    tags = [{"ResourceType": "launch-template", "Tags": [{"Key": "cluster", "Value": "c"}]}]
    made = client.create_launch_template(LaunchTemplateName="life", LaunchTemplateData=data, ClientToken="lt-1", TagSpecifications=tags)[
        "LaunchTemplate"
    ]
    again = client.create_launch_template(LaunchTemplateName="life", LaunchTemplateData=data, ClientToken="lt-1", TagSpecifications=tags)[
        "LaunchTemplate"
    ]
    assert again == made
    with pytest.raises(ClientError, match=r"InvalidLaunchTemplateName\.AlreadyExistsException"):
        client.create_launch_template(LaunchTemplateName="life", LaunchTemplateData=data)
    version = client.create_launch_template_version(LaunchTemplateName="life", SourceVersion="1", LaunchTemplateData={"ImageId": "ami-2"})[
        "LaunchTemplateVersion"
    ]
    assert version["VersionNumber"] == 2
    assert version["LaunchTemplateData"] == {"ImageId": "ami-2", "UserData": "aGk="}
    client.modify_launch_template(LaunchTemplateName="life", DefaultVersion="2")
    listed = client.describe_launch_templates(Filters=[{"Name": "tag:cluster", "Values": ["c"]}])["LaunchTemplates"]
    assert [(one["DefaultVersionNumber"], one["LatestVersionNumber"]) for one in listed] == [(2, 2)]
    versions = client.describe_launch_template_versions(LaunchTemplateName="life", Versions=["$Default"])
    assert versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["ImageId"] == "ami-2"
    with pytest.raises(ClientError, match="VersionNotFound"):
        client.describe_launch_template_versions(LaunchTemplateName="life", Versions=["7"])
    with pytest.raises(ClientError, match=r"InvalidUserData\.Malformed"):
        client.create_launch_template(LaunchTemplateName="bad", LaunchTemplateData={"UserData": "#!/bin/sh"})
    client.delete_launch_template(LaunchTemplateId=made["LaunchTemplateId"])
    with pytest.raises(ClientError, match=r"InvalidLaunchTemplateId\.NotFound"):
        client.describe_launch_templates(LaunchTemplateIds=[made["LaunchTemplateId"]])
