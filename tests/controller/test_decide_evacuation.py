"""Evacuation: told at once, drained, requeued when safe (or at the last moment), powered down when empty."""

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import DrainNode, PowerDownNode, PowerUpNode, PrepareJobs, RequeueJob, SetNodeDown, StartJob
from holdfast_controller.providers.base import Instance


def by_kind(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


def test_the_whole_sequence_of_a_two_node_job(world, kinds) -> None:
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.registered(7, "n2")
    notice = world.notice("n1")
    first = world.due()
    assert kinds(first) == ["DrainNode", "PrepareJobs", "PowerUpNode"]
    (prepare,) = by_kind(first, PrepareJobs)
    assert (prepare.node, prepare.notice.id) == ("n2", notice.id), "the survivor's agent is told; n1's brought it"
    (buy,) = by_kind(first, PowerUpNode)
    assert buy.node == "n3"
    for command in first:
        world.finish(command)
    world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt")
    world.parked(7, "n1", notice)
    (launch,) = world.due()
    assert launch.nodes == ("n3",), "bought at once, and not when slurmctld calls ResumeProgram"
    world.apply(e.NodesRequested(world.now, ("n3",)))
    assert world.due() == [], "it is under way, and one rank has not parked"
    world.parked(7, "n2", notice)
    (requeue,) = world.due()
    assert isinstance(requeue, RequeueJob)
    assert "step 7" in requeue.reason
    world.finish(requeue)
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", "n1", "n2", completing=True, restarts=1, eligible_time=world.now + 121)
    assert world.due() == []
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 121)
    world.apply(e.JobLeftNode(world.now, "n1", 7, 0), e.JobLeftNode(world.now, "n2", 7, 0))
    last = world.due()
    (start,) = by_kind(last, StartJob)
    assert start.delay_s == 1, "a survivor is used again: never within the same second"
    (down,) = by_kind(last, PowerDownNode)
    assert (down.node, down.instance_id) == ("n1", "i-n1")


def test_a_requeue_waits_for_the_drain_as_long_as_there_is_time(world) -> None:
    """Else the job would be started on the doomed node again."""
    world.drains = False
    world.running(7, "n1")
    world.registered(7, "n1")
    notice = world.notice("n1", window_s=30)
    (drain,) = by_kind(world.due(), DrainNode)
    world.parked(7, "n1", notice)
    world.finish(drain, "failed")
    assert by_kind(world.due(), RequeueJob) == [], "scontrol failed for the drain"
    world.later(29)
    assert len(by_kind(world.due(), RequeueJob)) == 1, "better on a node that goes than with it"


@pytest.mark.parametrize("by", ["our own command", "the next look"])
def test_a_drain_that_holds_lets_the_requeue_follow(world, by: str) -> None:
    world.drains = False
    world.running(7, "n1")
    world.registered(7, "n1")
    notice = world.notice("n1")
    (drain,) = by_kind(world.due(), DrainNode)
    world.parked(7, "n1", notice)
    if by == "our own command":
        world.finish(drain)
    else:
        world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="somebody else's")
    assert len(by_kind(world.due(), RequeueJob)) == 1


def test_a_drain_that_slurmctld_has_forgotten_is_done_again_before_the_requeue(world) -> None:
    """It was killed before it had saved it."""
    world.running(7, "n1")
    world.registered(7, "n1")
    notice = world.notice("n1")
    world.due()
    world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt")
    world.later(1)
    world.node("n1", "ALLOCATED", "CLOUD")
    world.parked(7, "n1", notice)
    world.drains = False
    due = world.due()
    (drain,) = by_kind(due, DrainNode)
    assert by_kind(due, RequeueJob) == []
    world.finish(drain)
    assert len(by_kind(world.due(), RequeueJob)) == 1


