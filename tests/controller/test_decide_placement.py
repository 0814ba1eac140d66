"""Which pool is asked first: order, price, hazard, doubt, shape, quota, zone; and how needs become calls."""

from dataclasses import replace

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import GiveUp, Launch, PowerDownNode
from holdfast_controller.decide.placement import Want, rank, why_not
from holdfast_controller.plan import Plan, Plans, Shape, same_model
from holdfast_controller.providers.base import Fault, FaultKind, Instance, Market, Offer, Pool, Quote


def pool(zone: str, type_: str = "g1", market: Market = Market.SPOT, region: str = "r1", provider: str = "aws") -> Pool:
    return Pool(f"{provider}/{region}/{zone}/{type_}/{market}", provider, region, zone, type_, market)


def offer(type_: str = "g1", gpus: int = 8, model: str = "H100", cpus: int = 96, memory_mb: int = 1000) -> Offer:
    return Offer("aws", "r1", type_, ("a",), model, gpus, 80_000, cpus, memory_mb)


def zones(found: list[Pool]) -> str:
    return "".join(each.zone for each in found)


def plans_of(world, pools, quotes=None, **more) -> Plans:
    world.pools = pools
    world.plan(pools=pools, **more)
    world.plans = replace(world.plans, quotes=quotes or {})
    return world.plans


def ranked(world, nodes: int = 1, **want) -> list[Pool]:
    plan = world.plans.by_node["n1"]
    return rank(world.fleet, world.plans, plan, Want(nodes, want.pop("since", world.now), **want), world.now)


def refuse(world, name: str, nodes: int = 1) -> None:
    """A launch of so many, refused."""
    world.want(77, *[f"n{i + 1}" for i in range(nodes)])
    launch = next(command for command in world.due() if isinstance(command, Launch) and command.pool == name)
    world.refused(launch)
    for command in world.due():
        world.finish(command)


def test_by_price_the_cheapest_is_first_and_unknown_prices_are_last(world) -> None:
    pools = (pool("a"), pool("b"), pool("c"))
    plans_of(world, pools, {pools[1].name: Quote(2.0), pools[2].name: Quote(1.0)}, order="price")
    assert zones(ranked(world)) == "cba"


def test_scored_prefers_a_dearer_pool_that_keeps_its_instances(world) -> None:
    pools = (pool("a"), pool("b"))
    quotes = {pools[0].name: Quote(1.0, preemptions_per_h=2.0), pools[1].name: Quote(1.1, preemptions_per_h=0.01)}
    plans_of(world, pools, quotes, order="scored")
    assert zones(ranked(world)) == "ba"
    plans_of(world, pools, quotes, order="price")
    assert zones(ranked(world)) == "ab"
    quotes = {pools[0].name: Quote(1.0, preemptions_per_h=0.02), pools[1].name: Quote(1.1, preemptions_per_h=0.01)}
    plans_of(world, pools, quotes, order="scored")
    assert zones(ranked(world)) == "ab"
    assert zones(ranked(world, nodes=64)) == "ab", "a gang of 64 is hit 64 times as often, and still less than the price differs"


@pytest.mark.parametrize("order", ["listed", "price", "scored"])
def test_a_pool_that_refused_comes_last_until_that_has_faded(world, order: str) -> None:
    pools = (pool("a"), pool("b"))
    plans_of(world, pools, {pools[0].name: Quote(1.0), pools[1].name: Quote(1.5)}, order=order, refusal_backoff_s=10.0)
    refuse(world, pools[0].name)
    assert zones(ranked(world)) == "b", "at once it is not asked at all"
    world.later(60)
    assert zones(ranked(world)) == "ba"
    world.later(3600)
    assert zones(ranked(world)) == "ab"


def test_where_all_have_refused_often_each_is_still_asked_every_two_minutes(world) -> None:
    pools = (pool("a"), pool("b"))
    plans_of(world, pools, refusal_backoff_s=400.0)
    refuse(world, pools[0].name)
    assert zones(ranked(world)) == "b"
    memory = world.fleet.pools[pools[0].name]
    world.fleet.pools[pools[1].name] = replace(memory)
    assert zones(ranked(world)) == ""
    world.later(121)
    assert zones(ranked(world)) == "ab"
    del world.fleet.pools[pools[1].name]
    assert zones(ranked(world)) == "b", "while another may be asked, the one that refused is left alone"


