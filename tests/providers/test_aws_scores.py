"""Placement scores: asked for a group of types as a whole, told by zone, left out where they cannot be had."""

import pytest
from holdfast_controller.providers.aws import AwsProvider
from holdfast_controller.providers.base import Market

pytestmark = pytest.mark.timeout(90)

TYPES = ("p4d.24xlarge", "p5.48xlarge", "g6.xlarge")
ZONES = ("us-east-1a", "us-east-1b")


@pytest.fixture
def pools(pool_of):
    return [pool_of(zone=zone, type_=type_) for zone in ZONES for type_ in TYPES]


@pytest.fixture
async def provider(ec2, config_of):
    made = AwsProvider(config_of(ec2.url, score_instances=16))
    yield made
    await made.close()


def say_scores(ec2, *scores):
    zones = "".join(
        f"<item><zoneName>{name}</zoneName><zoneId>use1-az{number}</zoneId></item>" for number, name in ((4, ZONES[0]), (2, ZONES[1]))
    )
    items = "".join(
        f"<item><region>us-east-1</region><availabilityZoneId>{zone}</availabilityZoneId><score>{score}</score></item>"
        for zone, score in scores
    )
    ec2.say("DescribeAvailabilityZones", f"<R><availabilityZoneInfo>{zones}</availabilityZoneInfo></R>")
    ec2.say("GetSpotPlacementScores", f"<R><spotPlacementScoreSet>{items}</spotPlacementScoreSet></R>")
    ec2.say("DescribeSpotPriceHistory", "<R/>")


async def test_scores_come_by_zone_id_for_all_types_together(ec2, provider, pools, pool_of):
    say_scores(ec2, ("use1-az4", 9), ("use1-az2", 1), ("use1-az7", 10), ("use1-az4", 9))
    quotes = await provider.quotes([*pools, pool_of(market=Market.ON_DEMAND)], scores=True)
    assert {pool.name: quotes[pool.name].score for pool in pools} == {pool.name: {"a": 0.9, "b": 0.1}[pool.zone[-1]] for pool in pools}
    assert quotes[pool_of(market=Market.ON_DEMAND).name].score is None
    (asked,) = ec2.asked("GetSpotPlacementScores")
    assert sorted(value for key, value in asked.items() if key.startswith("InstanceType.")) == sorted(TYPES)
    assert (asked["SingleAvailabilityZone"], asked["TargetCapacity"], asked["RegionName.1"]) == ("true", "16", "us-east-1")
    await provider.quotes(pools, scores=True)
    assert len(ec2.asked("DescribeAvailabilityZones")) == 1, "a zone keeps its id"


async def test_fewer_than_three_types_are_not_asked_for(ec2, provider, pools):
    say_scores(ec2, ("use1-az4", 3))
    assert await provider.quotes(pools[1:3], scores=True) == {}
    assert ec2.asked("GetSpotPlacementScores") == []


async def test_scores_are_not_asked_for_unless_wanted(ec2, provider, pools):
    say_scores(ec2, ("use1-az4", 3))
    await provider.quotes(pools)
    assert ec2.asked("GetSpotPlacementScores") == ec2.asked("DescribeAvailabilityZones") == []


@pytest.mark.parametrize("action", ["GetSpotPlacementScores", "DescribeAvailabilityZones"])
async def test_without_scores_there_are_prices(ec2, provider, pools, action):
    say_scores(ec2, ("use1-az4", 9))
    ec2.answers[action].clear()
    ec2.refuse(action, "RequestLimitExceeded", status=503)
    item = f"<item><instanceType>{TYPES[0]}</instanceType><availabilityZone>{ZONES[0]}</availabilityZone><spotPrice>9.5</spotPrice>"
    history = f"<R><spotPriceHistorySet>{item}<timestamp>2026-11-24T00:00:00Z</timestamp></item></spotPriceHistorySet></R>"
    ec2.answers["DescribeSpotPriceHistory"].clear()
    ec2.say("DescribeSpotPriceHistory", history)
    quotes = await provider.quotes(pools, scores=True)
    assert (quotes[pools[0].name].price_usd_h, quotes[pools[0].name].score) == (9.5, None)


@pytest.mark.parametrize("bed", ["sandbox"], indirect=True)
async def test_a_full_zone_scores_lower(bed, pools):
    bed.set_capacity(0)
    quotes = await bed.provider.quotes(pools, scores=True)
    full, free = (quotes[pool.name].score for pool in pools if pool.instance_type == TYPES[0])
    assert 0 < full < free <= 1


@pytest.mark.parametrize("bed", ["moto"], indirect=True)
async def test_a_cloud_without_scores_has_prices(bed, pools):
    quotes = await bed.provider.quotes(pools, scores=True)
    assert all(quote.price_usd_h and quote.score is None for quote in quotes.values())
    assert quotes
