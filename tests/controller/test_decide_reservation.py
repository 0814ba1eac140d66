"""Nodes are kept for a job that must leave, where others wait for nodes, and let go of when it has some."""

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import PowerUpNode, RequeueJob, ReserveNodes, UnreserveNodes


def by_kind(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


@pytest.fixture
def leaving(world):
    """A job on two nodes, of which one goes away, and another job that waits."""
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.job(8, "PENDING")
    world.doom = world.notice("n1")
    return world


def test_survivors_and_the_ordered_replacement_are_kept(leaving) -> None:
    world = leaving
    first = world.due()
    (keep,) = by_kind(first, ReserveNodes)
    assert (keep.job_id, keep.attempt, keep.nodes) == (7, 0, ("n1", "n2"))
    (buy,) = by_kind(first, PowerUpNode)
    (more,) = by_kind(world.due(), ReserveNodes)
    assert more.nodes == ("n1", "n2", buy.node), "the node that is being bought is the job's, too"
    for command in (*first, more):
        world.finish(command)
    assert by_kind(world.due(), ReserveNodes) == []


@pytest.mark.parametrize(
    "rival",
    [
        {"partition": "other"},
        {"priority": 0},
        {"reason": "Dependency"},
        {"eligible_time": 1_700_009_000.0},
        {"state": "RUNNING"},
    ],
    ids=str,
)
def test_where_nobody_would_take_the_nodes_none_are_kept(world, rival) -> None:
    world.running(7, "n1", "n2")
    world.job(8, rival.pop("state", "PENDING"), **rival)
    world.notice("n1")
    assert by_kind(world.due(), ReserveNodes) == []


@pytest.mark.parametrize("own", [{"requeue": False}, {"batch": False}, {"het_job_id": 7}, {"reservation": "maintenance"}], ids=str)
def test_a_job_that_is_not_requeued_or_has_a_reservation_of_its_own_keeps_none(world, own) -> None:
    world.running(7, "n1", "n2")
    world.job(7, "RUNNING", "n1", "n2", **own)
    world.job(8, "PENDING")
    world.notice("n1")
    assert by_kind(world.due(), ReserveNodes) == []


def test_the_policy_can_forbid_it(leaving) -> None:
    leaving.plan(keep_nodes_s=0.0)
    assert by_kind(leaving.due(), ReserveNodes) == []


def test_the_requeue_comes_after_the_reservation(leaving) -> None:
    world = leaving
    world.parked(7, "n1", world.doom)
    first = world.due()
    (keep,) = by_kind(first, ReserveNodes)
    assert by_kind(first, RequeueJob) == []
    for command in [*by_kind(world.due(), ReserveNodes), keep]:
        world.finish(command)
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert requeue.attempt == 0


@pytest.mark.parametrize("outcome", ["refused", "failed twice", "moot", None])
def test_a_reservation_that_cannot_be_had_holds_nothing_up(leaving, outcome) -> None:
    world = leaving
    world.parked(7, "n1", world.doom)
    for _ in range(2):
        for command in by_kind(world.due(), ReserveNodes):
            if outcome is not None:
                world.finish(command, outcome.split()[0])
    if outcome is None:
        world.later(1.1)  # slurmctld does not answer
    elif outcome == "failed twice":
        assert by_kind(world.due(), RequeueJob) == []
        world.later(1.1)
        for command in by_kind(world.due(), ReserveNodes):
            world.finish(command, "failed")
    assert len(by_kind(world.due(), RequeueJob)) == 1


@pytest.mark.parametrize("outcome", ["failed", "moot", "ok"])
def test_a_reservation_that_was_half_made_is_ended(leaving, outcome) -> None:
    """It is there, say, and the job was requeued before it could be told to use it."""
    world = leaving
    (keep,) = by_kind(world.due(), ReserveNodes)
    world.job(7, "PENDING", "n1", "n2", completing=True, restarts=1)
    assert by_kind(world.due(), UnreserveNodes) == []
    world.job(7, "PENDING", restarts=1)
    assert by_kind(world.due(), UnreserveNodes) == [], "it may be on its way to use it"
    world.finish(keep, outcome)
    for _ in range(2):
        (end,) = by_kind(world.due(), UnreserveNodes)
        world.finish(end, "failed")  # the job was taken out of it, and no answer came to the rest
        world.later(5)
    (end,) = by_kind(world.due(), UnreserveNodes)
    world.finish(end)
    world.later(60)
    assert by_kind(world.due(), UnreserveNodes) == []


def test_it_can_be_let_go_more_than_once_in_an_attempt(leaving) -> None:
    world = leaving
    for _ in range(2):
        world.job(7, "RUNNING", "n1", "n2", reservation="holdfast-7")
        assert by_kind(world.due(), UnreserveNodes) == []
        world.apply(e.NoticeWithdrawn(world.now, "n1", world.doom.id))
        (end,) = by_kind(world.due(), UnreserveNodes)
        world.finish(end)
        world.job(7, "RUNNING", "n1", "n2")
        assert by_kind(world.due(), UnreserveNodes) == []
        world.later(60)
        world.doom = world.notice("n1")


def test_it_ends_when_the_job_has_nodes_again(leaving) -> None:
    world = leaving
    kept = {"reservation": "holdfast-7", "restarts": 1, "submit_time": world.now}
    world.job(7, "PENDING", "n1", "n2", completing=True, **kept)
    assert by_kind(world.due(), UnreserveNodes) == []
    world.job(7, "PENDING", **kept)
    assert by_kind(world.due(), UnreserveNodes) == []
    world.job(7, "CONFIGURING", "n2", "n3", **kept)
    assert by_kind(world.due(), UnreserveNodes) == []
    world.job(7, "RUNNING", "n2", "n3", **kept)
    (end,) = by_kind(world.due(), UnreserveNodes)
    assert (end.job, end.job_id) == ("7", 7)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "PENDING", "priority": 0}, "is held"),
        ({"state": "PENDING", "later_s": 301.0}, "others' now"),
        ({"state": "RUNNING"}, "has its nodes"),
    ],
    ids=["held", "too long", "the notice was withdrawn, or the journal lost"],
)
def test_it_ends_when_it_serves_nothing(world, changes, why) -> None:
    world.running(7, "n1")
    began = world.now
    world.later(changes.pop("later_s", 0.0))
    nodes = ("n1",) if changes["state"] == "RUNNING" else ()
    world.job(7, changes.pop("state"), *nodes, reservation="holdfast-7", submit_time=began, **changes)
    (end,) = by_kind(world.due(), UnreserveNodes)
    assert why in end.reason


def test_it_ends_with_the_job(leaving) -> None:
    world = leaving
    for command in by_kind(world.due(), ReserveNodes):
        world.finish(command)
    world.job(7, "COMPLETED", reservation="holdfast-7")
    (end,) = by_kind(world.due(), UnreserveNodes)
    world.finish(end)
    world.later(60)
    assert by_kind(world.due(), UnreserveNodes) == [], "Slurm shows it for as long as it remembers the job"


def test_a_rival_may_ask_for_one_of_several_partitions(world) -> None:
    world.running(7, "n1", "n2")
    world.job(8, "PENDING", partition="spot,other")
    world.notice("n1")
    assert len(by_kind(world.due(), ReserveNodes)) == 1


def test_somebody_elses_reservation_is_left_alone(world) -> None:
    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", reservation="holdfast-8")
    assert by_kind(world.due(), UnreserveNodes) == []


def test_a_node_that_is_kept_for_another_job_is_no_spare(world) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    world.job(8, "COMPLETED")
    world.node("n2", "IDLE", "CLOUD", "RESERVED")
    world.notice("n1")
    assert len(by_kind(world.due(), PowerUpNode)) == 1
