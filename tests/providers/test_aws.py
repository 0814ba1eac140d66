"""The AWS provider against an EC2 that says exactly what it is told to."""

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import ConfigError
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.base import FaultKind, Market, PartialAnswerError, ProviderError, Quote

pytestmark = pytest.mark.timeout(30)  # boto3's first client takes a second on a busy machine


@pytest.fixture
async def make_provider(ec2, config_of):
    made = []

    def make(**more):
        made.append(AwsProvider(config_of(ec2.url, **more), clock=VirtualClock()))
        return made[-1]

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture(scope="module")
def shared(ec2_server, config_of):
    """One provider for many tests: boto3's clients are slow to make."""
    clock = VirtualClock()
    provider = AwsProvider(config_of(ec2_server.url), clock=clock)
    yield provider, clock
    asyncio.run(provider.close())


@pytest.fixture
async def clock(shared):
    return shared[1]


@pytest.fixture
async def provider(ec2, shared, clock):
    await clock.advance(86_400)  # what other tests launched is old by now
    return shared[0]


def instance_xml(number, state="running", launch="launch-1", reason=""):
    tags = "".join(
        f"<item><key>{key}</key><value>{value}</value></item>"
        for key, value in (("holdfast:cluster", "alpha"), ("holdfast:launch", launch))
    )
    return (
        f"<item><instanceId>i-{number:017x}</instanceId><instanceState><name>{state}</name></instanceState>"
        f"<instanceType>p4d.24xlarge</instanceType><instanceLifecycle>spot</instanceLifecycle>"
        f"<placement><availabilityZone>us-east-1a</availabilityZone></placement>"
        f"<stateReason><code>{reason}</code></stateReason><tagSet>{tags}</tagSet></item>"
    )


def run_xml(*numbers, state="pending"):
    items = "".join(instance_xml(number, state) for number in numbers)
    return f"<RunInstancesResponse><instancesSet>{items}</instancesSet></RunInstancesResponse>"


def describe_xml(*items, token=""):
    more = f"<nextToken>{token}</nextToken>" if token else ""
    reservation = f"<item><instancesSet>{''.join(items)}</instancesSet></item>"
    return f"<DescribeInstancesResponse><reservationSet>{reservation}</reservationSet>{more}</DescribeInstancesResponse>"


def terminate_xml(*numbers, state="shutting-down"):
    items = "".join(
        f"<item><instanceId>i-{number:017x}</instanceId><currentState><name>{state}</name></currentState></item>" for number in numbers
    )
    return f"<TerminateInstancesResponse><instancesSet>{items}</instancesSet></TerminateInstancesResponse>"


def ident(number):
    return f"i-{number:017x}"


async def test_capacity_error_of_status_500_is_asked_once(ec2, provider, request_of, pool):
    ec2.refuse("RunInstances", "InsufficientInstanceCapacity", status=500)
    result = await provider.launch(request_of(pool))
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.CAPACITY, pool.name)]
    assert len(ec2.asked("RunInstances")) == 1


async def test_throttle_does_not_blame_the_pool(ec2, provider, request_of, pool):
    ec2.refuse("RunInstances", "RequestLimitExceeded", status=503)
    result = await provider.launch(request_of(pool))
    assert [(fault.kind, fault.pool) for fault in result.faults] == [(FaultKind.THROTTLE, "")]
    assert len(ec2.asked("RunInstances")) == 1


async def test_silence_is_a_transient_fault(ec2, make_provider, request_of, pool):
    provider = make_provider(read_timeout_s=0.2, call_timeout_s=10)
    ec2.say("RunInstances", run_xml(1, 2), silence_s=20)
    result = await provider.launch(request_of(pool))
    assert [(fault.kind, fault.code) for fault in result.faults] == [(FaultKind.TRANSIENT, "ReadTimeoutError")]
    assert len(ec2.asked("RunInstances")) == 1


