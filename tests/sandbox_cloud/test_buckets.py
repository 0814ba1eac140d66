"""EC2's token buckets, in virtual time; and that the endpoint draws from them, seen by boto3."""

from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from holdfast_sandbox.cloud_config import CloudConfig
from holdfast_sandbox.ec2_buckets import ApiBuckets, Buckets
from holdfast_sandbox.ec2_wire import Ec2Error
from hypothesis import given
from hypothesis import strategies as st

from .conftest import StartCloud

T = 1000.0
ONE = {"MaxCount": 1}
FILTERED = {"Filters": [{"Name": "tag:x", "Values": ["y"]}]}
PAGED = {"MaxResults": 1000}


def granted(buckets: Buckets, action: str, params: Mapping[str, Any], now: float, region: str = "r", tries: int = 2000) -> int:
    """How many calls in a row are answered before the first that is throttled."""
    for number in range(tries):
        try:
            buckets.draw(region, action, params, now)
        except Ec2Error:
            return number
    return tries


@pytest.mark.parametrize(
    ("action", "params", "burst", "per_s"),
    [
        ("RunInstances", ONE, 5, 2),
        ("TerminateInstances", {"InstanceIds": ["i-1"]}, 100, 5),
        ("DescribeInstances", FILTERED, 100, 20),
        ("DescribeInstances", PAGED, 100, 20),
        ("DescribeInstances", {"InstanceIds": ["i-1"]}, 50, 10),
        ("DescribeSpotInstanceRequests", {}, 50, 10),
        ("DescribeSpotPriceHistory", {}, 100, 20),
        ("GetSpotPlacementScores", {}, 100, 20),
        ("CreateLaunchTemplate", {}, 50, 5),
        ("CreateFleet", {"TargetCapacitySpecification": {"TotalTargetCapacity": 1}}, 50, 5),
        ("CreateTags", {}, 100, 10),
    ],
)
def test_as_published(action: str, params: Mapping[str, Any], burst: int, per_s: int) -> None:
    buckets = Buckets(ApiBuckets())
    assert granted(buckets, action, params, T) == burst
    assert granted(buckets, action, params, T + 1) == per_s
    assert granted(buckets, action, params, T + 1.0 + 0.5 / per_s) == 0, "half a token is none"
    assert granted(buckets, action, params, T + 3600) == burst, "it holds no more than its capacity"


def test_each_action_and_region_has_its_own() -> None:
    buckets = Buckets(ApiBuckets())
    assert granted(buckets, "RunInstances", ONE, T) == 5
    assert granted(buckets, "RunInstances", ONE, T, region="elsewhere") == 5
    assert granted(buckets, "DescribeInstances", PAGED, T) == 100
    assert granted(buckets, "DescribeSpotPriceHistory", {}, T) == 100


def test_instances_are_counted_as_well() -> None:
    buckets = Buckets(ApiBuckets())
    buckets.draw("r", "RunInstances", {"MinCount": 1, "MaxCount": 500}, T)
    buckets.draw("r", "RunInstances", {"MinCount": 500, "MaxCount": 500}, T)
    assert granted(buckets, "RunInstances", ONE, T) == 0
    assert granted(buckets, "RunInstances", ONE, T + 0.5) == 1, "two instances a second"
    fleet = {"TargetCapacitySpecification": {"TotalTargetCapacity": 100}}
    assert granted(buckets, "CreateFleet", fleet, T + 49) == 0
    assert granted(buckets, "CreateFleet", fleet, T + 51) == 1, "a fleet's instances are of the same bucket"
    assert granted(buckets, "TerminateInstances", {"InstanceIds": ["i"] * 1000}, T) == 1, "what ends draws from another"


def test_a_throttled_call_takes_nothing() -> None:
    buckets = Buckets(ApiBuckets())
    assert granted(buckets, "RunInstances", {"MaxCount": 800}, T) == 1
    with pytest.raises(Ec2Error, match=r"^RequestLimitExceeded: Request limit exceeded\.$"):
        buckets.draw("r", "RunInstances", {"MaxCount": 201}, T)
    assert granted(buckets, "RunInstances", {"MaxCount": 200}, T) == 1


@given(
    calls=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 40)), min_size=1, max_size=60),
    capacity=st.integers(1, 50),
    refill=st.integers(0, 20),
)
def test_never_more_than_the_bucket_and_what_came_back(calls: list[tuple[float, int]], capacity: int, refill: int) -> None:
    size = {"capacity": float(capacity), "refill_per_s": float(refill)}
    buckets = Buckets(ApiBuckets.model_validate({"requests": {}, "instances": {"RunInstances": size}}))
    had, now = 0, T
    for pause, count in calls:
        now += pause
        had += count * granted(buckets, "RunInstances", {"MaxCount": count}, now, tries=1)
    assert had <= capacity + refill * (now - T) + 1e-6


def test_off_unless_set_and_as_published_where_empty() -> None:
    zone = {"name": "z", "region": "r", "capacity": {"sim1.small": 1}, "spot_price_usd_h": 1.0, "on_demand_usd_h": 2.0}
    config = {"state_dir": "/nowhere", "zones": [zone], "instance_command": ["true"]}
    assert CloudConfig.model_validate(config, strict=False).api_buckets is None
    assert CloudConfig.model_validate(config | {"api_buckets": {}}, strict=False).api_buckets == ApiBuckets()


def test_boto3_sees_a_throttle_and_the_record_too(start_cloud: StartCloud) -> None:
    size = {"capacity": 2.0, "refill_per_s": 0.0}
    cloud = start_cloud(api_buckets={"requests": {"DescribeInstances": size}, "unnarrowed": {}})
    ec2 = cloud.ec2()
    ec2.describe_instances(MaxResults=5)
    ec2.describe_instances()
    with pytest.raises(ClientError) as caught:
        ec2.describe_instances()
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("RequestLimitExceeded", 503)
    ec2.describe_spot_price_history(MaxResults=5)
    throttled = [line for line in cloud.record() if line["event"] == "throttled"]
    assert [(line["action"], line["region"]) for line in throttled] == [("DescribeInstances", "us-east-1")]
