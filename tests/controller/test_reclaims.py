"""What the cloud says of an interruption: said after the agent has had its time, once, and taken back when the cloud does."""

from typing import Any

from holdfast_common.notice import Notice
from holdfast_controller import events as e
from holdfast_controller.commands import RequeueJob
from holdfast_controller.providers.base import Reclaim
from holdfast_controller.reclaims import AGENT_FIRST_S, OVER_LOOKS, OVER_S, Sighting, reclaim_news


def said(world: Any, marked_s: float, *instances: str, over: tuple[str, ...] = ()) -> list[e.Event]:
    reclaims = {iid: Reclaim(iid, world.now + 100, "marked") for iid in instances}
    news = reclaim_news(world.fleet, reclaims, dict.fromkeys(instances, marked_s), set(over), world.now)
    world.apply(*news)
    return news


def test_a_mark_is_gone_when_several_whole_answers_over_some_time_say_so() -> None:
    sighting = Sighting(0.0)
    sighting.missed(100.0)
    sighting.missed(100.0 + OVER_S)
    assert not sighting.is_over(100.0 + OVER_S), "twice"
    sighting.missed(100.0 + OVER_S)
    assert sighting.is_over(100.0 + OVER_S)
    sighting.seen()
    for _ in range(OVER_LOOKS):
        sighting.missed(200.0)
    assert not sighting.is_over(200.0 + OVER_S - 0.1), "in no time"
    assert sighting.is_over(200.0 + OVER_S)


def requeues(world: Any) -> list[int]:
    return [command.job_id for command in world.due() if isinstance(command, RequeueJob)]


def test_the_agent_is_first(world: Any) -> None:
    world.running(7, "n1")
    assert said(world, 0.0, "i-n1") == []
    assert said(world, AGENT_FIRST_S - 0.1, "i-n1") == []
    world.notice("n1")
    assert said(world, AGENT_FIRST_S + 1, "i-n1") == [], "one notice for one end"


def test_the_cloud_is_believed_where_no_agent_says_it_and_says_it_once(world: Any) -> None:
    world.running(7, "n1")
    (event,) = said(world, AGENT_FIRST_S, "i-n1")
    assert isinstance(event, e.NoticeReceived)
    assert (event.node, event.source, event.notice is not None and event.notice.deadline) == ("n1", "cloud", world.now + 100)
    assert said(world, AGENT_FIRST_S, "i-n1") == []
    doom = world.fleet.nodes["n1"].doom
    assert doom is not None
    assert doom.source == "cloud"


def test_instances_that_are_not_ours_or_no_node_yet_are_nobodys_business(world: Any) -> None:
    world.want(7, "n1")
    assert said(world, AGENT_FIRST_S, "i-else") == []


def test_a_reclaim_that_the_cloud_lists_no_longer_is_withdrawn_unless_the_node_was_given_up(world: Any) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    assert len(said(world, AGENT_FIRST_S, "i-n1", "i-n2")) == 2
    world.node("n2", "IDLE", "CLOUD", "POWERING_DOWN")
    assert said(world, 0.0) == [], "one answer proves nothing"
    (event,) = said(world, 0.0, over=("i-n1", "i-n2"))
    assert isinstance(event, e.NoticeWithdrawn)
    assert event.node == "n1"
    assert world.fleet.nodes["n1"].doom is None
    assert world.fleet.nodes["n2"].doom is not None


def test_processes_behind_a_dead_agent_are_not_waited_for(world: Any) -> None:
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.registered(7, "n2")
    world.apply(e.AgentLost(world.now, "i-n1"))
    (event,) = said(world, AGENT_FIRST_S, "i-n1")
    assert isinstance(event, e.NoticeReceived)
    assert isinstance(event.notice, Notice)
    assert requeues(world) == []
    world.parked(7, "n2", event.notice)
    assert requeues(world) == [7], "the ranks have agreed; the one on n1 cannot say so"


def test_a_live_agents_processes_are_waited_for_whoever_gave_notice(world: Any) -> None:
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.registered(7, "n2")
    (event,) = said(world, AGENT_FIRST_S, "i-n1")
    assert isinstance(event, e.NoticeReceived)
    world.parked(7, "n2", event.notice)
    assert requeues(world) == []


def test_a_requeue_that_nobody_told_of_is_an_interruption_if_the_node_went_away(world: Any) -> None:
    world.running(7, "n1")
    world.node("n1", "IDLE", "CLOUD", "DRAIN", reason="holdfast: preempt: the spot instance is taken back")
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 30, submit_time=world.now)
    assert world.fleet.jobs[7].interruptions == 1
    assert "StartJob" in [type(command).__name__ for command in world.due()], "Slurm's delay is cut short as after any other"
    world.node("n2", "ALLOCATED", "CLOUD")
    world.job(7, "RUNNING", "n2", restarts=1)
    world.job(7, "PENDING", restarts=2)
    assert world.fleet.jobs[7].interruptions == 1, "by hand"
    world.job(7, "RUNNING", "n2", restarts=2)
    world.node("n2", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt: the spot instance is taken back")
    world.job(7, "PENDING", restarts=3)
    evacuation = world.fleet.jobs[7].evacuation
    assert evacuation is not None
    assert (world.fleet.jobs[7].interruptions, evacuation.attempt) == (2, 2), "the job's first evacuation is not the last that counts"


def test_after_an_evacuation_that_was_told_of_the_next_is_counted_too(world: Any) -> None:
    world.running(7, "n1")
    world.notice("n1")
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", restarts=1)
    world.node("n2", "ALLOCATED", "CLOUD")
    world.job(7, "RUNNING", "n2", restarts=1)
    world.node("n2", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt: the spot instance is taken back")
    world.job(7, "PENDING", restarts=2)
    assert world.fleet.jobs[7].interruptions == 2


def test_a_requeue_by_hand_is_none(world: Any) -> None:
    world.running(7, "n1")
    world.job(7, "PENDING", restarts=1)
    assert (world.fleet.jobs[7].interruptions, world.fleet.jobs[7].evacuation) == (0, None)


def test_one_that_was_told_of_too_is_counted_once(world: Any) -> None:
    world.running(7, "n1")
    world.notice("n1")
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", restarts=1)
    assert world.fleet.jobs[7].interruptions == 1