async def test_calls_behind_a_hanging_one_do_not_wait_for_ever_nor_run_late(ec2, make_provider, pool, request_of):
    provider = make_provider(threads=1, read_timeout_s=20, call_timeout_s=0.3)
    ec2.say("DescribeSpotPriceHistory", "<DescribeSpotPriceHistoryResponse/>")

    async def answers():
        for _ in range(60):
            with suppress(ProviderError):
                return await provider.quotes([pool])
        raise AssertionError("no answer")

    await answers()  # boto3 is imported and connected
    ec2.say("DescribeInstances", describe_xml(), silence_s=20)
    hanging = asyncio.create_task(provider.instances())
    await asyncio.sleep(0.05)
    with pytest.raises(ProviderError) as behind:
        await provider.terminate([ident(1)])
    with pytest.raises(ProviderError) as raised:
        await hanging
    assert [each.value.fault.code for each in (behind, raised)] == ["CallTimeout"] * 2
    assert len(ec2.asked("DescribeInstances")) == 1
    ec2.released.set()
    await answers()  # its turn comes after the termination's, which was withdrawn
    assert ec2.asked("TerminateInstances") == []


async def test_hanging_region_holds_up_no_other_and_its_lists_no_launch(ec2, make_provider, pool, request_of):
    provider = make_provider(threads=1, regions=("us-east-1", "us-west-2"), read_timeout_s=20, call_timeout_s=10)
    west = replace(pool, name="aws/us-west-2/us-west-2a/p4d.24xlarge/spot", region="us-west-2", zone="us-west-2a")
    ec2.say("DescribeSpotPriceHistory", "<DescribeSpotPriceHistoryResponse/>")
    await provider.quotes([pool, west])  # boto3 is imported and connected
    ec2.answers.clear()
    ec2.say("DescribeSpotPriceHistory", "<DescribeSpotPriceHistoryResponse/>", silence_s=20)
    ec2.say("RunInstances", run_xml(1, 2))
    hanging = asyncio.create_task(provider.quotes([pool]))
    await asyncio.sleep(0.1)
    assert len((await asyncio.wait_for(provider.launch(request_of(pool)), 5)).instances) == 2
    ec2.answers["DescribeSpotPriceHistory"] = []
    ec2.say("DescribeSpotPriceHistory", "<DescribeSpotPriceHistoryResponse/>")
    await asyncio.wait_for(provider.quotes([west]), 5)
    assert not hanging.done()
    ec2.released.set()
    await hanging


async def test_refused_connection_is_a_transient_fault(config_of, request_of, pool):
    provider = AwsProvider(config_of("http://127.0.0.1:9"))
    result = await provider.launch(request_of(pool))
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]
    with pytest.raises(ProviderError):
        await provider.find("launch-1")
    with pytest.raises(ProviderError):
        await provider.quotes([pool])
    await provider.close()


async def test_nonsense_instead_of_xml_is_a_transient_fault(ec2, provider, request_of, pool):
    ec2.say("RunInstances", "<html>Bad gateway")
    result = await provider.launch(request_of(pool))
    assert [fault.kind for fault in result.faults] == [FaultKind.TRANSIENT]


async def test_missing_credentials_are_an_authorization_fault(ec2, make_provider, request_of, pool):
    without = make_provider(access_key_id=None, secret_access_key=None)
    result = await without.launch(request_of(pool))
    assert [fault.kind for fault in result.faults] == [FaultKind.AUTH]
    assert ec2.requests == []


async def test_large_launch_is_several_calls_that_stop_at_the_first_refusal(ec2, provider, request_of, pool):
    ec2.say("RunInstances", run_xml(*range(500)))
    ec2.refuse("RunInstances", "InsufficientInstanceCapacity", status=500)
    result = await provider.launch(request_of(pool, count=1200))
    assert len(result.instances) == 500
    assert [fault.kind for fault in result.faults] == [FaultKind.CAPACITY]
    asked = ec2.asked("RunInstances")
    assert [(form["ClientToken"], form["MinCount"], form["MaxCount"]) for form in asked] == [
        ("launch-1", "500", "500"),
        ("launch-1.1", "500", "500"),
    ]


async def test_spent_launch_returns_what_became_of_it(ec2, provider, request_of, pool):
    ec2.refuse("RunInstances", "IdempotentInstanceTerminated")
    ec2.say("DescribeInstances", describe_xml(instance_xml(1, "terminated", reason="Server.SpotInstanceTermination")))
    result = await provider.launch(request_of(pool, count=1))
    assert [(each.instance_id, each.state, each.reclaimed) for each in result.instances] == [(ident(1), "gone", True)]
    assert [(fault.kind, fault.retry_s) for fault in result.faults] == [(FaultKind.TRANSIENT, None)]


