"""EC2 is asked no more often than its published limits allow, and an account's own limits go before those."""

import pytest
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.aws_rates import answered_instances, instances_of, rate_of
from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.buckets import Rate


def test_rates_are_those_published_unless_the_account_has_its_own() -> None:
    published = rate_of({})
    assert published("run_instances") == Rate(5, 2)
    assert published("describe_spot_price_history") == published("get_spot_placement_scores") == Rate(100, 20)
    assert published("create_fleet") == Rate(50, 5)
    assert rate_of({"run_instances": (50.0, 20.0)})("run_instances") == Rate(50, 20)


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        ("run_instances", {"MinCount": 1, "MaxCount": 40}, ("run_instances.instances", 40)),
        ("create_fleet", {"TargetCapacitySpecification": {"TotalTargetCapacity": 7}}, ("run_instances.instances", 7)),
        ("terminate_instances", {"InstanceIds": ["i-1", "i-2"]}, ("terminate_instances.instances", 2)),
        ("describe_instances", {}, ("", 0)),
    ],
)
def test_launches_and_terminations_count_their_instances(operation: str, parameters: dict, expected: tuple) -> None:
    assert instances_of(operation, parameters) == expected


@pytest.mark.parametrize(
    ("operation", "answer", "expected"),
    [
        ("run_instances", {"Instances": [{}, {}]}, 2),
        ("create_fleet", {"Instances": [{"InstanceIds": ["i-1", "i-2"]}, {"InstanceIds": ["i-3"]}]}, 3),
        ("create_fleet", {"Errors": [{}]}, 0),
        ("terminate_instances", {"TerminatingInstances": [{}]}, 1),
    ],
)
def test_answers_tell_how_many_instances_they_touched(operation: str, answer: dict, expected: int) -> None:
    assert answered_instances(operation, answer) == expected


async def test_a_launch_beyond_the_rate_is_a_throttle_that_never_reached_ec2(ec2, config_of, request_of, pool) -> None:
    provider = AwsProvider(config_of(ec2.url, rates={"run_instances": (1.0, 0.001)}, call_timeout_s=5))
    ec2.refuse("RunInstances", "InsufficientInstanceCapacity", status=500)
    first = await provider.launch(request_of(pool, "launch-1"))
    second = await provider.launch(request_of(pool, "launch-2"))
    assert [fault.kind for fault in first.faults] == [FaultKind.CAPACITY]
    assert [(fault.kind, fault.code) for fault in second.faults] == [(FaultKind.THROTTLE, "OwnRateLimit")]
    assert second.faults[0].retry_s > 60
    assert len(ec2.asked("RunInstances")) == 1
    await provider.close()


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "VcpuLimitExceeded", "InvalidSubnetID.NotFound", "UnauthorizedOperation"])
async def test_gangs_that_ec2_refuses_cost_no_other_pool_its_turn(ec2, config_of, request_of, pool, code) -> None:
    provider = AwsProvider(config_of(ec2.url, call_timeout_s=5, rates={"run_instances.instances": (1000.0, 2.0)}))
    ec2.refuse("RunInstances", code, status=500)
    results = [await provider.launch(request_of(pool, f"launch-{number}", 400)) for number in range(4)]
    assert [result.faults[0].code for result in results] == [code] * 4
    await provider.close()


async def test_instances_that_may_have_been_started_stay_paid_for(ec2, config_of, request_of, pool) -> None:
    provider = AwsProvider(config_of(ec2.url, call_timeout_s=5, rates={"run_instances.instances": (1000.0, 0.01)}))
    ec2.refuse("RunInstances", "InternalError", status=500)
    results = [await provider.launch(request_of(pool, f"launch-{number}", 400)) for number in range(3)]
    assert [result.faults[0].code for result in results] == ["InternalError", "InternalError", "OwnRateLimit"]
    await provider.close()


async def test_a_part_of_a_gang_pays_for_itself_only(ec2, config_of, request_of, pool) -> None:
    provider = AwsProvider(config_of(ec2.url, call_timeout_s=5, rates={"run_instances.instances": (400.0, 0.01)}))
    started = "".join(
        f"<item><instanceId>i-{number:017x}</instanceId><instanceState><name>pending</name></instanceState></item>" for number in range(3)
    )
    ec2.say("RunInstances", f"<R><instancesSet>{started}</instancesSet></R>")
    for number, expected in enumerate([3, 3, 0]):
        count = 400 - 3 * number if expected else 395
        result = await provider.launch(request_of(pool, f"launch-{number}", count, 1))
        assert (len(result.instances), result.faults[0].code == "OwnRateLimit") == (expected, not expected)
    await provider.close()


async def test_after_ec2s_own_throttle_the_bucket_is_empty(ec2, config_of, request_of, pool) -> None:
    provider = AwsProvider(config_of(ec2.url, rates={"run_instances": (5.0, 0.01)}, call_timeout_s=5))
    ec2.refuse("RunInstances", "RequestLimitExceeded", status=503)
    results = [await provider.launch(request_of(pool, f"launch-{number}")) for number in range(2)]
    assert [result.faults[0].code for result in results] == ["RequestLimitExceeded", "OwnRateLimit"]
    await provider.close()