def test_a_smaller_gang_is_not_barred_by_the_refusal_of_a_larger_one(world) -> None:
    pools = (pool("a"), pool("b"))
    plans_of(world, pools)
    refuse(world, pools[0].name, nodes=4)
    assert zones(ranked(world, nodes=4)) == "b"
    assert zones(ranked(world, nodes=1)) == "ab"


def test_what_does_not_fit_the_groups_shape_is_never_asked(world) -> None:
    fit, small, unknown = pool("a"), pool("b", "g2"), pool("c", "g3")
    plans_of(world, (small, fit, unknown), shape=Shape(8, "H100", 90, 900))
    world.plans = replace(world.plans, offers={("aws", "g1"): offer(), ("aws", "g2"): offer("g2", gpus=1)})
    assert zones(ranked(world)) == "ac", "of what nothing is known, the admin's word counts"
    why = why_not(world.fleet, world.plans, world.plans.by_node["n1"], small, Want(1, world.now), world.now)
    assert why == "g2 has 1 GPUs and not 8"


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        (Shape(8, "h100"), True),
        (Shape(8, "NVIDIA H100"), True),
        (Shape(4), False),
        (Shape(8, "A100"), False),
        (Shape(0, "", 97), False),
        (Shape(0, "", 96, 1001), False),
        (Shape(0, "", 1, 1000), True),
    ],
)
def test_a_shape_is_held_against_the_clouds_word(shape: Shape, fits: bool) -> None:
    assert (shape.misfit(offer()) == "") is fits


def test_models_are_words_and_not_beginnings() -> None:
    assert same_model("H100", "nvidia-h100-80gb")
    assert same_model("A10", "A10")
    assert not same_model("A10", "A100")
    assert same_model("Tesla V100", "V100")


def test_a_quota_bars_the_type_in_all_zones_and_no_other_region(world) -> None:
    pools = (pool("a"), pool("b"), pool("c", region="r2"))
    plans_of(world, pools)
    world.want(7, "n1")
    (launch,) = world.due()
    world.launched(launch, faults=(Fault(FaultKind.QUOTA, "VcpuLimitExceeded", "no more", retry_s=300.0),))
    (other,) = world.due()
    assert other.pool == pools[2].name, "without asking the same quota in zone b"
    world.later(301)
    assert zones(ranked(world)) == "abc"


def test_a_job_that_has_a_node_in_a_zone_gets_its_others_there(world) -> None:
    pools = (pool("a"), pool("b"))
    plans_of(world, pools)
    world.running(7, "n1")  # stands in zone a
    world.job(7, "CONFIGURING", "n1", "n2")
    world.apply(e.NodesRequested(world.now, ("n2",), 7))
    world.node("n2", "ALLOCATED", "CLOUD", "POWERING_UP")
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    assert launch.pool == pools[0].name
    world.refused(launch)
    commands = world.due()
    (end,) = [command for command in commands if isinstance(command, GiveUp)]
    assert "the job's other nodes are in aws/r1/a" in end.reason
    assert end.until < world.now + 5, "zone b may have both: the job goes there as a whole, at once"
    (leave,) = [command for command in commands if isinstance(command, PowerDownNode)]
    assert (leave.node, leave.instance_id) == ("n1", "i-n1")


def test_a_node_that_another_job_uses_is_not_left(world) -> None:
    pools = (pool("a"), pool("b"))
    plans_of(world, pools)
    world.running(7, "n1")
    world.job(8, "RUNNING", "n1")
    world.job(7, "CONFIGURING", "n1", "n2")
    world.apply(e.NodesRequested(world.now, ("n2",), 7))
    world.node("n2", "ALLOCATED", "CLOUD", "POWERING_UP")
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    world.refused(launch)
    assert not [command for command in world.due() if isinstance(command, PowerDownNode)]


def test_with_gang_any_the_zone_does_not_matter(world) -> None:
    pools = (pool("a"), pool("b"))
    plans_of(world, pools, one_domain=False)
    world.running(7, "n1")
    refuse_at = world.now
    world.job(7, "CONFIGURING", "n1", "n2")
    world.apply(e.NodesRequested(refuse_at, ("n2",), 7))
    world.node("n2", "ALLOCATED", "CLOUD", "POWERING_UP")
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    world.refused(launch)
    (other,) = [command for command in world.due() if isinstance(command, Launch)]
    assert other.pool == pools[1].name