def test_a_single_node_job_starts_at_once(world) -> None:
    world.running(7, "n1")
    notice = world.notice("n1")
    world.due()
    world.parked(7, "n1", notice)
    world.due()
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 121)
    (start,) = by_kind(world.due(), StartJob)
    assert start.delay_s == 0


def test_a_job_that_says_nothing_is_requeued_in_time_for_kill_wait(world) -> None:
    world.running(7, "n1")
    notice = world.notice("n1", window_s=30)
    world.due()
    world.later(22.5)
    assert by_kind(world.due(), RequeueJob) == []
    world.later(1)
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert notice.deadline - world.now < 7
    assert "has not said that it is safe" in requeue.reason


def test_an_idle_node_makes_no_replacement_needed(world) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    world.job(8, "COMPLETED")
    world.node("n2", "IDLE", "CLOUD")
    world.notice("n1")
    assert by_kind(world.due(), PowerUpNode) == []


def test_a_dead_machine_is_requeued_then_powered_down(world, kinds) -> None:
    world.running(7, "n1")
    launch = next(iter(world.fleet.launches))
    world.apply(e.InstanceChanged(world.now, Instance("i-n1", launch, world.pools[0].name, "gone", reclaimed=True)))
    commands = world.due()
    assert "RequeueJob" in kinds(commands)
    assert "PowerDownNode" not in kinds(commands), "requeue first"
    assert "PowerUpNode" in kinds(commands), "what Slurm picks is served by it: a second or two ahead"
    world.job(7, "PENDING", "n1", completing=True, restarts=1)
    (down,) = by_kind(world.due(), PowerDownNode)
    world.node("n1", "ALLOCATED", "CLOUD", "POWERING_DOWN", "COMPLETING")
    world.finish(down)
    assert by_kind(world.due(), SetNodeDown) == []
    world.later(4)
    assert kinds(by_kind(world.due(), SetNodeDown)) == ["SetNodeDown"]


def test_a_job_that_completed_is_not_run_again(world) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    world.notice("n1")
    world.due()
    world.job(7, "COMPLETED")
    world.apply(e.JobLeftNode(world.now, "n1", 7, 0))
    commands = world.due()
    assert by_kind(commands, RequeueJob) == []
    assert by_kind(commands, PowerDownNode) == [], "until Slurm shows the drain, a job may slip in"
    world.node("n1", "IDLE", "CLOUD", "DRAIN", reason="holdfast: preempt")
    (power_down,) = by_kind(world.due(), PowerDownNode)
    assert power_down.if_empty
    world.finish(power_down, "failed")
    assert world.fleet.nodes["n1"].power_down_at is None, "a job was on it after all"
    world.later(120)
    (power_down,) = by_kind(world.due(), PowerDownNode)
    assert not power_down.if_empty, "the deadline has passed"


def test_a_job_that_stopped_on_the_notice_is_requeued_on_its_word(world) -> None:
    world.running(7, "n1")
    notice = world.notice("n1")
    world.due()
    world.apply(e.JobReported(world.now, "n1", 7, 0, "done", 0, notice.id, 9, False, True))
    world.job(7, "COMPLETED")
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert requeue.ended


def test_salloc_is_told_and_lost_only_with_its_node(world) -> None:
    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", batch=False)
    notice = world.notice("n1", source="cloud")
    commands = world.due()
    assert by_kind(commands, PrepareJobs) != []
    assert by_kind(commands, PowerUpNode) == []
    world.later(119)
    assert by_kind(world.due(), PowerDownNode) == []
    world.later(2)
    assert world.now > notice.deadline
    assert by_kind(world.due(), PowerDownNode) != []


