"""What was bought ahead for a name that Slurm passed over serves the name that it chose: one machine, whatever comes first."""

from dataclasses import replace

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import BindInstance, Launch, PowerUpNode, RedirectLaunch
from holdfast_controller.journal import dump_fleet, load_fleet


def by_kind(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


@pytest.fixture
def ahead(world):
    """Job 7 has left n1; n2, which had a machine before, was powered up for it, and is being bought."""
    world.running(6, "n2")
    world.job(6, "COMPLETED")
    world.apply(e.InstanceChanged(world.now, replace(world.fleet.instances["i-n2"].instance, state="gone")))
    world.later(1)
    world.node("n2", "IDLE", "CLOUD", "POWERED_DOWN")
    world.due()
    world.running(7, "n1")
    notice = world.notice("n1")
    for command in world.due():
        world.finish(command)
    (launch,) = world.due()
    assert launch.nodes == ("n2",)
    world.node("n2", "IDLE", "CLOUD", "POWERING_UP")
    world.parked(7, "n1", notice)
    for command in world.due():
        world.finish(command)
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", restarts=1, eligible_time=world.now)
    world.later(1)
    return launch


def pass_over(world, node="n3"):
    """Slurm gives the job another name."""
    world.job(7, "CONFIGURING", node, restarts=1)
    world.apply(e.NodesRequested(world.now, (node,), 7))
    world.later(0.1)
    world.node(node, "ALLOCATED", "CLOUD", "POWERING_UP")


@pytest.mark.parametrize("answered", [False, True])
def test_it_serves_the_name_that_slurm_chose(world, ahead, answered) -> None:
    if answered:
        world.launched(ahead, "i-new")
    pass_over(world)
    commands = world.due()
    (redirect,) = by_kind(commands, RedirectLaunch)
    assert (redirect.launch_id, redirect.node, redirect.to, redirect.job_id) == (ahead.launch_id, "n2", "n3", 7)
    assert by_kind(commands, Launch) == []
    if not answered:
        world.launched(ahead, "i-new")
    world.finish(redirect)
    world.arrive("i-new", ahead.launch_id)
    commands = world.due()
    assert [(bind.node, bind.instance_id) for bind in by_kind(commands, BindInstance)] == [("n3", "i-new")]
    assert by_kind(commands, Launch) == by_kind(commands, RedirectLaunch) == []
    assert world.fleet.nodes["n2"].power_down_at is not None


def test_an_agent_that_asks_before_the_request_waits_a_moment_for_its_name(world, ahead) -> None:
    world.launched(ahead, "i-new")
    world.job(7, "CONFIGURING", "n3", restarts=1)
    world.arrive("i-new", ahead.launch_id)
    assert by_kind(world.due(), BindInstance) == []
    pass_over(world)
    assert len(by_kind(world.due(), RedirectLaunch)) == 1
    assert [bind.node for bind in by_kind(world.due(), BindInstance)] == ["n3"]


def test_one_that_has_its_name_keeps_it(world, ahead) -> None:
    world.launched(ahead, "i-new")
    world.arrive("i-new", ahead.launch_id)
    assert [bind.node for bind in by_kind(world.due(), BindInstance)] == ["n2"]
    pass_over(world)
    commands = world.due()
    assert by_kind(commands, RedirectLaunch) == []
    assert [launch.nodes for launch in by_kind(commands, Launch)] == [("n3",)]


def test_what_was_bought_for_one_job_serves_no_other(world, ahead) -> None:
    world.job(8, "CONFIGURING", "n3")
    world.apply(e.NodesRequested(world.now, ("n3",), 8))
    commands = world.due()
    assert by_kind(commands, RedirectLaunch) == []
    assert [launch.nodes for launch in by_kind(commands, Launch)] == [("n3",)]


def test_a_name_that_a_job_came_to_is_not_taken_from_it(world, ahead) -> None:
    world.job(8, "CONFIGURING", "n2")
    pass_over(world)
    assert by_kind(world.due(), RedirectLaunch) == []


def test_where_the_power_down_finds_a_job_the_name_can_be_asked_for_again(world, ahead) -> None:
    pass_over(world)
    (redirect,) = by_kind(world.due(), RedirectLaunch)
    world.finish(redirect, "moot")
    node = world.fleet.nodes["n2"]
    assert (node.wanted_since, node.power_down_at, node.instance_id) == (None, None, "")
    world.apply(e.NodesRequested(world.now, ("n2",), 8, "reconcile"))
    world.later(0.1)
    assert [launch.nodes for launch in by_kind(world.due(), Launch)] == [("n2",)]


def by_reconcile(world, job_id=0):
    """What a look at Slurm asks for where it finds the name powering up."""
    world.apply(e.NodesRequested(world.now, ("n2",), job_id, "reconcile"))


@pytest.mark.parametrize("outcome", ["failed", "refused"])
def test_a_name_that_could_not_be_let_go_is_let_go_later_and_nothing_is_bought_for_it(world, ahead, outcome) -> None:
    pass_over(world)
    (redirect,) = by_kind(world.due(), RedirectLaunch)
    by_reconcile(world)
    assert by_kind(world.due(), Launch) == [], "the call of ResumeProgram may come late"
    world.finish(redirect, outcome)
    assert world.fleet.nodes["n2"].power_down_at is None, "a power-down without a look would end a job that came to it"
    assert by_kind(world.due(), RedirectLaunch) == []
    for _ in range(2):
        world.later(10)
        by_reconcile(world)
        commands = world.due()
        assert by_kind(commands, RedirectLaunch) == [redirect]
        assert by_kind(commands, Launch) == []
        world.finish(redirect, outcome)
    assert load_fleet(dump_fleet(world.fleet)) == world.fleet
    world.later(10)
    (again,) = by_kind(world.due(), RedirectLaunch)
    world.finish(again)
    assert (world.fleet.nodes["n2"].let_go, world.fleet.nodes["n2"].power_down_at) == (None, world.now)
    world.later(60)
    assert by_kind(world.due(), RedirectLaunch) == []


def test_a_job_that_comes_to_a_name_before_it_is_let_go_gets_a_machine(world, ahead) -> None:
    pass_over(world)
    (redirect,) = by_kind(world.due(), RedirectLaunch)
    world.finish(redirect, "failed")
    world.job(8, "CONFIGURING", "n2")
    by_reconcile(world, 8)
    world.later(10)
    commands = world.due()
    assert [launch.nodes for launch in by_kind(commands, Launch)] == [("n2",)]
    assert by_kind(commands, RedirectLaunch) == []


@pytest.mark.parametrize("flags", [("POWERED_DOWN",), ()])
def test_a_name_that_is_off_or_up_is_let_go_no_more(world, ahead, flags) -> None:
    pass_over(world)
    (redirect,) = by_kind(world.due(), RedirectLaunch)
    world.finish(redirect, "failed")
    world.later(10)
    world.node("n2", "IDLE", "CLOUD", *flags)
    assert by_kind(world.due(), RedirectLaunch) == []


def test_with_the_journal_lost_it_is_known_by_the_name_it_was_given(world, ahead) -> None:
    world.launched(ahead, "i-new")
    world.node("n3", "IDLE", "CLOUD", "POWERING_UP", address="10.0.0.0")
    world.arrive("i-new", ahead.launch_id, node="n3")
    assert [bind.node for bind in by_kind(world.due(), BindInstance)] == ["n3"]


def test_every_evacuating_job_gets_a_node_of_its_own(world) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    world.notice("n1")
    world.notice("n2")
    assert sorted((buy.for_job, buy.node) for buy in by_kind(world.due(), PowerUpNode)) == [(7, "n3"), (8, "n4")]
