"""What the fleet concludes: of several notices, of withdrawn ones, of a name's next life, of failures."""

from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import events as e
from holdfast_controller.commands import RequeueJob, TerminateInstance


def by_kind(commands, kind):
    return [command for command in commands if isinstance(command, kind)]


def test_the_earliest_of_several_notices_counts_and_each_is_withdrawn_by_itself(world) -> None:
    world.running(7, "n1")
    spot = Notice("spot", NoticeKind.PREEMPT, world.now + 30, world.now)
    host = Notice("host", NoticeKind.MAINTENANCE, world.now + 280, world.now)
    world.apply(e.NoticeReceived(world.now, "n1", spot), e.NoticeReceived(world.now, "n1", host))
    assert world.fleet.nodes["n1"].doom.notice is spot
    world.apply(e.NoticeWithdrawn(world.now, "n1", "host"))
    assert world.fleet.nodes["n1"].doom.notice is spot
    world.apply(e.NoticeWithdrawn(world.now, "n1", "spot"))
    assert world.fleet.nodes["n1"].doom is None


def test_maintenance_far_ahead_is_left_for_when_it_comes_near(world) -> None:
    world.running(7, "n1")
    world.apply(e.NoticeReceived(world.now, "n1", Notice("host", NoticeKind.MAINTENANCE, world.now + 3600, world.now)))
    assert world.due() == []
    world.later(3310)
    world.apply(e.Ticked(world.now))
    assert by_kind(world.due(), RequeueJob) == []
    assert world.fleet.nodes["n1"].doom is not None
    world.later(285)
    assert by_kind(world.due(), RequeueJob) != []


def test_a_job_that_stopped_on_a_notice_runs_again_even_if_the_notice_was_withdrawn_meanwhile(world) -> None:
    world.running(7, "n1")
    notice = world.notice("n1")
    world.due()
    world.apply(e.JobReported(world.now, "n1", 7, 0, "done", 0, notice.id, 9, False, True))
    world.apply(e.NoticeWithdrawn(world.now, "n1", notice.id))
    world.job(7, "COMPLETED")
    assert [command.ended for command in by_kind(world.due(), RequeueJob)] == [True]


def test_nothing_of_a_names_last_life_counts_in_the_next(world) -> None:
    world.running(7, "n1")
    world.notice("n1")
    world.due()
    world.job(7, "PENDING", restarts=1)
    world.want(8, "n1")
    assert world.fleet.nodes["n1"].doom is None


def test_what_slurm_refused_is_asked_again_ever_less_often(world) -> None:
    world.running(7, "n1")
    world.notice("n1", window_s=0)
    waits = []
    for _ in range(4):
        (requeue,) = by_kind(world.due(), RequeueJob)
        world.finish(requeue, "refused")
        record = world.fleet.commands[requeue.key]
        waits.append(record.retry_at - world.now)
        world.later(waits[-1])
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_report_that_comes_before_slurms_word_is_kept(world) -> None:
    world.registered(7, "n1")
    world.job(7, "RUNNING", "n1")
    assert world.fleet.jobs[7].reports["n1"].ranks == 1


def test_after_an_outage_silent_instances_have_their_time_again(world) -> None:
    world.want(7, "n1")
    (launch,) = world.due()
    world.launched(launch, "i-1")
    world.now += 1000  # nobody looked
    world.fleet.looked(world.now, after_outage=True)
    assert world.due() == []
    world.later(61)
    assert by_kind(world.due(), TerminateInstance) != []


def test_what_one_agent_says_is_bounded(world) -> None:
    from holdfast_controller.dooms import MAX_NOTICES

    world.running(7, "n1")
    for number in range(2 * MAX_NOTICES):
        far = Notice(f"works-{number}", NoticeKind.MAINTENANCE, world.now + 86400, world.now)
        world.apply(e.NoticeReceived(world.now, "n1", far))
    assert len(world.fleet.nodes["n1"].notices) == MAX_NOTICES
    taken = Notice("taken", NoticeKind.PREEMPT, world.now + 120, world.now)
    world.apply(e.NoticeReceived(world.now, "n1", taken))
    assert world.fleet.nodes["n1"].doom.notice == taken, "the one that counts is never let go"
    assert len(world.fleet.nodes["n1"].notices) == MAX_NOTICES


def test_what_was_said_of_a_job_that_no_look_ever_shows_is_forgotten(world) -> None:
    from holdfast_controller.retention import KEEP_S, forget

    world.apply(e.JobReported(world.now, "n1", 99, 0))
    forget(world.fleet, world.now + KEEP_S / 2)
    assert world.fleet.early
    forget(world.fleet, world.now + KEEP_S + 1)
    assert not world.fleet.early
