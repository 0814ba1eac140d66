"""What follows from findings on a node that is up: drained, condemned, pardoned, or nothing."""

from dataclasses import replace
from typing import Any

import pytest
from health_words import GPU, by, found, reported
from holdfast_common.health.model import Action, Finding
from holdfast_common.notice import NoticeKind
from holdfast_controller import events as e
from holdfast_controller.commands import (
    CondemnNode,
    DrainNode,
    PardonNode,
    PowerDownNode,
    PowerUpNode,
    PrepareJobs,
    RequeueJob,
    TerminateInstance,
    UndrainNode,
)
from holdfast_controller.describe import node_sentence
from holdfast_controller.plan import Health
from holdfast_controller.providers.base import Instance


def carry_out(world: Any, commands: list[Any]) -> None:
    """Have what health decides happen, as the effects do it."""
    for command in commands:
        if isinstance(command, CondemnNode):
            world.apply(e.NoticeReceived(world.now, command.node, command.notice, "health", command.keep_until))
        elif isinstance(command, PardonNode):
            world.apply(e.NoticeWithdrawn(world.now, command.node, command.notice_id))
        world.finish(command)


def condemned(world: Any, action: str = "evacuate") -> CondemnNode:
    found(world, action)
    due = world.due()
    (condemn,) = by(due, CondemnNode)
    carry_out(world, due)
    return condemn


def drained(world: Any, name: str = "n1", state: str = "ALLOCATED", reason: str = "holdfast: health: xid-79") -> None:
    world.node(name, state, "CLOUD", "DRAIN", reason=reason)


@pytest.mark.parametrize("why", ["a note", "a dry run", "a policy that does not act"])
def test_nothing_is_done_about(world: Any, why: str) -> None:
    world.running(7, "n1")
    if why == "a policy that does not act":
        world.plan(health=Health(act=False))
    found(world, "note" if why == "a note" else "replace", dry_run=why == "a dry run")
    assert world.due() == []


def test_a_drained_node_keeps_its_job_and_goes_when_that_has_ended(world: Any) -> None:
    world.running(7, "n1")
    found(world, "drain")
    (drain,) = world.due()
    assert isinstance(drain, DrainNode)
    assert drain.reason.startswith("health: xid-79 on GPU-0000: it fell off")
    drained(world)
    world.later(3600)
    drained(world)
    assert world.due() == [], "its job trains on, and the drain is not undone"
    world.job(7, "COMPLETED", "n1")
    world.apply(e.JobLeftNode(world.now, "n1", 7, 0))
    drained(world, state="IDLE")
    (down,) = world.due()
    assert isinstance(down, PowerDownNode)
    assert (down.node, down.instance_id, down.if_empty) == ("n1", "i-n1", True)


@pytest.mark.parametrize("there", ["a process of the job", "a job that completes", "Slurm's word of one"])
def test_a_drained_node_is_not_powered_down_under(world: Any, there: str) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    found(world, "drain")
    world.due()
    flags = ("COMPLETING",) if there == "Slurm's word of one" else ()
    world.job(7, "COMPLETED", "n1", completing=there == "a job that completes")
    if there != "a process of the job":
        world.apply(e.JobLeftNode(world.now, "n1", 7, 0))
    world.node("n1", "IDLE", "CLOUD", "DRAIN", *flags, reason="holdfast: health: xid-79")
    assert by(world.due(), PowerDownNode) == []


def test_a_drained_node_is_kept_to_be_looked_at(world: Any) -> None:
    world.plan(health=Health(keep_sick_s=100.0))
    world.running(7, "n1")
    world.job(7, "COMPLETED", "n1")
    world.node("n1", "IDLE", "CLOUD")
    found(world, "drain")
    world.due()
    drained(world, state="IDLE")
    world.later(99)
    assert world.due() == []
    world.later(2)
    assert len(by(world.due(), PowerDownNode)) == 1


