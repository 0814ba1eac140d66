"""Launches over several pools: the request to CreateFleet, what is made of its answer, and the templates that live for one launch."""

import asyncio
import base64
import datetime
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from holdfast_common.clock import VirtualClock
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.aws_fleet_wire import (
    POOLS_MAX,
    answer_of,
    fleet_parameters,
    fleet_pools,
    template_data,
    template_name,
    templates,
)
from holdfast_controller.providers.base import FaultKind, Market

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from beds import aws_config

pytestmark = pytest.mark.timeout(60)

TYPE = "p4d.24xlarge"
BLOCK = f"aws/us-east-1/us-east-1a/{TYPE}/on_demand"
_numbers = itertools.count(1)


@pytest.fixture
def pools(pool_of):
    return tuple(pool_of(zone=zone, type_=type_) for zone in ("us-east-1a", "us-east-1b") for type_ in (TYPE, "p5.48xlarge"))


@pytest.fixture
def request_for(request_of):
    def make(pools, count=2, minimum=None):
        return replace(request_of(pools[0], f"fleet-{next(_numbers)}", count, minimum), others=tuple(pools[1:]))

    return make


@pytest.fixture
async def make_provider(ec2, config_of):
    made = []

    def make(**more):
        made.append(AwsProvider(config_of(ec2.url, **more), clock=VirtualClock()))
        return made[-1]

    yield make
    ec2.reset()
    for provider in made:
        await provider.close()
        for threads in provider._calls._pools.values():
            threads.shutdown(wait=True)  # or what is tidied up beside would come into the next test


def fleet_xml(*groups, errors=()):
    started = "".join(
        f"<item><instanceIds>{''.join(f'<item>i-{number:017x}</item>' for number in numbers)}</instanceIds>"
        f"<instanceType>{TYPE}</instanceType><availabilityZone>{zone}</availabilityZone><lifecycle>spot</lifecycle></item>"
        for zone, numbers in groups
    )
    failed = "".join(
        f"<item><launchTemplateAndOverrides><overrides><instanceType>{TYPE}</instanceType>{place}</overrides></launchTemplateAndOverrides>"
        f"<errorCode>{code}</errorCode><errorMessage>no</errorMessage></item>"
        for place, code in errors
    )
    return f"<R><fleetId>f</fleetId><fleetInstanceSet>{started}</fleetInstanceSet><errorSet>{failed}</errorSet></R>"


def in_zone(zone):
    return f"<availabilityZone>{zone}</availabilityZone>"


@pytest.fixture
def obliging(ec2):
    """An EC2 that makes and deletes templates."""
    ec2.say("CreateLaunchTemplate", "<R/>")
    ec2.say("DeleteLaunchTemplate", "<R/>")
    ec2.say("DescribeLaunchTemplates", "<R/>")
    return ec2


def deleted(ec2, request):
    return [form for form in ec2.asked("DeleteLaunchTemplate") if form["LaunchTemplateName"] == name_of(request)]


def name_of(request):
    return template_name(aws_config("http://127.0.0.1:1"), request.launch_id, 0)


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


def plan_of(config, request, bases=None):
    return templates(config, request, fleet_pools(config, request), bases or {})


