"""Power-up: bought per job, all or nothing; refused, in the next pool; given up with a reason; never twice."""

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import BindInstance, GiveUp, Launch, PowerDownNode, StartJob, TerminateInstance
from holdfast_controller.providers.base import Fault, FaultKind, Instance


def test_a_gang_is_one_launch_in_the_first_pool(world) -> None:
    world.want(7, "n1", "n2")
    (launch,) = world.due()
    assert isinstance(launch, Launch)
    assert (launch.pool, launch.nodes, launch.job_id) == (world.pools[0].name, ("n1", "n2"), 7)
    assert world.due() == [], "the launch is under way"


def test_a_repeated_request_buys_nothing(world) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.want(7, "n1")
    assert world.due() == []
    world.launched(launch, "i-1")
    world.want(7, "n1")
    assert world.due() == []


def test_a_refusal_goes_to_the_next_pool_at_once(world) -> None:
    world.want(7, "n1")
    (first,) = world.due()
    world.refused(first)
    (second,) = world.due()
    assert isinstance(second, Launch)
    assert second.pool == world.pools[1].name
    assert second.launch_id != first.launch_id


def test_a_job_that_slurm_lists_only_after_it_was_refused_waits_no_longer_than_its_backoff(world) -> None:
    """The hook was quicker than our look at Slurm, and the pools as well."""
    world.apply(e.NodesRequested(world.now, ("n1",), 7))
    for _ in world.pools:
        (launch,) = world.due()
        world.refused(launch)
    (end,) = world.due()
    world.finish(end)
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 121)
    (start,) = [command for command in world.due() if isinstance(command, StartJob)]
    assert 0 < start.delay_s <= round(end.until - world.now) + 1


def test_refused_everywhere_the_job_is_told_and_waits(world, kinds) -> None:
    world.want(7, "n1")
    for _ in world.pools:
        (launch,) = world.due()
        world.refused(launch)
    (end,) = world.due()
    assert isinstance(end, GiveUp)
    assert end.nodes == ("n1",)
    assert "no capacity" in end.reason
    assert "refused" in end.reason
    assert end.until > world.now
    world.finish(end)
    world.later(1)
    world.node("n1", "IDLE", "CLOUD", "POWERING_DOWN")
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 121)
    (start,) = world.due()
    assert isinstance(start, StartJob)
    assert abs(start.delay_s - (end.until - world.now)) <= 1
    assert start.restarts == 1


def test_a_throttle_blames_no_pool(world) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.launched(launch, faults=(Fault(FaultKind.THROTTLE, "RequestLimitExceeded", "slow down", retry_s=2.0),))
    (other,) = world.due()
    assert other.pool == world.pools[1].name
    assert world.fleet.pools[world.pools[0].name].refusals == 0


def test_fewer_than_asked_for_is_nothing(world, kinds) -> None:
    world.want(7, "n1", "n2")
    (launch,) = world.due()
    world.launched(launch, "i-1", faults=(Fault(FaultKind.CAPACITY, "UnfulfillableCapacity", "one only"),))
    commands = world.due()
    assert sorted(kinds(commands)) == ["Launch", "TerminateInstance"]
    relaunch = next(command for command in commands if isinstance(command, Launch))
    assert relaunch.nodes == ("n1", "n2")


def test_an_instance_that_asks_gets_a_name_of_its_launch_and_keeps_it(world) -> None:
    world.want(7, "n1", "n2")
    (launch,) = world.due()
    world.launched(launch, "i-1", "i-2")
    world.arrive("i-1", launch.launch_id)
    world.arrive("i-2", launch.launch_id)
    binds = world.due()
    assert [(bind.node, bind.instance_id) for bind in binds] == [("n1", "i-1"), ("n2", "i-2")]
    for bind in binds:
        world.finish(bind)
    world.apply(e.AgentLost(world.now, "i-1"))
    world.arrive("i-1", launch.launch_id, node="n1")
    (again,) = world.due()
    assert isinstance(again, BindInstance)
    assert again.node == "n1"


def test_a_name_that_slurmctld_has_still_to_resume_is_given_to_nobody_for_some_seconds(world, kinds) -> None:
    """A slurmd that registers before slurmctld has acted on POWER_UP leaves the node with that flag for ever."""
    world.apply(e.NodesRequested(world.now, ("n1",)))
    world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN", "POWER_UP")
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.arrive("i-1", launch.launch_id)
    assert world.due() == []
    world.later(1)
    world.node("n1", "IDLE", "CLOUD", "POWERING_UP")
    assert kinds(world.due()) == ["BindInstance"]


def test_a_name_that_is_never_resumed_is_given_all_the_same(world, kinds) -> None:
    world.apply(e.NodesRequested(world.now, ("n1",)))
    world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN", "POWER_UP")
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.arrive("i-1", launch.launch_id)
    world.later(6)
    assert kinds(world.due()) == ["BindInstance"]


def stuck(world, *jobs: tuple[int, str]) -> None:
    """A node that is up and keeps the flag POWER_UP: slurmctld was restarted before it had acted on it."""
    world.apply(e.NodesRequested(world.now, ("n1",)))
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.later(6)
    world.arrive("i-1", launch.launch_id)
    for command in world.due():
        world.finish(command)
    for job_id, state in jobs:
        world.job(job_id, state, "n1")
    world.node("n1", "ALLOCATED" if jobs else "IDLE", "CLOUD", "POWER_UP")


