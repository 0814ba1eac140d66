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
    return rank(world.fleet, world.plans, plan, Want(nodes, world.now, want.pop("since", world.now), **want), world.now)


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
    why = why_not(world.fleet, world.plans, world.plans.by_node["n1"], small, Want(1, world.now, world.now), world.now)
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


# -- gangs in one zone ----------------------------------------------------------------------------------------------------------


def survivor_in_b(world) -> None:
    """Two zones; an idle machine stands in the second, as n1."""
    plans_of(world, (pool("b"), pool("a")))
    world.running(7, "n1")
    world.job(7, "COMPLETED", "n1")
    world.node("n1", "IDLE", "CLOUD")
    world.pools = (pool("a"), pool("b"))
    world.plan(pools=world.pools)


def test_a_request_that_tells_the_whole_allocation_goes_where_the_job_has_a_node(world) -> None:
    survivor_in_b(world)
    world.apply(e.NodesRequested(world.now, ("n2",), 9, alloc=("n1", "n2")))
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    assert launch.pool == world.pools[1].name


def test_a_request_that_tells_less_waits_for_the_next_look(world) -> None:
    survivor_in_b(world)
    world.job(9, "PENDING", num_nodes=2)
    world.apply(e.NodesRequested(world.now, ("n2",), 9))
    assert [command for command in world.due() if isinstance(command, Launch)] == []
    world.later(0.1)
    world.job(9, "CONFIGURING", "n1", "n2")
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    assert launch.pool == world.pools[1].name


def test_no_look_is_waited_for_long_nor_for_a_job_whose_nodes_are_all_asked_for(world) -> None:
    survivor_in_b(world)
    world.job(9, "PENDING", num_nodes=1)
    world.apply(e.NodesRequested(world.now, ("n2",), 9))
    assert [type(command) for command in world.due()] == [Launch]
    world.apply(e.NodesRequested(world.now, ("n3",), 10))
    assert world.due() == []
    world.now += 1.1
    assert [type(command) for command in world.due()] == [Launch]


def half_a_gang(world, *, shared: bool = False) -> None:
    """Job 7 has n1 in zone a, and needs n2."""
    plans_of(world, (pool("a"), pool("b")))
    world.running(7, "n1")
    if shared:
        world.job(8, "RUNNING", "n1")
    world.job(7, "CONFIGURING", "n1", "n2")
    world.apply(e.NodesRequested(world.now, ("n2",), 7, alloc=("n1", "n2")))
    world.node("n2", "ALLOCATED", "CLOUD", "POWERING_UP")


def test_a_throttle_is_waited_for_and_nothing_is_given_up(world) -> None:
    half_a_gang(world)
    (launch,) = world.due()
    world.launched(launch, faults=(Fault(FaultKind.THROTTLE, "RequestLimitExceeded", "slow down", retry_s=5.0),))
    assert world.due() == []
    world.later(5.1)
    (again,) = world.due()
    assert again.pool == launch.pool


def test_a_survivor_is_kept_where_no_other_zone_would_have_the_job(world) -> None:
    half_a_gang(world)
    world.fleet.pools[world.pools[1].name] = replace(
        world.fleet.pools[world.pools[0].name], heat=1.0, refused_at=world.now, refused_nodes=1
    )
    (launch,) = world.due()
    world.refused(launch)
    (end,) = world.due()
    assert isinstance(end, GiveUp)
    assert end.until > world.now + 20


def test_a_job_that_cannot_leave_its_zone_is_not_tried_every_second(world) -> None:
    half_a_gang(world, shared=True)
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    world.refused(launch)
    commands = [command for command in world.due() if isinstance(command, GiveUp | PowerDownNode)]
    (end,) = commands
    assert isinstance(end, GiveUp)
    assert end.until > world.now + 20, "n1 is another job's as well"


def test_what_a_completing_attempt_had_binds_the_next_one_to_nothing(world) -> None:
    plans_of(world, (pool("a"), pool("b")))
    world.running(7, "n1")
    world.notice("n1")
    world.due()
    world.job(7, "PENDING", "n1", restarts=1, completing=True)
    refuse_a = world.fleet.pools[world.pools[0].name]
    refuse_a.heat, refuse_a.refused_at, refuse_a.refused_nodes = 1.0, world.now, 1
    world.apply(e.NodesRequested(world.now, ("n2",), 7, alloc=("n2",)))
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    assert launch.pool == world.pools[1].name


def test_two_that_are_bought_ahead_for_one_job_are_one_gang(world) -> None:
    plans_of(world, (pool("a"), pool("b")))
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.notice("n1")
    world.notice("n2")
    ups = [command for command in world.due() if type(command).__name__ == "PowerUpNode"]
    assert len(ups) == 2
    for up in ups:
        world.finish(up)
    (launch,) = [command for command in world.due() if isinstance(command, Launch)]
    assert (len(launch.nodes), launch.minimum) == (2, 2)


# -- calls ----------------------------------------------------------------------------------------------------------------------


def test_on_demand_waits_for_a_probe_of_spot(world) -> None:
    pools = (pool("a"), pool("a", market=Market.ON_DEMAND))
    plans_of(world, pools, ondemand_after_s=0.0, refusal_backoff_s=1000.0)
    refuse(world, pools[0].name)
    assert [each.market for each in ranked(world)] == [Market.ON_DEMAND]
    world.later(121)
    assert [each.market for each in ranked(world)] == [Market.SPOT, Market.ON_DEMAND]


def test_the_oldest_request_gets_the_slot(world) -> None:
    world.plans = replace(world.plans, in_flight={"aws": 1})
    world.want(1, "n4")
    world.later(5)
    world.want(2, "n1")
    (launch,) = world.due()
    assert launch.nodes == ("n4",)


def test_a_region_whose_calls_hang_is_passed_over_where_another_will_do(world) -> None:
    plans_of(world, (pool("a"), pool("z", region="r2")))
    world.plans = replace(world.plans, in_flight={"aws": 1})
    world.want(1, "n1")
    world.due()
    world.want(2, "n2")
    assert world.due() == [], "it may answer in a moment"
    world.later(4)
    (launch,) = world.due()
    assert launch.pool == world.pools[1].name


def test_what_came_for_a_job_that_is_gone_serves_another_of_the_same_call(world) -> None:
    world.plans = replace(world.plans, batch={"aws": 500})
    for job_id, node in ((1, "n1"), (2, "n2"), (3, "n3")):
        world.want(job_id, node)
    (shared,) = world.due()
    world.node("n1", "IDLE", "CLOUD", "POWERING_DOWN")
    world.job(1, "CANCELLED")
    world.launched(shared, "i-1", "i-2", faults=(Fault(FaultKind.CAPACITY, "FewerThanAsked", "2 of 3"),))
    assert [command for command in world.due() if isinstance(command, Launch)] == []
    for iid in ("i-1", "i-2"):
        world.arrive(iid, shared.launch_id)
    assert sorted(bind.node for bind in world.due()) == ["n2", "n3"]


def test_an_older_snapshot_s_gang_is_still_all_or_nothing(world) -> None:
    world.want(7, "n1", "n2")
    (launch,) = world.due()
    world.fleet.launches[launch.launch_id].minimum = 0
    world.launched(launch, "i-1", faults=(Fault(FaultKind.CAPACITY, "FewerThanAsked", "1 of 2"),))
    assert world.fleet.launches[launch.launch_id].void