def test_parameters_of_a_spot_fleet(config_of, pools, request_for):
    config = config_of("http://127.0.0.1:1", subnets={"us-east-1a": "subnet-1"}, placement_groups={"us-east-1a": "tight"})
    request = request_for((replace(pools[0], price_cap_usd_h=20.5), pools[2]), count=4, minimum=3)
    (template,) = plan_of(config, request)
    said = fleet_parameters(config, request, [template], "token")
    tags = said.pop("TagSpecifications")
    assert said == {
        "Type": "instant",
        "ClientToken": "token",
        "TargetCapacitySpecification": {"TotalTargetCapacity": 4, "DefaultTargetCapacityType": "spot"},
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template.name, "Version": "1"},
                "Overrides": [
                    {
                        "InstanceType": TYPE,
                        "Priority": 0.0,
                        "SubnetId": "subnet-1",
                        "Placement": {"GroupName": "tight"},
                        "MaxPrice": "20.500000",
                    },
                    {"InstanceType": TYPE, "Priority": 1.0, "AvailabilityZone": "us-east-1b"},
                ],
            }
        ],
        "SpotOptions": {
            "AllocationStrategy": "capacity-optimized-prioritized",
            "InstanceInterruptionBehavior": "terminate",
            "SingleAvailabilityZone": True,
            "MinTargetCapacity": 3,
        },
    }
    assert [each["ResourceType"] for each in tags] == ["fleet", "instance", "volume"]
    assert {"Key": "holdfast:launch", "Value": request.launch_id} in tags[1]["Tags"]
    assert template.data == {
        "ImageId": "ami-12345678",
        "UserData": base64.b64encode(b"#!/bin/sh\n").decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "InstanceMetadataTags": "enabled"},
    }


def test_on_demand_goes_by_priority(config_of, pool_of, request_for):
    config = config_of("http://127.0.0.1:1", spot_strategy="lowest-price")
    request = request_for([pool_of(market=Market.ON_DEMAND, zone=zone) for zone in ("us-east-1a", "us-east-1b")])
    said = fleet_parameters(config, request, plan_of(config, request), "t")
    assert said["OnDemandOptions"] == {"AllocationStrategy": "prioritized", "SingleAvailabilityZone": True, "MinTargetCapacity": 2}
    assert "SpotOptions" not in said
    assert said["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "on-demand"


def test_pools_that_need_the_same_share_a_template(config_of, pools, request_for):
    config = config_of("http://127.0.0.1:1", efa_interfaces={"p5.48xlarge": 3}, security_groups={"us-east-1": ["sg-1"]})
    plan = plan_of(config, request_for(pools))
    assert [[pool.instance_type for pool in template.pools] for template in plan] == [[TYPE] * 2, ["p5.48xlarge"] * 2]
    assert len({template.name for template in plan}) == 2
    assert plan[0].data["SecurityGroupIds"] == ["sg-1"]
    assert "SecurityGroupIds" not in plan[1].data
    assert [
        (each["NetworkCardIndex"], each["DeviceIndex"], each["InterfaceType"], each["Groups"], each["DeleteOnTermination"])
        for each in plan[1].data["NetworkInterfaces"]
    ] == [(0, 0, "efa", ["sg-1"], True), (1, 1, "efa-only", ["sg-1"], True), (2, 1, "efa-only", ["sg-1"], True)]


def test_the_configured_template_is_taken_over(config_of, pools, request_for):
    base = {
        "ImageId": "ami-0",
        "InstanceType": "m5.large",
        "Placement": {"AvailabilityZone": "us-east-1f", "Tenancy": "dedicated"},
        "MetadataOptions": {"State": "pending", "HttpTokens": "optional"},
        "InstanceMarketOptions": {"MarketType": "spot"},
        "SecurityGroupIds": ["sg-9"],
        "KeyName": "admin",
        "UserData": "old",
    }
    config = config_of("http://127.0.0.1:1", efa_interfaces={"p5.48xlarge": 1})
    request = request_for(pools)
    assert template_data(config, request, pools[0], base) == {
        "ImageId": "ami-0",
        "Placement": {"Tenancy": "dedicated"},
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "InstanceMetadataTags": "enabled"},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "SecurityGroupIds": ["sg-9"],
        "KeyName": "admin",
        "UserData": base64.b64encode(b"#!/bin/sh\n").decode(),
    }
    assert [each["Groups"] for each in template_data(config, request, pools[1], base)["NetworkInterfaces"]] == [["sg-9"]]
    assert template_data(config, replace(request, user_data=""), pools[0], base)["UserData"] == "old"