def test_jobs_of_one_node_share_a_call_and_a_gang_does_not(world) -> None:
    world.plans = replace(world.plans, batch={"aws": 500})
    for job_id, node in ((1, "n1"), (2, "n2")):
        world.want(job_id, node)
    world.want(3, "n3", "n4")
    shared, gang = world.due()
    assert (shared.nodes, shared.minimum, shared.job_ids, shared.job_id) == (("n1", "n2"), 1, (1, 2), 0)
    assert (gang.nodes, gang.minimum, gang.job_id) == (("n3", "n4"), 2, 3)
    assert set(shared.refs()) == {"node:n1", "node:n2", "job:1", "job:2"}


def test_a_shared_call_that_brings_less_keeps_what_it_brought(world) -> None:
    world.plans = replace(world.plans, batch={"aws": 500})
    for job_id, node in ((1, "n1"), (2, "n2"), (3, "n3")):
        world.want(job_id, node)
    (shared,) = world.due()
    world.launched(shared, "i-1", faults=(Fault(FaultKind.CAPACITY, "FewerThanAsked", "1 of 3"),))
    (rest,) = world.due()
    assert isinstance(rest, Launch)
    assert (len(rest.nodes), rest.pool) == (2, world.pools[1].name), "the two others are asked for in the next pool; nothing is ended"


def test_the_end_of_one_jobs_trying_ends_nothing_of_the_others(world) -> None:
    world.plans = replace(world.plans, batch={"aws": 500})
    for job_id, node in ((1, "n1"), (2, "n2")):
        world.want(job_id, node)
    (shared,) = world.due()
    world.launched(shared, "i-1", "i-2")
    world.apply(e.CommandIssued(world.now, 900, GiveUp("give_up:n1:0", "why", ("n1",), 1, world.now + 60)))
    launch = world.fleet.launches[shared.launch_id]
    assert (launch.void, launch.nodes) == (False, ("n2",))


def test_no_more_launches_are_under_way_than_allowed_and_those_that_wait_go_together(world) -> None:
    world.plans = replace(world.plans, in_flight={"aws": 1}, batch={"aws": 500})
    world.want(1, "n1")
    (first,) = world.due()
    world.want(2, "n2")
    world.want(3, "n3")
    assert world.due() == []
    world.launched(first, "i-1")
    (second,) = world.due()
    assert second.nodes == ("n2", "n3")


def test_a_slot_is_counted_per_region(world) -> None:
    plans_of(world, (pool("a"), pool("z", region="r2")))
    world.plans = replace(world.plans, in_flight={"aws": 1})
    world.want(1, "n1")
    (first,) = world.due()
    world.want(2, "n2")
    assert world.due() == []
    world.refused(first)
    launches = world.due()
    assert [launch.pool for launch in launches] == [world.pools[1].name], "the region that hangs holds up itself alone"


def test_pools_that_will_do_are_named_in_one_call_where_the_policy_says_so(world) -> None:
    pools = (pool("a"), pool("b"), pool("a", "g9"), pool("c", market=Market.ON_DEMAND), pool("d", region="r2"))
    plans_of(world, pools, combine=True, ondemand_after_s=0.0)
    world.want(7, "n1")
    (launch,) = world.due()
    assert launch.others == (pools[1].name, pools[2].name)
    faults = tuple(Fault(FaultKind.CAPACITY, "InsufficientInstanceCapacity", "no", pool=each.name) for each in pools[:2])
    instances = (Instance("i-1", launch.launch_id, pools[2].name, "running", "10.0.0.1"),)
    world.apply(e.LaunchEnded(world.now, launch.launch_id, launch.pool, instances, faults))
    memories = world.fleet.pools
    assert [memories[each.name].refusals for each in pools[:2]] == [1, 1]
    assert memories[pools[2].name].granted == 1


def test_the_plan_of_the_golden_defaults_asks_one_pool_at_a_time() -> None:
    assert not Plan("p", "g", ()).combine
