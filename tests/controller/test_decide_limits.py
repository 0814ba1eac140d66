"""Requeued jobs that are not started again, and those that Slurm itself leaves stuck."""

from holdfast_controller import events as e
from holdfast_controller.commands import HoldJob, ReleaseJob, SignalJob, StartJob, TellJob


def by_kind(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


def requeued(world, times: int = 1, **more) -> None:
    """Job 7, interrupted so often, waits after the last of it."""
    world.running(7, "n1")
    world.notice("n1")
    world.due()
    for attempt in range(times):
        world.apply(e.JobRequeued(world.now, 7, attempt, **more))
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 121)


def test_interrupted_too_often_it_is_held_and_told(world) -> None:
    world.plan(max_attempts=3)
    requeued(world, times=4)
    commands = world.due()
    (hold,) = by_kind(commands, HoldJob)
    assert "interrupted 4 times, and 3 are allowed" in hold.reason
    assert by_kind(commands, StartJob) == []


def test_as_often_as_allowed_it_goes_on(world) -> None:
    world.plan(max_attempts=3)
    requeued(world, times=3)
    assert by_kind(world.due(), HoldJob) == []


def test_a_job_may_narrow_the_limit(world) -> None:
    requeued(world, times=2)
    world.job(7, "PENDING", restarts=1, comment="holdfast: requeues=1", eligible_time=world.now + 121)
    assert by_kind(world.due(), HoldJob) != []


def test_attempts_that_never_began_count_against_no_limit(world) -> None:
    world.plan(max_attempts=1)
    requeued(world, times=5, began=False)
    assert by_kind(world.due(), HoldJob) == []


def test_a_job_that_ends_within_seconds_each_time_is_held(world) -> None:
    world.plan(crash_loop_s=30.0, crash_loop_count=3)
    requeued(world, times=3, ended_after_s=4.0)
    (hold,) = by_kind(world.due(), HoldJob)
    assert "ended by itself 3 times in a row" in hold.reason


def test_a_long_run_between_ends_the_row(world) -> None:
    world.plan(crash_loop_s=30.0, crash_loop_count=3)
    world.running(7, "n1")
    world.notice("n1")
    for ran_s in (4.0, 4.0, 400.0, 4.0):
        world.apply(e.JobRequeued(world.now, 7, 0, ended_after_s=ran_s))
    world.job(7, "PENDING", restarts=1, eligible_time=world.now + 121)
    assert by_kind(world.due(), HoldJob) == []


def test_a_job_that_slurm_held_for_a_failed_launch_is_released_once(world) -> None:
    requeued(world)
    world.job(7, "PENDING", restarts=1, priority=0, reason="launch failed requeued held")
    (release,) = by_kind(world.due(), ReleaseJob)
    world.finish(release)
    world.later(60)
    assert by_kind(world.due(), ReleaseJob) == []


def test_bad_constraints_are_named(world) -> None:
    requeued(world)
    world.job(7, "PENDING", restarts=1, priority=0, reason="BadConstraints")
    (tell,) = by_kind(world.due(), TellJob)
    assert "submit it again" in tell.text


def test_a_job_held_by_its_user_is_left_alone(world) -> None:
    requeued(world)
    world.job(7, "PENDING", restarts=1, priority=0, reason="JobHeldUser")
    assert world.due() == [] or all(not isinstance(command, ReleaseJob | StartJob) for command in world.due())


def test_a_declared_signal_is_sent_when_it_was_asked_for(world) -> None:
    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", comment="holdfast: signal=B:USR1@60")
    world.notice("n1", window_s=120)
    assert by_kind(world.due(), SignalJob) == []
    world.later(61)
    (signal,) = by_kind(world.due(), SignalJob)
    assert signal.signal == "B:USR1"


def test_a_job_that_opted_in_gets_the_policys_signal_and_no_other_job_gets_any(world) -> None:
    world.plan(signal="USR2")
    world.running(7, "n1")
    world.running(8, "n2")
    world.job(7, "RUNNING", "n1", comment="holdfast: checkpoint=auto")
    world.notice("n1")
    world.notice("n2")
    assert [(command.job_id, command.signal) for command in by_kind(world.due(), SignalJob)] == [(7, "USR2")]


def test_a_job_that_saves_nothing_is_requeued_at_once(world) -> None:
    from holdfast_controller.commands import RequeueJob

    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", comment="holdfast: checkpoint=off")
    world.notice("n1")
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert "saves nothing" in requeue.reason