def test_it_is_kept_from_when_its_last_job_has_ended(world: Any) -> None:
    world.plan(health=Health(keep_sick_s=100.0))
    world.running(7, "n1")
    found(world, "drain")
    world.due()
    drained(world)
    world.later(3600)
    world.job(7, "COMPLETED", "n1")
    drained(world, state="IDLE")
    world.later(99)
    assert world.due() == []
    world.later(2)
    assert len(by(world.due(), PowerDownNode)) == 1


def test_a_slurmctld_that_forgot_drain_and_power_down_is_told_again(world: Any) -> None:
    world.running(7, "n1")
    found(world, "drain")
    world.job(7, "COMPLETED", "n1")
    for _ in range(2):
        world.node("n1", "IDLE", "CLOUD")
        assert [type(command) for command in world.due()] == [DrainNode]
        drained(world, state="IDLE")
        (down,) = world.due()
        assert isinstance(down, PowerDownNode)
        world.finish(down)
        world.later(11)


def test_a_machine_whose_end_is_ordered_is_condemned_no_more(world: Any) -> None:
    """No notice for it counts, so it would be condemned again and again."""
    world.running(7, "n1")
    world.apply(e.AgentRebooted(world.now, "i-n1", "another"))
    assert len(by(world.due(), TerminateInstance)) == 1
    found(world, "replace")
    assert by(world.due(), CondemnNode) == []


@pytest.mark.parametrize("how", ["the finding is gone", "the policy does not act any more"])
def test_our_drain_is_undone_when(world: Any, how: str) -> None:
    world.running(7, "n1")
    found(world, "drain")
    world.due()
    drained(world)
    world.later(60)
    if how == "the finding is gone":
        reported(world, "n1")
    else:
        world.plan(health=Health(act=False))
    drained(world)
    assert [type(command) for command in world.due()] == [UndrainNode]


@pytest.mark.parametrize(("state", "flags"), [("ALLOCATED", ("NOT_RESPONDING",)), ("DOWN", ())], ids=["does not answer", "down"])
def test_our_drain_is_not_undone_while_slurmd_is_silent(world: Any, state: str, flags: tuple[str, ...]) -> None:
    world.running(7, "n1")
    found(world, "drain")
    world.due()
    world.node("n1", state, "CLOUD", "DRAIN", *flags, reason="holdfast: health: xid-79")
    world.later(60)
    assert by(world.due(), UndrainNode) == []


def test_an_admins_own_drain_is_neither_undone_nor_a_ground_to_power_down(world: Any) -> None:
    world.running(7, "n1")
    world.job(7, "COMPLETED", "n1")
    found(world, "drain")
    drained(world, state="IDLE", reason="fan is loud")
    world.later(3600)
    drained(world, state="IDLE", reason="fan is loud")
    assert world.due() == []
    reported(world, "n1")
    world.later(60)
    assert world.due() == []


@pytest.mark.parametrize("action", ["evacuate", "replace"])
def test_a_condemned_machine_is_left_as_on_a_clouds_notice(world: Any, action: str) -> None:
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.registered(7, "n2")
    condemn = condemned(world, action)
    notice = condemn.notice
    assert notice is not None
    assert (notice.kind, notice.deadline - notice.received) == (NoticeKind.HEALTH, 600.0)
    due = world.due()
    assert by(due, CondemnNode) == [], "once"
    assert {command.node for command in by(due, PrepareJobs)} == {"n1", "n2"}, "its own agent did not bring the notice"
    assert len(by(due, PowerUpNode)) == 1
    drained(world)
    assert by(world.due(), RequeueJob) == [], "it saves first"
    world.parked(7, "n1", notice)
    world.parked(7, "n2", notice)
    assert len(by(world.due(), RequeueJob)) == 1
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", restarts=1)
    world.apply(e.JobLeftNode(world.now, "n1", 7, 0), e.JobLeftNode(world.now, "n2", 7, 0))
    (down,) = by(world.due(), PowerDownNode)
    assert (down.node, down.instance_id) == ("n1", "i-n1")