def test_a_node_that_registered_in_vain_is_powered_down(world) -> None:
    stuck(world)
    assert world.due() == []
    world.later(6)
    (command,) = world.due()
    assert isinstance(command, PowerDownNode)
    assert (command.node, command.instance_id) == ("n1", "i-1")
    assert "POWER_UP" in command.reason


def test_a_node_that_registered_in_vain_stays_while_a_job_runs_on_it(world) -> None:
    stuck(world, (7, "RUNNING"))
    world.later(6)
    assert [command for command in world.due() if isinstance(command, PowerDownNode)] == []


def test_an_agent_that_comes_before_the_answer_waits_for_it(world) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.arrive("i-1", launch.launch_id)
    assert world.due() == []
    world.launched(launch, "i-1")
    (bind,) = world.due()
    assert (bind.node, bind.instance_id) == ("n1", "i-1")


def test_an_instance_with_the_token_of_another_launch_gets_no_name(world) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.arrive("i-1", "hf-other-1")
    assert world.due() == []


def test_a_silent_instance_is_replaced_then_given_up(world, kinds) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.later(61)
    (end,) = world.due()
    assert isinstance(end, TerminateInstance)
    world.finish(end)
    assert world.due() == [], "no launch for a name whose old instance may be there"
    world.apply(e.InstanceChanged(world.now, Instance("i-1", launch.launch_id, launch.pool, "gone")))
    (second,) = world.due()
    assert isinstance(second, Launch)
    world.launched(second, "i-2")
    world.later(61)
    world.due()
    world.apply(e.InstanceChanged(world.now, Instance("i-2", second.launch_id, second.pool, "gone")))
    (given_up,) = world.due()
    assert isinstance(given_up, GiveUp)
    assert "never registered" in given_up.reason


def test_on_demand_only_when_the_policy_says_so(world) -> None:
    from holdfast_controller.providers.base import Market

    spot, on_demand = world.pools[0], world.pools[1].__class__("aws/r1/c/g1/on_demand", "aws", "r1", "c", "g1", Market.ON_DEMAND)
    world.plan(pools=(on_demand, spot), ondemand_after_s=20.0)
    world.want(7, "n1")
    (launch,) = world.due()
    assert launch.pool == spot.name
    world.refused(launch)
    (end,) = world.due()
    assert isinstance(end, GiveUp)
    assert end.until - world.now <= 25, "the job comes back when on-demand is allowed"


def test_after_the_loss_of_the_journal_tags_tell_what_was_bought(world) -> None:
    world.fleet.fresh, world.fleet.cloud_listed = True, False
    world.want(7, "n1")
    assert world.due() == [], "it may be bought already"
    bought = Instance("i-1", "hf-old-1", world.pools[0].name, "running", tags={"holdfast:nodes": "n1", "holdfast:job": "7"})
    world.apply(e.InstanceChanged(world.now, bought), e.CloudListed(world.now))
    assert world.due() == []
    world.arrive("i-1", "hf-old-1")
    (bind,) = world.due()
    assert bind.node == "n1"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_region_that_is_silent_at_the_start_keeps_no_name_down_where_the_journal_knows_what_was_bought(world, kinds, fresh: bool) -> None:
    world.fleet.fresh, world.fleet.cloud_listed = fresh, False
    world.node("n1", "DOWN", "CLOUD", reason="ResumeTimeout reached")
    assert kinds(world.due()) == ([] if fresh else ["ReviveNode"])


def test_an_address_that_a_killed_slurmctld_has_forgotten_is_told_again(world) -> None:
    world.running(7, "n1")
    world.apply(e.AgentArrived(world.now, "i-n1", "b", "", "10.0.0.9", "n1"))
    for command in world.due():
        world.finish(command)
    world.node("n1", "ALLOCATED", "CLOUD", address="n1")
    assert [command for command in world.due() if isinstance(command, BindInstance)] == [], "it may be on its way"
    world.later(3)
    (again,) = [command for command in world.due() if isinstance(command, BindInstance)]
    assert (again.node, again.instance_id, again.address) == ("n1", "i-n1", "10.0.0.9")
    world.finish(again)
    world.node("n1", "ALLOCATED", "CLOUD", address="10.0.0.9")
    world.later(30)
    assert [command for command in world.due() if isinstance(command, BindInstance)] == []


def test_after_the_loss_of_the_journal_a_shared_call_is_still_one_for_several_jobs(world) -> None:
    for number in (1, 2):
        tags = {"holdfast:nodes": "n[1-2]"}
        instance = Instance(f"i-{number}", "hf-old-1", world.pools[0].name, "running", f"10.0.0.{number}", tags=tags)
        world.apply(e.InstanceChanged(world.now, instance))
    world.apply(e.CommandIssued(world.now, 900, GiveUp("give_up:n1:0", "why", ("n1",), 1, world.now + 60)))
    launch = world.fleet.launches["hf-old-1"]
    assert (launch.void, launch.nodes) == (False, ("n2",))