async def test_launch_that_once_said_something_else_returns_what_lives_of_it(ec2, provider, request_of, pool):
    ec2.refuse("RunInstances", "IdempotentParameterMismatch")
    ec2.say("DescribeInstances", describe_xml(instance_xml(1), instance_xml(2, "terminated"), instance_xml(3, launch="launch-10")))
    result = await provider.launch(request_of(pool))
    assert [(each.instance_id, each.state) for each in result.instances] == [(ident(1), "running")]
    assert [(fault.kind, fault.code) for fault in result.faults] == [(FaultKind.CONFIG, "IdempotentParameterMismatch")]
    ec2.answers["DescribeInstances"] = []
    ec2.refuse("DescribeInstances", "InternalError", status=500)
    result = await provider.launch(request_of(pool))
    assert (result.instances, [fault.kind for fault in result.faults]) == ((), [FaultKind.TRANSIENT]), "not known is not none"


async def test_listing_is_whole_or_none(ec2, make_provider):
    provider = make_provider(page_size=5)
    ec2.say("DescribeInstances", describe_xml(instance_xml(1), instance_xml(2), token="more"))
    ec2.say("DescribeInstances", describe_xml(instance_xml(2), instance_xml(3)))
    assert [each.instance_id for each in await provider.instances()] == [ident(1), ident(2), ident(3)]
    assert [form.get("NextToken") for form in ec2.asked("DescribeInstances")] == [None, "more"]
    assert {form["MaxResults"] for form in ec2.asked("DescribeInstances")} == {"5"}

    ec2.answers.clear()
    ec2.say("DescribeInstances", describe_xml(instance_xml(1), token="more"))
    ec2.refuse("DescribeInstances", "InternalError", status=500)
    with pytest.raises(ProviderError):
        await provider.instances()


async def test_listing_without_end_is_given_up(ec2, provider):
    ec2.say("DescribeInstances", describe_xml(instance_xml(1), token="again"))
    with pytest.raises(ProviderError) as raised:
        await provider.instances()
    assert raised.value.fault.code == "EndlessListing"


async def test_one_region_that_fails_hides_nothing_of_the_others(ec2, make_provider):
    provider = make_provider(regions=("us-east-1", "us-west-2"))
    ec2.say("DescribeInstances", describe_xml(instance_xml(1)))
    ec2.refuse("DescribeInstances", "InternalError", status=500)
    with pytest.raises(PartialAnswerError) as raised:
        await provider.instances()
    assert [each.instance_id for each in raised.value.instances] == [ident(1)]
    assert raised.value.fault.code == "InternalError"
    assert len(ec2.asked("DescribeInstances")) == 2


async def test_the_marks_of_a_region_are_told_though_another_fails(ec2, make_provider):
    provider = make_provider(regions=("us-east-1", "us-west-2"))
    marked = (
        f"<item><instanceId>{ident(1)}</instanceId><status><code>marked-for-termination</code>"
        "<updateTime>2026-11-24T00:00:00Z</updateTime></status></item>"
    )
    ec2.say("DescribeSpotInstanceRequests", f"<R><spotInstanceRequestSet>{marked}</spotInstanceRequestSet></R>")
    ec2.refuse("DescribeSpotInstanceRequests", "InternalError", status=500)
    with pytest.raises(PartialAnswerError) as raised:
        await provider.reclaims()
    assert [each.instance_id for each in raised.value.reclaims] == [ident(1)]


@pytest.mark.parametrize("asked", ["instances", "reclaims"])
async def test_where_no_region_answers_there_is_no_partial_answer(ec2, make_provider, asked):
    provider = make_provider(regions=("us-east-1", "us-west-2"))
    for _ in range(2):
        for action in ("DescribeInstances", "DescribeSpotInstanceRequests"):
            ec2.refuse(action, "InternalError", status=500)
    with pytest.raises(ProviderError) as raised:
        await getattr(provider, asked)()
    assert not isinstance(raised.value, PartialAnswerError)