def test_names_of_templates_are_the_launchs_own(config_of):
    config = config_of("http://127.0.0.1:1")
    names = {template_name(config, launch_id, number) for launch_id in ("a:b=c@d+" * 8, "a") for number in (0, 1)}
    assert len(names) == 4
    assert all(name.startswith("holdfast-alpha-") and len(name) <= 128 and name.replace("-", "").isalnum() for name in names)


def test_which_pools_go_together(config_of, pool_of, request_for, pools):
    config = config_of("http://127.0.0.1:1", capacity_blocks={BLOCK: "cr-12345678"})
    assert fleet_pools(config, request_for((*pools, pools[0]))) == pools, "EC2 refuses a fleet with a pool named twice"
    large = request_for(pools, count=1001, minimum=1)
    assert fleet_pools(config, large) == (pools[0],), "EC2 takes a minimum of at most 1000"
    assert fleet_pools(config_of("http://127.0.0.1:1", fleets=False), request_for(pools)) == (pools[0],)
    block, plain = pool_of(market=Market.ON_DEMAND), pool_of(market=Market.ON_DEMAND, zone="us-east-1b")
    assert fleet_pools(config, request_for((block, plain))) == (block,)
    assert fleet_pools(config, request_for((plain, block))) == (plain,)
    many = [pool_of(type_=f"t{number}.large") for number in range(POOLS_MAX + 5)]
    assert fleet_pools(config, request_for(many)) == tuple(many[:POOLS_MAX])


def test_a_subnet_tells_the_zone(config_of, pools, request_for):
    config = config_of("http://127.0.0.1:1", subnets={"us-east-1b": "subnet-2"})
    request = request_for((pools[0], pools[2]))
    where = {"LaunchTemplateAndOverrides": {"Overrides": {"InstanceType": TYPE, "SubnetId": "subnet-2"}}}
    said = {"Instances": [where | {"InstanceIds": ["i-1"]}], "Errors": [where | {"ErrorCode": "InsufficientInstanceCapacity"}] * 3}
    answer = answer_of(config, request, request.pools, said, 5.0)
    assert [(each.pool, each.launched, each.address) for each in answer.instances] == [(pools[2].name, 5.0, "")]
    assert [(fault.pool, fault.kind) for fault in answer.faults] == [(pools[2].name, FaultKind.CAPACITY)], (
        "one fault for each pool and reason"
    )


@pytest.mark.parametrize(("started", "blamed"), [({}, (0, 2)), ({"us-east-1b": 1}, (2,))], ids=["none", "some"])
def test_what_ec2_does_not_explain_is_explained(config_of, pools, request_for, started, blamed):
    request = request_for((pools[0], pools[2]), count=2, minimum=1)
    groups = [{"InstanceType": TYPE, "AvailabilityZone": zone, "InstanceIds": ["i-1"] * count} for zone, count in started.items()]
    answer = answer_of(config_of("http://127.0.0.1:1"), request, request.pools, {"Instances": groups}, 0.0)
    assert [(fault.pool, fault.kind) for fault in answer.faults] == [(pools[number].name, FaultKind.CAPACITY) for number in blamed]


def test_an_error_of_no_pool_of_ours_blames_none(config_of, pools, request_for):
    request = request_for((pools[0], pools[2]))
    said = {"Errors": [{"ErrorCode": "UnfulfillableCapacity", "ErrorMessage": "no"}]}
    assert [fault.pool for fault in answer_of(config_of("http://127.0.0.1:1"), request, request.pools, said, 0.0).faults] == [""]


