"""Requeued jobs that are not started again, and those that Slurm itself leaves stuck."""

import pytest
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
    for attempt, ran_s in enumerate((4.0, 4.0, 400.0, 4.0)):
        world.apply(e.JobRequeued(world.now, 7, attempt, ended_after_s=ran_s))
    world.job(7, "PENDING", restarts=4, eligible_time=world.now + 121)
    assert world.fleet.jobs[7].short_runs_s == (4.0, 4.0, 400.0, 4.0)
    assert by_kind(world.due(), HoldJob) == []


def ends_by_itself(world, attempt: int, *steps: str, timed: bool) -> None:
    """Attempt `attempt` of job 7 fails after 4 s and is requeued; the steps say in which order that is heard of."""
    world.node("n1", "ALLOCATED", "CLOUD")
    world.later(1)
    world.job(7, "RUNNING", "n1", restarts=attempt)
    world.due()
    world.later(4)
    times = {"start_time": world.now - 4, "end_time": world.now} if timed else {}
    world.job(7, "FAILED", restarts=attempt, exit_code=1, **times)
    for step in steps:
        if step == "told":
            world.apply(e.JobRequeued(world.now, 7, attempt, ended_after_s=4.0))
        else:
            world.job(7, "PENDING", restarts=attempt + 1, eligible_time=world.now + 121)


@pytest.mark.parametrize(
    ("steps", "timed"),
    [(("told", "seen"), True), (("told", "seen"), False), (("seen", "told"), True), (("seen", "told"), False), (("seen",), True)],
    ids=["told first", "told first, no times", "seen first", "seen first, no times", "the controller died before it was told"],
)
def test_a_crash_loop_is_found_whoever_tells_of_its_requeues_first(world, steps, timed) -> None:
    world.plan(crash_loop_s=30.0, crash_loop_count=3)
    world.running(7, "n1")
    world.notice("n1")
    for attempt in range(3):
        assert by_kind(world.due(), HoldJob) == []
        ends_by_itself(world, attempt, *steps, timed=timed)
    (hold,) = by_kind(world.due(), HoldJob)
    assert "ended by itself 3 times in a row, the last time after 4 s" in hold.reason
    assert world.fleet.jobs[7].interruptions == 3


def test_an_attempt_between_that_others_ended_ends_the_row(world) -> None:
    world.plan(crash_loop_s=30.0, crash_loop_count=3)
    world.running(7, "n1")
    world.notice("n1")
    for attempt in (0, 1):
        ends_by_itself(world, attempt, "told", "seen", timed=True)
    world.job(7, "RUNNING", "n1", restarts=2)
    world.job(7, "PENDING", restarts=3)
    ends_by_itself(world, 3, "told", "seen", timed=True)
    assert world.fleet.jobs[7].short_runs_s == (4.0,)
    assert by_kind(world.due(), HoldJob) == []


def hours(world, count: int = 4) -> list:
    """Let hours pass in which other things are done, and return what was decided."""
    due = []
    for number in range(20 * count):
        world.later(180)
        commands = world.due()
        due += commands
        for command in commands:
            world.finish(command)
        other = TellJob(f"other:{number}", "another job", "9", 9, "text")
        world.apply(e.CommandIssued(world.now, 90_000 + number, other), e.CommandFinished(world.now, 90_000 + number, other.key))
    return due


def test_a_job_that_was_held_and_released_is_not_held_again_however_late(world) -> None:
    world.plan(max_attempts=0)
    requeued(world)
    (hold,) = by_kind(world.due(), HoldJob)
    world.finish(hold)
    world.job(7, "PENDING", restarts=1, priority=0, reason="JobHeldUser")
    assert by_kind(hours(world), HoldJob) == []
    world.job(7, "PENDING", restarts=1, reason="Resources")
    assert by_kind(hours(world), HoldJob) == []
    assert not any(key.startswith("other:") for key in world.fleet.commands if world.fleet.commands[key].done_at < world.now - 3700)


def test_what_was_done_in_attempts_of_long_ago_is_forgotten(world) -> None:
    world.running(7, "n1")
    for restarts in range(1, 10):
        world.job(7, "RUNNING", "n1", restarts=restarts)
        hours(world, 1)
    hours(world, 2)
    assert sorted(key for key in world.fleet.commands if key.startswith("tell:7:")) == [f"tell:7:{attempt}" for attempt in (6, 7, 8, 9)]


def test_a_declared_signal_is_sent_once_however_long_the_notice(world) -> None:
    world.running(7, "n1")
    world.job(7, "RUNNING", "n1", comment="holdfast: signal=B:USR1")
    world.notice("n1", window_s=4.5 * 3600)
    assert len(by_kind(hours(world), SignalJob)) == 1


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
    assert by_kind(world.due(), RequeueJob) == [], "the drain comes first"
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert "saves nothing" in requeue.reason