async def test_find_believes_tags_not_filters(ec2, provider):
    ec2.say("DescribeInstances", describe_xml(instance_xml(1, launch="launch-1"), instance_xml(2, launch="launch-10")))
    assert [each.instance_id for each in await provider.find("launch-1")] == [ident(1)]


async def test_young_instance_that_ec2_does_not_know_yet_is_not_gone(ec2, provider, clock, request_of, pool):
    ec2.say("RunInstances", run_xml(1, 2))
    await provider.launch(request_of(pool))
    ec2.refuse("TerminateInstances", "InvalidInstanceID.NotFound", f"The instance ID '{ident(1)}' does not exist")
    assert await provider.terminate([ident(1)]) == ()
    await clock.advance(601)
    assert await provider.terminate([ident(1)]) == (ident(1),)


async def test_unknown_ids_are_taken_out_and_the_rest_asked_for(ec2, provider):
    ec2.refuse("TerminateInstances", "InvalidInstanceID.NotFound", f"The instance IDs '{ident(1)}, {ident(3)}' do not exist")
    ec2.say("TerminateInstances", terminate_xml(2, 4, state="terminated"))
    assert await provider.terminate([ident(1), ident(2), ident(3), ident(4)]) == tuple(map(ident, (1, 2, 3, 4)))
    last = ec2.asked("TerminateInstances")[-1]
    assert {value for key, value in last.items() if key.startswith("InstanceId.")} == {ident(2), ident(4)}


async def test_unnamed_unknown_id_is_searched_for(ec2, provider):
    ec2.refuse("TerminateInstances", "InvalidInstanceID.NotFound", "some do not exist")
    ec2.refuse("TerminateInstances", "InvalidInstanceID.NotFound", "it does not exist")
    ec2.say("TerminateInstances", terminate_xml(2))
    assert await provider.terminate([ident(1), ident(2)]) == (ident(1),)
    assert len(ec2.asked("TerminateInstances")) == 3


async def test_one_protected_instance_keeps_no_other_alive_and_is_told(ec2, provider):
    ec2.refuse("TerminateInstances", "OperationNotPermitted")
    ec2.say("TerminateInstances", terminate_xml(1))
    ec2.refuse("TerminateInstances", "OperationNotPermitted")
    with pytest.raises(ProviderError) as raised:
        await provider.terminate([ident(1), ident(2)])
    assert raised.value.fault.code == "OperationNotPermitted"
    asked = [form["InstanceId.1"] for form in ec2.asked("TerminateInstances")]
    assert asked == [ident(1), ident(1), ident(2)]


async def test_termination_has_batches_and_an_end(ec2, provider):
    ec2.refuse("TerminateInstances", "OperationNotPermitted")
    with pytest.raises(ProviderError):
        await provider.terminate([ident(number) for number in range(1001)])
    asked = ec2.asked("TerminateInstances")
    sizes = [sum(key.startswith("InstanceId.") for key in form) for form in asked]
    assert sizes[:2] == [1000, 1]
    assert len(asked) == 66


async def test_instance_is_terminated_in_its_own_region_and_a_stranger_in_all(ec2, make_provider, request_of, pool):
    provider = make_provider(regions=("us-east-1", "us-west-2"))
    ec2.say("RunInstances", run_xml(1, 2))
    await provider.launch(request_of(pool))
    ec2.say("TerminateInstances", terminate_xml(1, state="terminated"))
    assert await provider.terminate([ident(1)]) == (ident(1),)
    assert len(ec2.asked("TerminateInstances")) == 1

    ec2.answers.pop("TerminateInstances")
    ec2.refuse("TerminateInstances", "InvalidInstanceID.NotFound", f"The instance ID '{ident(9)}' does not exist")
    ec2.say("TerminateInstances", terminate_xml(9))
    assert await provider.terminate([ident(9)]) == ()
    assert len(ec2.asked("TerminateInstances")) == 3