async def test_template_goes_when_the_fleet_has_answered(obliging, make_provider, pools, request_for):
    obliging.say("CreateFleet", fleet_xml(("us-east-1b", (1, 2)), errors=[(in_zone("us-east-1a"), "InsufficientInstanceCapacity")]))
    request = request_for((pools[0], pools[2]))
    result = await make_provider().launch(request)
    assert [(each.pool, each.state) for each in result.instances] == [(pools[2].name, "pending")] * 2
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.CAPACITY, pools[0].name)]
    await until(lambda: deleted(obliging, request))
    (made,), (fleet,) = obliging.asked("CreateLaunchTemplate"), obliging.asked("CreateFleet")
    assert made["LaunchTemplateName"] == name_of(request)
    assert fleet["LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName"] == name_of(request)
    assert made["LaunchTemplateData.MetadataOptions.HttpTokens"] == "required"
    assert {value for key, value in made.items() if key.startswith("TagSpecification.1.Tag.")} >= {"holdfast:launch", request.launch_id}
    assert obliging.asked("RunInstances") == []


async def test_lost_answer_keeps_the_template_and_the_token(obliging, make_provider, pools, request_for):
    obliging.refuse("CreateFleet", "InternalError", status=500)
    obliging.say("CreateFleet", fleet_xml(("us-east-1a", (1, 2))))
    provider, request = make_provider(), request_for((pools[0], pools[2]))
    first = await provider.launch(request)
    assert [(fault.kind, fault.pool) for fault in first.faults] == [(FaultKind.TRANSIENT, "")]
    await asyncio.sleep(0.05)
    assert deleted(obliging, request) == [], "the fleet may be under way"
    obliging.answers["CreateLaunchTemplate"].clear()
    obliging.refuse("CreateLaunchTemplate", "InvalidLaunchTemplateName.AlreadyExistsException")
    again = await provider.launch(request)
    assert len(again.instances) == 2
    tokens = [form["ClientToken"] for form in obliging.asked("CreateFleet")]
    assert tokens == [request.launch_id] * 2


@pytest.mark.parametrize("as_error", [True, False], ids=["call", "override"])
async def test_template_that_is_not_known_yet_is_asked_for_again(obliging, make_provider, pools, request_for, as_error):
    code = "InvalidLaunchTemplateName.NotFoundException"
    if as_error:
        obliging.refuse("CreateFleet", code)
    else:
        obliging.say("CreateFleet", fleet_xml(errors=[("", code)]))
    obliging.say("CreateFleet", fleet_xml(("us-east-1a", (1, 2))))
    provider, request = make_provider(), request_for((pools[0], pools[2]))
    result = await provider.launch(request)
    assert [(fault.kind, fault.pool, fault.retry_s) for fault in result.faults] == [(FaultKind.TRANSIENT, "", 2.0)]
    await asyncio.sleep(0.05)
    assert deleted(obliging, request) == []
    assert len((await provider.launch(request)).instances) == 2
    tokens = [form["ClientToken"] for form in obliging.asked("CreateFleet")]
    assert (len(set(tokens)) == 1) == as_error, "an answer without instances would come again for ever"


async def test_missing_configured_template_is_an_admins_matter(obliging, make_provider, pools, request_for):
    obliging.refuse("DescribeLaunchTemplateVersions", "InvalidLaunchTemplateName.NotFoundException")
    result = await make_provider(launch_template="nope").launch(request_for((pools[0], pools[2])))
    assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(FaultKind.CONFIG, None)]
    assert obliging.asked("CreateLaunchTemplate") == obliging.asked("CreateFleet") == []


@pytest.mark.parametrize(("code", "kind"), [("UnauthorizedOperation", FaultKind.AUTH), ("RequestLimitExceeded", FaultKind.THROTTLE)])
async def test_failing_to_make_a_template_blames_no_pool(obliging, make_provider, pools, request_for, code, kind):
    obliging.answers["CreateLaunchTemplate"].clear()
    obliging.refuse("CreateLaunchTemplate", code)
    result = await make_provider().launch(request_for((pools[0], pools[2])))
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(kind, "")]
    assert obliging.asked("CreateFleet") == []