def test_a_withdrawn_notice_lets_the_job_go_on_and_undoes_only_our_drain(world, kinds) -> None:
    world.running(7, "n1")
    notice = world.notice("n1")
    for command in world.due():
        world.finish(command)
    world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt")
    world.apply(e.NoticeWithdrawn(world.now, "n1", notice.id))
    assert by_kind(world.due(), DrainNode) == []
    world.later(6)
    world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt")  # Slurm is looked at all the time
    assert kinds(world.due()) == ["UndrainNode"]
    world.running(8, "n3")
    world.node("n3", "ALLOCATED", "CLOUD", "DRAIN", reason="disk is full")
    world.later(60)
    assert [command for command in world.due() if getattr(command, "node", "") == "n3"] == []


def test_a_withdrawn_notice_is_taken_back_from_the_jobs_other_nodes(world) -> None:
    world.running(7, "n1", "n2")
    notice = world.notice("n1")
    told = by_kind(world.due(), PrepareJobs)
    assert [(command.node, command.cancelled) for command in told] == [("n2", False)]
    world.apply(e.NoticeWithdrawn(world.now, "n1", notice.id))
    back = by_kind(world.due(), PrepareJobs)
    assert [(command.node, command.cancelled, command.notice) for command in back] == [("n2", True, notice)]


@pytest.mark.parametrize("told", ["by Slurm first", "by the requeue first", "by Slurm only: the node's agent had lost patience with us"])
def test_an_interruption_is_counted_once(world, told: str) -> None:
    world.running(7, "n1")
    world.notice("n1")
    world.due()
    ours = e.JobRequeued(world.now, 7, 0)
    if told == "by the requeue first":
        world.apply(ours)
    world.job(7, "PENDING", restarts=1)
    if told == "by Slurm first":
        world.apply(ours)
    assert world.fleet.jobs[7].interruptions == 1


def test_advice_never_drains(world) -> None:
    from holdfast_common.notice import Notice, NoticeKind

    world.running(7, "n1")
    advice = Notice("a", NoticeKind.ADVISE, world.now + 600, world.now, "rebalance")
    world.apply(e.NoticeReceived(world.now, "n1", advice))
    assert world.due() == []


def test_the_same_notice_twice_does_nothing_twice(world) -> None:
    world.running(7, "n1")
    world.notice("n1")
    assert world.due() != []
    world.notice("n1")
    assert world.due() == []


def test_a_job_that_is_ending_is_judged_when_it_has_ended(world) -> None:
    world.running(7, "n1")
    world.notice("n1", window_s=10)
    world.due()
    world.job(7, "COMPLETED", "n1", completing=True)
    world.later(9)
    assert by_kind(world.due(), RequeueJob) == []
    launch = next(iter(world.fleet.launches))
    world.apply(e.InstanceChanged(world.now, Instance("i-n1", launch, world.pools[0].name, "gone")))
    assert by_kind(world.due(), PowerDownNode) != [], "on a dead node it completes only by that"


def test_jobs_that_share_a_node_have_one_bought_in_its_place(world) -> None:
    world.running(7, "n1")
    for job_id in (8, 9):
        world.job(job_id, "RUNNING", "n1")
    world.notice("n1")
    (buy,) = by_kind(world.due(), PowerUpNode)
    assert buy.for_job == 7
    world.finish(buy)
    world.job(7, "RUNNING", buy.node, restarts=1)
    world.node(buy.node, "MIXED", "CLOUD")
    assert by_kind(world.due(), PowerUpNode) == [], "they follow the first one to its node"


def test_a_place_that_has_its_node_takes_none_from_another_job(world) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    world.notice("n1")
    (first,) = by_kind(world.due(), PowerUpNode)
    world.finish(first)
    world.due()
    world.notice("n2")
    (second,) = by_kind(world.due(), PowerUpNode)
    assert {first.node, second.node} == {"n3", "n4"}


def test_a_replacement_that_has_booted_is_no_spare_of_another_job(world) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    world.notice("n2")
    (bought,) = by_kind(world.due(), PowerUpNode)
    world.finish(bought)
    world.later(1)
    world.node(bought.node, "IDLE", "CLOUD")
    world.notice("n1")
    assert len(by_kind(world.due(), PowerUpNode)) == 1