def test_a_second_finding_condemns_no_machine_twice(world: Any) -> None:
    world.running(7, "n1")
    condemned(world)
    world.later(60)
    first = Finding("xid-79", Action.EVACUATE, world.now, GPU)
    reported(world, "n1", first, Finding("ecc", Action.EVACUATE, world.now, GPU))
    assert by(world.due(), CondemnNode) == []


def test_a_condemnation_under_way_is_not_made_twice(world: Any) -> None:
    world.running(7, "n1")
    found(world, "evacuate")
    assert len(by(world.due(), CondemnNode)) == 1
    world.later(1)
    found(world, "evacuate", rule="another")
    assert by(world.due(), CondemnNode) == []


def empty_and_condemned(world: Any, action: str) -> None:
    world.running(7, "n1")
    world.job(7, "COMPLETED", "n1")
    condemned(world, action)
    world.due()
    drained(world, state="IDLE")


def test_a_condemnation_that_the_controllers_end_interrupted_gives_jobs_all_their_time(world: Any) -> None:
    """A new controller calls what may be repeated failed, and judges anew (`Reactor.run`)."""
    world.running(7, "n1")
    found(world, "evacuate")
    (first,) = by(world.due(), CondemnNode)
    world.later(3600)
    number = world.fleet.commands[first.key].command_id
    world.apply(e.CommandFinished(world.now, number, first.key, "failed", "interrupted by the controller's end", 0.0))
    (again,) = by(world.due(), CondemnNode)
    assert again.notice.id == first.notice.id, "jobs may have been told of it"
    assert again.notice.deadline == world.now + 600


def test_an_evacuated_machine_is_kept_and_its_jobs_have_only_their_own_time(world: Any) -> None:
    world.plan(health=Health(evacuate_s=50.0, keep_sick_s=1000.0))
    world.running(7, "n1")
    world.registered(7, "n1")
    condemned(world)
    world.due()
    drained(world)
    assert by(world.due(), RequeueJob) == []
    world.later(49)
    assert len(by(world.due(), RequeueJob)) == 1
    world.job(7, "PENDING", restarts=1)
    world.apply(e.JobLeftNode(world.now, "n1", 7, 0))
    drained(world, state="IDLE")
    world.later(900)
    assert by(world.due(), PowerDownNode) == []
    world.later(60)
    assert len(by(world.due(), PowerDownNode)) == 1


def test_slurm_is_not_asked_every_second_for_a_machine_that_is_kept(world: Any) -> None:
    world.plan(health=Health(evacuate_s=50.0, keep_sick_s=1000.0))
    empty_and_condemned(world, "evacuate")
    assert world.fleet.busy()
    world.later(800)
    assert not world.fleet.busy()
    assert "is kept for 200 s more, to be looked at" in node_sentence(world.fleet, world.plans, world.fleet.nodes["n1"], world.now)
    world.later(150)
    assert world.fleet.busy(), "it goes within the minute"


def test_replace_keeps_no_machine_even_if_it_comes_later(world: Any) -> None:
    world.plan(health=Health(keep_sick_s=1000.0))
    empty_and_condemned(world, "evacuate")
    assert by(world.due(), PowerDownNode) == []
    world.later(20)
    found(world, "replace")
    due = world.due()
    assert len(by(due, CondemnNode)) == 1
    carry_out(world, due)
    assert len(by(world.due(), PowerDownNode)) == 1
    assert len(world.fleet.nodes["n1"].notices) == 1


def test_replace_is_not_kept(world: Any) -> None:
    world.plan(health=Health(keep_sick_s=1000.0))
    empty_and_condemned(world, "replace")
    assert len(by(world.due(), PowerDownNode)) == 1