async def test_repeat_tells_how_its_instances_are_now(obliging, make_provider, pools, request_for):
    obliging.say("CreateFleet", fleet_xml(("us-east-1a", (1,))))
    request = request_for((pools[0], pools[2]), count=1)
    ended = (
        f"<item><instanceId>i-{1:017x}</instanceId><instanceState><name>terminated</name></instanceState><instanceType>{TYPE}</instanceType>"
        "<placement><availabilityZone>us-east-1a</availabilityZone></placement><instanceLifecycle>spot</instanceLifecycle>"
        f"<tagSet><item><key>holdfast:launch</key><value>{request.launch_id}</value></item></tagSet></item>"
    )
    reservation = f"<item><instancesSet>{ended}</instancesSet></item>"
    obliging.say("DescribeInstances", f"<R><reservationSet>{reservation}</reservationSet></R>")
    provider = make_provider()
    assert [each.state for each in (await provider.launch(request)).instances] == ["pending"]
    assert obliging.asked("DescribeInstances") == [], "a launch that goes well costs no listing"
    assert [each.state for each in (await provider.launch(request)).instances] == ["gone"]


async def test_settings_that_changed_after_a_crash_hide_no_machine(on_sandbox, sandbox_bed, request_for, config_of):
    provider, _ = on_sandbox
    request = request_for((sandbox_bed.spot, sandbox_bed.sibling), count=3)
    sandbox_bed.control.fail(action="CreateFleet", mode="500", when="after", count=1)
    assert (await provider.launch(request)).instances == ()
    lost = {each.instance_id for each in await provider.find(request.launch_id)}
    restarted = AwsProvider(config_of(sandbox_bed.url, launch_template="configured", spot_strategy="lowest-price"))
    result = await restarted.launch(request)
    await restarted.close()
    assert (len(lost), {each.instance_id for each in result.instances}) == (3, lost)
    assert [(fault.kind, fault.code) for fault in result.faults] == [(FaultKind.CONFIG, "IdempotentParameterMismatch")]
    assert {each.instance_id for each in await provider.find(request.launch_id)} == lost


async def test_templates_that_a_crash_left_go_an_hour_later(ec2, make_provider, pools, request_for):
    ec2.say("CreateLaunchTemplate", "<R/>")
    ec2.say("DeleteLaunchTemplate", "<R/>")
    ec2.say("CreateFleet", fleet_xml(("us-east-1a", (1, 2))))
    provider = make_provider()
    made = {
        "holdfast-alpha-old": -3600,
        "holdfast-alpha-young": -3599,
        "an-admins": -90_000,
    }
    items = "".join(
        f"<item><launchTemplateName>{name}</launchTemplateName><createTime>{_iso(provider, age)}</createTime></item>"
        for name, age in made.items()
    )
    ec2.say("DescribeLaunchTemplates", f"<R><launchTemplates>{items}</launchTemplates></R>")
    ec2.say("DescribeInstances", "<R/>")
    await provider.launch(request_for((pools[0], pools[2])))
    for _ in range(2):
        await provider.instances()
    ours = {form["LaunchTemplateName"] for form in ec2.asked("CreateLaunchTemplate")}
    gone = lambda: {form["LaunchTemplateName"] for form in ec2.asked("DeleteLaunchTemplate")}  # noqa: E731
    await until(lambda: gone() >= {*ours, "holdfast-alpha-old"})
    assert not gone() & {"holdfast-alpha-young", "an-admins"}
    (asked,) = ec2.asked("DescribeLaunchTemplates")
    assert (asked["Filter.1.Name"], asked["Filter.1.Value.1"]) == ("tag:holdfast:cluster", "alpha")