def test_a_maintenance_that_was_known_for_days_reaches_jobs_that_began_since(world) -> None:
    """Agents tell those attempts only that had begun when the notice was received."""
    from holdfast_common.notice import Notice, NoticeKind

    early = Notice("works", NoticeKind.MAINTENANCE, world.now + 86400, world.now, "host maintenance")
    world.running(7, "n1", "n2")
    world.apply(e.NoticeReceived(world.now, "n1", early))
    assert by_kind(world.due(), PrepareJobs) == []
    world.later(86400 - 200)
    began = world.now
    world.apply(e.Ticked(world.now))
    (prepare,) = by_kind(world.due(), PrepareJobs)
    assert (prepare.node, prepare.notice.id) == ("n2", "works")
    assert prepare.notice.received >= began - 1


def test_a_job_that_ended_on_our_signal_and_that_slurm_lists_without_nodes_harms_nobody(world) -> None:
    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", comment="holdfast: signal=USR1 exit_code=85")
    world.notice("n1")
    world.due()
    world.apply(e.NoticeWithdrawn(world.now, "n1", "notice-n1"))
    world.job(7, "FAILED", exit_code=85, comment="holdfast: signal=USR1 exit_code=85")
    world.due()


def test_where_the_one_that_it_would_be_bought_for_has_ended_the_next_gets_it(world) -> None:
    world.running(7, "n1")
    world.job(8, "RUNNING", "n1")
    for name in ("n2", "n3", "n4"):
        world.node(name, "IDLE", "CLOUD", "POWERED_DOWN", "DRAIN")
    world.notice("n1")
    assert by_kind(world.due(), PowerUpNode) == [], "there is no name to be had"
    world.job(7, "COMPLETED")
    world.node("n3", "IDLE", "CLOUD", "POWERED_DOWN")
    (buy,) = by_kind(world.due(), PowerUpNode)
    assert buy.for_job == 8


def het(world, states: tuple[str, str] = ("RUNNING", "RUNNING"), **more) -> None:
    """The two components of a heterogeneous job, on a node each."""
    for part, (state, node) in enumerate(zip(states, ("n1", "n2"), strict=True)):
        world.job(7 + part, state, *([node] if state != "PENDING" else []), key="7", het_job_id=7, **more)


def test_a_heterogeneous_job_is_told_and_leaves_as_a_whole(world) -> None:
    world.running(7, "n1", "n2")
    het(world)
    world.registered(7, "n1")
    notice = world.notice("n2")
    due = world.due()
    assert [(command.node, command.job_ids) for command in by_kind(due, PrepareJobs)] == [("n1", (7,))], "n2's agent brought the notice"
    assert len(by_kind(due, PowerUpNode)) == 1
    assert by_kind(world.due(), PrepareJobs) == [], "and that is not taken back"
    world.parked(7, "n1", notice)
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert requeue.job == "7"
    world.finish(requeue)
    world.apply(e.JobRequeued(world.now, 7, 0))
    het(world, ("PENDING", "PENDING"), restarts=1, eligible_time=world.now + 121)
    (start,) = by_kind(world.due(), StartJob)
    assert (start.job, start.delay_s) == ("7", 1)
    assert [world.fleet.jobs[job_id].interruptions for job_id in (7, 8)] == [1, 1]


def test_a_withdrawn_notice_lets_all_of_a_heterogeneous_job_go_on(world) -> None:
    world.running(7, "n1", "n2")
    het(world)
    world.registered(7, "n1")
    notice = world.notice("n2")
    for command in world.due():
        world.finish(command)
    world.apply(e.NoticeWithdrawn(world.now, "n2", notice.id))
    assert [world.fleet.jobs[job_id].evacuation for job_id in (7, 8)] == [None, None]
    (untold,) = by_kind(world.due(), PrepareJobs)
    assert untold.cancelled