@pytest.mark.parametrize("how", ["resolved", "milder", "not acted on", "a dry run"])
def test_it_is_pardoned_when_no_rule_asks_for_it_any_more(world: Any, how: str) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    condemn = condemned(world)
    for command in world.due():
        world.finish(command)
    drained(world)
    if how == "not acted on":
        world.plan(health=Health(act=False))
    elif how == "resolved":
        reported(world, "n1")
    else:
        found(world, "note" if how == "milder" else "evacuate", dry_run=how == "a dry run")
    due = world.due()
    (pardon,) = by(due, PardonNode)
    assert condemn.notice is not None
    assert pardon.notice_id == condemn.notice.id
    carry_out(world, due)
    assert world.fleet.nodes["n1"].doom is None
    back = by(world.due(), PrepareJobs)
    assert [command.cancelled for command in back] == [True], "the job may train on"
    world.later(60)
    drained(world)
    assert len(by(world.due(), UndrainNode)) == 1


def test_what_comes_back_after_a_pardon_is_a_new_notice(world: Any) -> None:
    world.running(7, "n1")
    first = condemned(world)
    reported(world, "n1")
    carry_out(world, world.due())
    world.later(30)
    again = condemned(world)
    assert first.notice is not None
    assert again.notice is not None
    assert again.notice.id != first.notice.id
    assert len(by(world.due(), PrepareJobs)) == 1, "the job is told of it"


def test_a_notice_of_the_cloud_or_of_an_admin_is_not_pardoned(world: Any) -> None:
    world.running(7, "n1")
    reported(world, "n1")
    notice = world.notice("n1")
    world.apply(e.NoticeReceived(world.now, "n1", replace(notice, id="by hand", kind=NoticeKind.HEALTH), "admin"))
    assert by(world.due(), PardonNode) == []


def test_a_machine_whose_agent_has_said_nothing_in_this_life_is_not_pardoned(world: Any) -> None:
    world.running(7, "n1")
    condemned(world)
    world.fleet.nodes["n1"].findings = ()
    world.fleet.nodes["n1"].health_heard = 0.0
    assert by(world.due(), PardonNode) == []


def test_a_silent_agent_takes_nothing_back(world: Any) -> None:
    world.running(7, "n1")
    found(world, "drain")
    world.due()
    drained(world)
    world.apply(e.AgentLost(world.now, "i-n1"))
    world.later(3600)
    drained(world)
    assert by(world.due(), UndrainNode) == []
    assert world.fleet.nodes["n1"].findings


def test_another_machines_word_says_nothing(world: Any) -> None:
    world.running(7, "n1")
    found(world, "replace", instance="i-stranger")
    assert world.fleet.nodes["n1"].findings == ()
    assert world.due() == []


def test_findings_end_with_the_machine(world: Any) -> None:
    world.running(7, "n1")
    found(world, "drain")
    world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN")
    world.apply(e.InstanceChanged(world.now, replace(world.fleet.instances["i-n1"].instance, state="gone")))
    node = world.fleet.nodes["n1"]
    assert (node.findings, node.health_heard, node.instance_id) == ((), 0.0, "")


def test_an_agent_that_reports_before_slurm_was_looked_at_waits_for_that(world: Any) -> None:
    """After a restart the fleet is the journal's; a node that Slurm has not been asked for is neither drained nor given up."""
    world.running(7, "n1")
    world.fleet.nodes["n1"].view = None
    found(world, "drain")
    assert world.due() == []
    world.node("n1", "ALLOCATED", "CLOUD")
    assert [type(command) for command in world.due()] == [DrainNode]


def test_the_end_of_a_condemned_machine_is_no_reclaim_and_no_refusal(world: Any) -> None:
    empty_and_condemned(world, "replace")
    (down,) = by(world.due(), PowerDownNode)
    world.finish(down)
    world.node("n1", "IDLE", "CLOUD", "POWERING_DOWN")
    (end,) = by(world.due(), TerminateInstance)
    world.finish(end)
    instance = world.fleet.instances["i-n1"].instance
    world.apply(e.InstanceChanged(world.now, Instance("i-n1", instance.launch_id, instance.pool, "gone")))
    memory = world.fleet.pools[world.pools[0].name]
    assert (memory.refusals, memory.reclaims) == (0, 0.0)