async def test_template_of_a_launch_that_was_given_up_goes_though_no_other_launch_comes(ec2, make_provider, pools, request_for):
    ec2.say("CreateLaunchTemplate", "<R/>")
    ec2.say("DeleteLaunchTemplate", "<R/>")
    ec2.refuse("CreateFleet", "InternalError", status=500)
    ec2.say("DescribeInstances", "<R/>")
    provider, request = make_provider(), request_for((pools[0], pools[2]))
    made = _iso(provider, 0)
    await provider.launch(request)
    item = f"<item><launchTemplateName>{name_of(request)}</launchTemplateName><createTime>{made}</createTime></item>"
    ec2.say("DescribeLaunchTemplates", f"<R><launchTemplates>{item}</launchTemplates></R>")
    for _ in range(4):
        assert not ec2.asked("DeleteLaunchTemplate")
        await provider._clock.advance(1200)
        await provider.instances()
        await asyncio.sleep(0.05)
    await until(lambda: deleted(ec2, request))


async def test_where_fleets_are_off_no_template_is_looked_for(ec2, make_provider):
    ec2.say("DescribeInstances", "<R/>")
    await make_provider(fleets=False).instances()
    await asyncio.sleep(0.05)
    assert not ec2.asked("DescribeLaunchTemplates")


def _iso(provider, age):
    at = provider._clock.now() + age
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()


async def test_hanging_tidying_holds_nobody_up(ec2, make_provider, pools, request_for):
    ec2.say("CreateLaunchTemplate", "<R/>")
    ec2.say("DeleteLaunchTemplate", "<R/>", silence_s=20)
    ec2.say("DescribeLaunchTemplates", "<R/>", silence_s=20)
    ec2.say("CreateFleet", fleet_xml(("us-east-1a", (1, 2))))
    provider = make_provider()
    assert len((await asyncio.wait_for(provider.launch(request_for((pools[0], pools[2]))), 10)).instances) == 2
    await asyncio.wait_for(provider.close(), 5)


async def test_pools_of_two_markets_or_an_unknown_region_never_reach_ec2(ec2, make_provider, pools, pool_of, request_for):
    strange = replace(pools[2], region="eu-west-1", name=pools[2].name.replace("us-east-1/", "eu-west-1/", 1))
    for other in (pool_of(market=Market.ON_DEMAND), strange):
        result = await make_provider().launch(request_for((pools[0], other)))
        assert [fault.kind for fault in result.faults] == [FaultKind.CONFIG]
    assert ec2.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity_blocks": {BLOCK: "arn:aws:resource-groups:us-east-1:123456789012:group/x"}},
        {"capacity_blocks": {BLOCK.replace("on_demand", "spot"): "cr-12345678"}},
        {"capacity_blocks": {BLOCK: "cr-12345678"}, "capacity_reservations": {BLOCK: "cr-12345679"}},
        {"capacity_reservations": {"us-east-1a": "anything"}},
        {"efa_interfaces": {TYPE: 0}},
        {"spot_strategy": "diversified"},
        {"queue_urls": {"eu-west-1": "https://sqs.eu-west-1.amazonaws.com/123456789012/q"}},
        {"queue_urls": {"us-east-1": "https://user@sqs/123456789012/q"}},
    ],
    ids=str,
)
def test_settings_are_strict(config_of, wrong):
    with pytest.raises(ValueError, match="validation error"):
        config_of("http://127.0.0.1:1", **wrong)


