"""Nodes are kept for a job that must leave, where others wait for nodes, and let go of when it has some."""

import pytest
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


@pytest.mark.parametrize("outcome", ["refused", "failed", "moot", None])
def test_a_reservation_that_cannot_be_had_holds_nothing_up(leaving, outcome) -> None:
    world = leaving
    world.parked(7, "n1", world.doom)
    for _ in range(2):
        for command in by_kind(world.due(), ReserveNodes):
            if outcome is not None:
                world.finish(command, outcome)
    if outcome is None:
        world.later(1.1)  # slurmctld does not answer
    assert len(by_kind(world.due(), RequeueJob)) == 1


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
        ({"state": "COMPLETED"}, "has ended"),
        ({"state": "PENDING", "priority": 0}, "is held"),
        ({"state": "PENDING", "later_s": 301.0}, "others' now"),
        ({"state": "RUNNING"}, "has its nodes"),
    ],
    ids=["ended", "held", "too long", "the notice was withdrawn, or the journal lost"],
)
def test_it_ends_when_it_serves_nothing(world, changes, why) -> None:
    world.running(7, "n1")
    began = world.now
    world.later(changes.pop("later_s", 0.0))
    nodes = ("n1",) if changes["state"] == "RUNNING" else ()
    world.job(7, changes.pop("state"), *nodes, reservation="holdfast-7", submit_time=began, **changes)
    (end,) = by_kind(world.due(), UnreserveNodes)
    assert why in end.reason


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