async def test_region_without_answer_leaves_its_prices_out(ec2, make_provider, pool):
    provider = make_provider(regions=("us-east-1", "us-west-2"))
    west = replace(pool, name="aws/us-west-2/us-west-2a/p4d.24xlarge/spot", region="us-west-2", zone="us-west-2a")
    items = "".join(
        f"<item><instanceType>p4d.24xlarge</instanceType><availabilityZone>{zone}</availabilityZone>"
        "<spotPrice>9.75</spotPrice><timestamp>2026-11-24T00:00:00Z</timestamp></item>"
        for zone in ("us-east-1a", "us-west-2a")
    )
    ec2.refuse("DescribeSpotPriceHistory", "InternalError", status=500)
    ec2.say("DescribeSpotPriceHistory", f"<R><spotPriceHistorySet>{items}</spotPriceHistorySet></R>")
    quotes = await provider.quotes([pool, west])
    assert [quote.price_usd_h for quote in quotes.values() if quote.price_usd_h is not None] == [9.75]


async def test_on_demand_price_of_the_region_goes_first(make_provider, pool, pool_of):
    provider = make_provider(on_demand_usd_h={"p4d.24xlarge": 30.0, "us-east-1/p4d.24xlarge": 32.0})
    on_demand = pool_of(market=Market.ON_DEMAND)
    quotes = await provider.quotes([on_demand, pool_of(type_="g6.xlarge", market=Market.ON_DEMAND)])
    assert quotes == {on_demand.name: Quote(32.0, 32.0)}


async def test_wrong_pool_or_too_much_user_data_never_reaches_ec2(ec2, provider, request_of, pool):
    elsewhere = replace(pool, region="eu-west-1", name=pool.name.replace("us-east-1/", "eu-west-1/", 1))
    long = replace(request_of(pool), user_data="é" * 8193)
    tagged = replace(request_of(pool), tags={"a/b": "c"})
    for request in (request_of(elsewhere), long, tagged):
        result = await provider.launch(request)
        assert [fault.kind for fault in result.faults] == [FaultKind.CONFIG]
    assert ec2.requests == []


def test_pools_are_checked_at_the_start(config_of, pool):
    with pytest.raises(ConfigError) as raised:
        AwsProvider(config_of("http://127.0.0.1:9"), [pool, replace(pool, name="wrong"), replace(pool, provider="gcp")])
    assert len(raised.value.faults) == 2


async def test_close_waits_for_no_client_that_is_being_made(ec2, make_provider):
    provider = make_provider()
    lock = provider._calls._lock
    lock.acquire()
    waiting = asyncio.create_task(provider.instances())
    await asyncio.sleep(0.05)
    late = threading.Timer(2, lock.release)
    late.start()
    begun = time.monotonic()
    await provider.close()
    assert time.monotonic() - begun < 1
    with pytest.raises(ProviderError) as raised:
        await waiting
    assert raised.value.fault.code == "Closed"
    assert ec2.requests == []
    late.join()


async def test_closed_provider_says_so(ec2, make_provider, request_of, pool):
    provider = make_provider()
    await provider.close()
    assert [fault.code for fault in (await provider.launch(request_of(pool))).faults] == ["Closed"]
    with pytest.raises(ProviderError):
        await provider.instances()
    assert ec2.requests == []


@pytest.mark.parametrize(
    "wrong",
    [{"regions": ()}, {"regions": ("r", "r")}, {"access_key_id": "a"}, {"cluster": "a b"}, {"nonsense": 1}, {"call_timeout_s": 0}],
    ids=str,
)
def test_settings_are_strict(wrong):
    with pytest.raises(ValueError, match=r"validation error"):
        AwsConfig.model_validate({"cluster": "alpha", "regions": ("us-east-1",)} | wrong)


def test_secret_is_not_shown(config_of):
    config = config_of("http://127.0.0.1:9", secret_access_key="hush-hush")
    assert "hush" not in repr(config) + config.model_dump_json()


def test_boto3_is_not_imported_before_it_is_used():
    code = (
        "import sys; import holdfast_controller.providers.aws as aws;"
        "from holdfast_controller.providers.aws_config import AwsConfig;"
        "aws.AwsProvider(AwsConfig(cluster='a', regions=('us-east-1',)));"
        "print([name for name in sys.modules if name.split('.')[0] in ('boto3', 'botocore', 's3transfer', 'urllib3')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
