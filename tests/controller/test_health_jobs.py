"""Jobs on sick machines: those that crash there run again, those that could save nothing leave at once."""

from dataclasses import replace
from typing import Any

import pytest
from holdfast_common.health.model import Action, Finding
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import events as e
from holdfast_controller.commands import RequeueJob, SignalJob
from holdfast_controller.dooms import CRASH_S


def condemn(world: Any, node: str = "n1", window_s: float = 600.0) -> Notice:
    notice = Notice(f"health-{node}", NoticeKind.HEALTH, world.now + window_s, world.now, "xid-79")
    world.apply(e.NoticeReceived(world.now, node, notice, "health"))
    return notice


def requeues(world: Any) -> list[RequeueJob]:
    """The requeues that are due now, or once the drain holds."""
    return [command for command in (*world.due(), *world.due()) if isinstance(command, RequeueJob)]


def requeued(world: Any) -> list[str]:
    return [command.job for command in requeues(world)]


def fails(world: Any, job_id: int, *nodes: str, state: str = "FAILED", **more: Any) -> None:
    world.job(job_id, state, *nodes, **{"end_time": world.now, "exit_code": 1, **more})


@pytest.mark.parametrize("before_s", [0.0, 5.0, CRASH_S])
def test_a_job_that_crashed_just_before_the_finding_runs_again(world: Any, before_s: float) -> None:
    world.running(7, "n1", "n2")
    fails(world, 7, "n1", "n2")
    world.later(before_s)
    condemn(world)
    (command,) = requeues(world)
    assert command.ended, "`incomplete` would refuse it"
    assert "it failed on a sick machine" in command.reason


def test_one_that_crashes_after_the_finding_runs_again(world: Any) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    condemn(world)
    assert requeued(world) == [], "it saves"
    world.later(3)
    fails(world, 7, "n1")
    assert requeued(world) == ["7"]


def test_one_that_still_completes_runs_again_once_it_has_ended(world: Any) -> None:
    world.running(7, "n1")
    fails(world, 7, "n1", completing=True, end_time=world.now - 300)
    condemn(world)
    assert requeued(world) == []
    fails(world, 7, "n1")
    assert requeued(world) == ["7"]


def test_a_crash_of_its_second_attempt_counts_too(world: Any) -> None:
    """It had to leave another machine before."""
    world.running(7, "n1")
    world.notice("n1")
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", restarts=1)
    world.running(8, "n2")
    world.job(7, "RUNNING", "n2", restarts=1)
    fails(world, 7, "n2", restarts=1)
    condemn(world, "n2")
    assert "7" in requeued(world)


@pytest.mark.parametrize(
    ("state", "more"),
    [
        ("COMPLETED", {"exit_code": 0}),
        ("CANCELLED", {}),
        ("TIMEOUT", {}),
        ("FAILED", {"requeue": False}),
        ("FAILED", {"batch": False}),
    ],
    ids=["completed", "cancelled", "out of time", "--no-requeue", "salloc"],
)
@pytest.mark.parametrize("first", ["the end", "the finding"])
def test_what_ended_otherwise_does_not_run_again(world: Any, state: str, more: dict[str, Any], first: str) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    if first == "the finding":
        condemn(world)
        requeued(world)
    fails(world, 7, "n1", state=state, **more)
    if first == "the end":
        condemn(world)
    assert requeued(world) == []


@pytest.mark.parametrize("why", ["long before", "elsewhere", "a preemption"])
def test_a_failure_of_its_own_is_not_run_again(world: Any, why: str) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    fails(world, 7, "n1")
    world.later(CRASH_S + 1 if why == "long before" else 1)
    if why == "a preemption":
        world.notice("n1")
    else:
        condemn(world, "n2" if why == "elsewhere" else "n1")
    assert "7" not in requeued(world)


@pytest.mark.parametrize(("after_launch_s", "expected"), [(-1.0, []), (1.0, ["7"])])
def test_what_failed_on_the_names_machine_before_is_nothing_to_a_finding_on_its_new_one(
    world: Any, after_launch_s: float, expected: list[str]
) -> None:
    world.running(7, "n1")
    fails(world, 7, "n1")
    record = world.fleet.instances["i-n1"]
    record.instance = replace(record.instance, launched=world.now - after_launch_s)
    world.later(60)
    since_boot = Finding("ecc", Action.EVACUATE, world.now - 300.0, "GPU-1", "since long", "our own")
    world.apply(e.HealthReported(world.now, "n1", "i-n1", (since_boot,)))
    condemn(world)
    assert requeued(world) == expected


def test_tasks_of_an_array_are_judged_each_by_itself(world: Any) -> None:
    for job_id, node in ((11, "n1"), (12, "n2")):
        world.running(job_id, node)
        fails(world, job_id, node, key=f"10_{job_id}")
    condemn(world, "n1")
    assert requeued(world) == ["10_11"]


def test_a_heterogeneous_job_leaves_as_a_whole(world: Any) -> None:
    for job_id, node in ((20, "n1"), (21, "n2")):
        world.running(job_id, node)
        world.job(job_id, "RUNNING", node, het_job_id=20)
    condemn(world, "n2")
    assert world.fleet.jobs[20].evacuation is not None
    assert all(world.fleet.jobs[job_id].evacuation.sick for job_id in (20, 21))


def test_a_heterogeneous_job_that_crashed_runs_again_as_a_whole(world: Any) -> None:
    for job_id, node in ((20, "n1"), (21, "n2")):
        world.running(job_id, node)
        fails(world, job_id, node, het_job_id=20)
    condemn(world, "n2")
    assert all(world.fleet.jobs[job_id].evacuation.sick for job_id in (20, 21))


def test_a_job_that_registered_nothing_leaves_at_once_on_a_sick_machine_only(world: Any) -> None:
    world.running(7, "n1")
    world.running(8, "n2")
    condemn(world, "n1")
    world.notice("n2", window_s=600.0)
    (command,) = requeues(world)
    assert command.job == "7"
    assert "could save" in command.reason


def test_a_job_that_declared_a_signal_gets_it_and_its_time(world: Any) -> None:
    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", comment="holdfast: signal=USR1")
    condemn(world)
    due = [*world.due(), *world.due()]
    assert [command.signal for command in due if isinstance(command, SignalJob)] == ["USR1"]
    assert [command for command in due if isinstance(command, RequeueJob)] == []
    world.later(595)
    assert requeued(world) == ["7"]


def test_a_job_that_runs_again_elsewhere_and_fails_there_has_failed(world: Any) -> None:
    world.running(7, "n1")
    fails(world, 7, "n1")
    condemn(world)
    assert requeued(world) == ["7"]
    world.apply(e.JobRequeued(world.now, 7, 0))
    world.job(7, "PENDING", restarts=1)
    world.running(8, "n2")
    world.job(7, "RUNNING", "n2", restarts=1)
    fails(world, 7, "n2", restarts=1)
    world.later(1)
    assert "7" not in requeued(world)
