"""Jobs that Slurm says it launched and that never ran: run again on proof only, and not for ever. And machines that were rebooted."""

import pytest
from holdfast_controller import events as e
from holdfast_controller.commands import PowerDownNode, ReleaseJob, RequeueJob, StartJob, TellJob, TerminateInstance

GRACE_S = 300.0
BEAT_S = 5.0


def by_kind(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


def beats(world, duration_s: float, *instances: str, jobs=()) -> list:
    """Let time pass with heartbeats of these agents, and return what was decided."""
    due = []
    for _ in range(int(duration_s / BEAT_S)):
        world.later(BEAT_S)
        for iid in instances:
            world.fleet.heard_steps(iid, jobs, world.now)
        due += world.due()
    return due


def launched(world, *nodes: str, **more) -> None:
    """Job 7 is RUNNING by Slurm's word."""
    world.running(7, *nodes)
    world.job(7, "RUNNING", *nodes, start_time=world.now, **more)


@pytest.fixture
def running(world):
    launched(world, "n1", "n2")
    return world


def test_unseen_on_all_its_nodes_for_the_grace_it_is_requeued_once(running) -> None:
    assert by_kind(beats(running, GRACE_S - 10, "i-n1", "i-n2"), RequeueJob) == []
    (requeue,) = by_kind(beats(running, 20, "i-n1", "i-n2"), RequeueJob)
    assert (requeue.job, requeue.attempt, requeue.ended, requeue.began) == ("7", 0, False, False)
    assert "no agent has seen a process of it" in requeue.reason


def test_it_waits_for_its_nodes_no_longer_than_a_second(running) -> None:
    (requeue,) = by_kind(beats(running, GRACE_S + 10, "i-n1", "i-n2"), RequeueJob)
    running.finish(requeue)
    running.apply(e.JobRequeued(running.now, 7, 0, began=False))
    running.job(7, "PENDING", restarts=1, submit_time=running.now, eligible_time=running.now + 121)
    (start,) = by_kind(running.due(), StartJob)
    assert (start.restarts, start.delay_s) == (1, 1)
    assert running.fleet.jobs[7].interruptions == 0


def test_the_grace_begins_when_its_prolog_ends(world) -> None:
    launched(world, "n1", reason="Prolog")
    view = world.fleet.jobs[7].view
    beats(world, 2 * GRACE_S, "i-n1")
    world.job(7, "RUNNING", "n1", start_time=view.start_time)
    assert by_kind(beats(world, GRACE_S - 10, "i-n1"), RequeueJob) == []
    assert len(by_kind(beats(world, 20, "i-n1"), RequeueJob)) == 1


def never(world, *instances: str, jobs=()) -> None:
    assert by_kind(beats(world, 3 * GRACE_S, *instances, jobs=jobs), RequeueJob) == []


def test_never_when_an_agent_of_it_does_not_beat(running) -> None:
    never(running, "i-n1")


def test_never_when_an_agent_does_not_know(running) -> None:
    for _ in range(150):
        running.later(BEAT_S)
        running.fleet.heard_steps("i-n1", (), running.now)
        running.fleet.heard_steps("i-n2", None, running.now)
        assert running.due() == []


def test_never_when_a_process_is_or_was_seen(running) -> None:
    running.later(BEAT_S)
    running.fleet.heard_steps("i-n2", (7,), running.now)
    never(running, "i-n1", "i-n2")


def test_never_when_a_process_was_seen_before_an_agent_came_back(running) -> None:
    beats(running, 10, "i-n1", "i-n2", jobs=(7,))
    running.apply(e.AgentLost(running.now, "i-n1"), e.AgentLost(running.now, "i-n2"))
    for iid, node in (("i-n1", "n1"), ("i-n2", "n2")):
        running.arrive(iid, running.fleet.instances[iid].instance.launch_id, node)
    never(running, "i-n1", "i-n2")


def test_never_when_an_agent_once_reported_it(running) -> None:
    running.apply(e.JobReported(running.now, "n1", 7, 0), e.JobLeftNode(running.now, "n1", 7, 0))
    never(running, "i-n1", "i-n2")


def test_the_grace_begins_anew_when_an_agent_was_away(running) -> None:
    beats(running, GRACE_S - 20, "i-n1", "i-n2")
    running.apply(e.AgentLost(running.now, "i-n1"))
    beats(running, 10, "i-n2")
    launch = running.fleet.instances["i-n1"].instance.launch_id
    running.arrive("i-n1", launch, "n1")
    assert by_kind(beats(running, GRACE_S - 10, "i-n1", "i-n2"), RequeueJob) == []
    assert len(by_kind(beats(running, 20, "i-n1", "i-n2"), RequeueJob)) == 1


def test_the_grace_begins_anew_after_a_gap_between_heartbeats(running) -> None:
    beats(running, GRACE_S - 20, "i-n1", "i-n2")
    beats(running, 30, "i-n2")
    assert by_kind(beats(running, GRACE_S - 10, "i-n1", "i-n2"), RequeueJob) == []


def test_the_grace_begins_anew_after_an_outage_of_slurm(running) -> None:
    beats(running, GRACE_S - 20, "i-n1", "i-n2")
    running.fleet.looked(running.now, after_outage=True)
    assert by_kind(beats(running, GRACE_S - 10, "i-n1", "i-n2"), RequeueJob) == []


@pytest.mark.parametrize(
    "more",
    [
        {"reason": "Prolog"},
        {"batch": False},
        {"requeue": False},
        {"het_job_id": 6},
        {"completing": True},
    ],
    ids=str,
)
def test_never_a_job_whose_silence_means_nothing(world, more) -> None:
    launched(world, "n1", **more)
    never(world, "i-n1")


def test_never_where_the_policy_says_so(running) -> None:
    running.plan(never_launched_s=0.0)
    never(running, "i-n1", "i-n2")


def test_one_that_must_leave_long_hence_is_requeued_for_it_too_and_once(running) -> None:
    running.notice("n1", window_s=20 * GRACE_S)
    (requeue,) = by_kind(beats(running, GRACE_S + 20, "i-n1", "i-n2"), RequeueJob)
    assert (requeue.key, requeue.began) == ("requeue:7:0", False)


def test_after_two_tries_in_a_row_it_is_left_to_people(running) -> None:
    for attempt in range(2):
        (requeue,) = by_kind(beats(running, GRACE_S + 10, "i-n1", "i-n2"), RequeueJob)
        running.finish(requeue)
        running.job(7, "RUNNING", "n1", "n2", restarts=attempt + 1, start_time=running.now)
    never(running, "i-n1", "i-n2")


def test_a_row_of_tries_is_remembered_over_hours(running) -> None:
    for attempt in range(2):
        (requeue,) = by_kind(beats(running, GRACE_S + 10, "i-n1", "i-n2"), RequeueJob)
        running.finish(requeue)
        running.later(3 * 3600)
        other = TellJob(f"other:{attempt}", "another job", "9", 9, "text")
        running.apply(e.CommandIssued(running.now, 90_000 + attempt, other), e.CommandFinished(running.now, 90_000 + attempt, other.key))
        running.job(7, "RUNNING", "n1", "n2", restarts=attempt + 1, start_time=running.now)
    never(running, "i-n1", "i-n2")


def revoked(world, **more) -> None:
    launched(world, "n1")
    world.apply(e.JobReported(world.now, "n1", 7, 0), e.JobLeftNode(world.now, "n1", 7, 0))
    view = {"restarts": 1, "exit_code": 1, "submit_time": world.now, "start_time": world.now, "end_time": world.now}
    world.job(7, "FAILED", "n1", **(view | more))


def test_a_job_started_in_the_second_in_which_it_left_is_run_again(world) -> None:
    revoked(world)
    (requeue,) = by_kind(world.due(), RequeueJob)
    assert (requeue.attempt, requeue.ended, requeue.began) == (1, True, False)


@pytest.mark.parametrize(
    "more",
    [
        {"exit_code": 2},
        {"exit_signal": 9},
        {"restarts": 0},
        {"restarts": 2},
        {"requeue": False},
        {"batch": False},
    ],
    ids=str,
)
def test_any_other_failure_is_the_jobs_own(world, more) -> None:
    revoked(world, **more)
    assert by_kind(world.due(), RequeueJob) == []


def test_one_that_began_a_second_later_is_the_jobs_own_failure(world) -> None:
    revoked(world, start_time=world.now + 1, end_time=world.now + 1)
    assert by_kind(world.due(), RequeueJob) == []


def test_one_of_which_a_process_was_seen_is_the_jobs_own_failure(world) -> None:
    launched(world, "n1")
    world.apply(e.JobReported(world.now, "n1", 7, 1))
    revoked_view = {"restarts": 1, "exit_code": 1, "submit_time": world.now, "start_time": world.now, "end_time": world.now}
    world.job(7, "FAILED", "n1", **revoked_view)
    assert by_kind(world.due(), RequeueJob) == []


def test_a_process_of_the_attempt_that_still_ends_is_not_the_next_ones(world) -> None:
    launched(world, "n1")
    world.job(7, "PENDING", "n1", restarts=1, completing=True, submit_time=world.now)
    world.fleet.heard_steps("i-n1", (7,), world.now)
    assert world.fleet.stepped.get(7) != 1
    world.job(7, "RUNNING", "n1", restarts=1, start_time=world.now + 5)
    world.fleet.heard_steps("i-n1", (7,), world.now)
    assert world.fleet.stepped.get(7) != 1, "said before the attempt began"
    world.later(6)
    world.fleet.heard_steps("i-n2", (7,), world.now)
    assert world.fleet.stepped.get(7) != 1, "an instance that is none of its nodes"
    world.fleet.heard_steps("i-n1", (7,), world.now)
    assert world.fleet.stepped[7] == 1


def test_a_job_whose_launch_failed_is_released_twice_and_then_named(world) -> None:
    for restarts in (1, 2):
        world.job(7, "PENDING", restarts=restarts, reason="launch failed requeued held", priority=0)
        (release,) = by_kind(world.due(), ReleaseJob)
        world.finish(release)
        world.job(7, "PENDING", restarts=restarts, submit_time=world.now, eligible_time=world.now + 121)
        assert [start.restarts for start in by_kind(world.due(), StartJob)] == [restarts], "Slurm's delay is not needed either"
    world.job(7, "PENDING", restarts=3, reason="launch failed requeued held", priority=0)
    (tell,) = world.due()
    assert isinstance(tell, TellJob)
    assert "see why its nodes were drained" in tell.text


def test_a_machine_that_was_rebooted_is_a_loss(world) -> None:
    launched(world, "n1", "n2")
    world.apply(e.AgentRebooted(world.now, "i-n1", "other"))
    due = world.due()
    (requeue,) = by_kind(due, RequeueJob)
    assert requeue.reason == "n1 of job 7 is gone"
    (end,) = by_kind(due, TerminateInstance)
    assert (end.instance_id, "rebooted" in end.reason) == ("i-n1", True)
    world.job(7, "PENDING", restarts=1)
    assert [command.node for command in by_kind(world.due(), PowerDownNode)] == ["n1"]


def test_one_that_was_rebooted_while_it_booted_is_replaced(world) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.arrive("i-1", launch.launch_id)
    world.due()
    world.apply(e.AgentRebooted(world.now, "i-1", "other"))
    due = world.due()
    assert [command.instance_id for command in by_kind(due, TerminateInstance)] == ["i-1"]
    assert by_kind(due, PowerDownNode) == [], "its node is wanted still"


@pytest.mark.parametrize("source", ["agent", "cloud"])
def test_a_notice_for_a_machine_that_is_given_up_says_nothing_of_the_names_next_life(world, source) -> None:
    launched(world, "n1")
    world.job(7, "COMPLETED")
    world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN")
    (end,) = by_kind(world.due(), TerminateInstance)
    world.later(1)
    world.want(8, "n1")
    assert world.fleet.nodes["n1"].instance_id == end.instance_id, "it is not gone yet"
    world.notice("n1", source=source)
    assert world.fleet.nodes["n1"].doom is None
    assert by_kind(world.due(), RequeueJob) == []