@pytest.fixture
async def on_sandbox(sandbox_bed, config_of):
    """A provider on the simulated cloud with a configured template, EFA and placement groups, and the cloud's own client."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("ec2", region_name="us-east-1", endpoint_url=sandbox_bed.url, **keys)
    base = {"ImageId": "ami-0123456789abcdef0", "KeyName": "admin", "UserData": "b2xk", "SecurityGroupIds": ["sg-7"]}
    client.create_launch_template(LaunchTemplateName="configured", LaunchTemplateData=base)
    zones = ("us-east-1a", "us-east-1b")
    more = {"efa_interfaces": {TYPE: 4}, "placement_groups": {zone: f"tight-{zone}" for zone in zones}}
    provider = AwsProvider(config_of(sandbox_bed.url, launch_template="configured", **more))
    yield provider, client
    await provider.close()
    client.delete_launch_template(LaunchTemplateName="configured")
    client.close()
    await sandbox_bed.clean()


def templates_of(client):
    return [each["LaunchTemplateName"] for each in client.describe_launch_templates()["LaunchTemplates"]]


async def test_machines_of_a_fleet_are_as_the_template_and_we_said(on_sandbox, sandbox_bed, request_for):
    provider, client = on_sandbox
    request = request_for((sandbox_bed.spot, sandbox_bed.sibling), count=3)
    result = await provider.launch(request)
    found = client.describe_instances(InstanceIds=[each.instance_id for each in result.instances])["Reservations"]
    machines = [machine for reservation in found for machine in reservation["Instances"]]
    assert len(machines) == 3
    for machine in machines:
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert machine["MetadataOptions"]["InstanceMetadataTags"] == "enabled"
        assert (machine["ImageId"], machine["KeyName"]) == ("ami-0123456789abcdef0", "admin")
        assert machine["Placement"]["GroupName"] == f"tight-{machine['Placement']['AvailabilityZone']}"
        assert [each["InterfaceType"] for each in machine["NetworkInterfaces"]] == ["efa", "efa-only", "efa-only", "efa-only"]
        assert {group["GroupId"] for each in machine["NetworkInterfaces"] for group in each["Groups"]} == {"sg-7"}
        assert {"Key": "holdfast:pool", "Value": sandbox_bed.spot.name} in machine["Tags"], "the pool that was asked for first"
        assert user_data(f"{sandbox_bed.url}/imds/{machine['InstanceId']}/latest") == request.user_data
    await until(lambda: templates_of(client) == ["configured"])


def user_data(base):
    asked = Request(f"{base}/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    token = urlopen(asked).read().decode()
    return urlopen(Request(f"{base}/user-data", headers={"X-aws-ec2-metadata-token": token})).read().decode()


async def test_lost_answers_start_one_fleet_and_leave_no_template(on_sandbox, sandbox_bed, request_for):
    provider, client = on_sandbox
    request = request_for((sandbox_bed.spot, sandbox_bed.sibling), count=3)
    for action in ("CreateLaunchTemplate", "CreateFleet"):
        sandbox_bed.control.fail(action=action, mode="500", when="after", count=1)
        result = await provider.launch(request)
        assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.TRANSIENT, "")]
    lost = {each.instance_id for each in await provider.find(request.launch_id)}
    assert len(lost) == 3
    assert {each.instance_id for each in (await provider.launch(request)).instances} == lost
    assert {each.instance_id for each in await provider.find(request.launch_id)} == lost
    await until(lambda: templates_of(client) == ["configured"])


async def test_refused_fleet_leaves_no_template(on_sandbox, sandbox_bed, request_for):
    provider, client = on_sandbox
    sandbox_bed.control.refuse(code="MaxSpotInstanceCountExceeded")
    result = await provider.launch(request_for((sandbox_bed.spot, sandbox_bed.sibling)))
    assert {(fault.kind, fault.pool) for fault in result.faults} == {
        (FaultKind.QUOTA, sandbox_bed.spot.name),
        (FaultKind.QUOTA, sandbox_bed.sibling.name),
    }
    await until(lambda: templates_of(client) == ["configured"])


async def test_a_capacity_block_and_efa_through_run_instances(sandbox_bed, config_of, request_for, pool_of):
    block = pool_of(market=Market.ON_DEMAND)
    config = config_of(sandbox_bed.url, efa_interfaces={TYPE: 4}, capacity_blocks={block.name: "cr-0123456789abcdef0"})
    provider = AwsProvider(config)
    result = await provider.launch(request_for((block, pool_of(market=Market.ON_DEMAND, zone="us-east-1b")), count=1))
    assert [(each.pool, result.faults) for each in result.instances] == [(block.name, ())]
    assert [each.pool for each in await provider.find(result.launch_id)] == [block.name], "EC2 calls its lifecycle capacity-block"
    await provider.close()
    await sandbox_bed.clean()
