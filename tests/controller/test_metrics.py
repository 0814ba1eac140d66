"""What the controller counts: notices, evacuations, launches, sick machines; each once."""

from dataclasses import replace
from typing import Any

from counting import Counted
from holdfast_common.health.model import Action, Finding
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import events as e
from holdfast_controller.commands import CondemnNode, Launch, TerminateInstance
from holdfast_controller.metrics.goodput import Progress
from holdfast_controller.plan import Health, Shape
from holdfast_controller.providers.base import Fault, FaultKind


def test_an_evacuation_from_notice_to_the_next_start(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    counted.accrue()
    world.later(100.0)
    counted.progress[7] = Progress(0, 50, 40, 2.0)
    counted.accrue()
    assert counted.value("job_gpu_seconds", "useful") == 640, "what was computed until the save: ten steps of 2 s came after it"
    world.registered(7, "n1")
    notice = world.notice("n1")
    world.notice("n1")  # said again
    assert counted.value("preemption_notices", "aws", "preempt") == 1
    assert counted.seen("preemption_lead_seconds", "aws") == (1, 120.0)
    world.later(3.0)
    world.parked(7, "n1", notice)
    world.parked(7, "n1", notice)
    assert counted.seen("checkpoint_duration_seconds", "preempt") == (1, 3.0)
    counted.requeue(7, after_s=1.0)
    assert counted.seen("requeue_duration_seconds", "preempt") == (1, 4.0)
    assert (counted.value("requeues", "preempt"), counted.value("evacuations", "preempt", "saved")) == (1, 1)
    counted.again(7, "n2")
    counted.again(7, "n2")
    assert counted.seen("resume_duration_seconds", "preempt") == (1, 5.0)


def test_a_late_one_is_counted_as_missed(counted: Counted) -> None:
    counted.world.running(7, "n1")
    counted.world.registered(7, "n1")
    counted.world.notice("n1", window_s=30.0)
    counted.requeue(7, after_s=31.0)
    assert counted.value("evacuations", "preempt", "deadline_missed") == 1
    assert counted.value("evacuations", "preempt", "saved") == 0


def test_a_requeue_that_is_not_ours_is_counted_once(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    world.notice("n1")
    world.later(2.0)
    world.job(7, "PENDING", restarts=1)  # its agent did it
    world.apply(e.JobRequeued(world.now, 7, 0))  # and our own word comes late
    assert counted.value("requeues", "preempt") == 1


def test_a_machine_that_is_taken_without_a_word(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    record = world.fleet.instances["i-n1"]
    for _ in range(2):
        world.apply(e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    assert counted.value("preemption_unnoticed", "aws") == 1
    counted.requeue(7)
    assert counted.value("requeues", "loss") == 1
    assert counted.value("evacuations", "loss", "unsaved") == 1, "nobody gave a deadline that could be missed"


def test_a_machine_that_was_announced_is_not_unnoticed(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.notice("n1")
    record = world.fleet.instances["i-n1"]
    world.apply(e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    assert counted.value("preemption_unnoticed", "aws") == 0


def test_launches_and_their_faults(counted: Counted) -> None:
    world = counted.world
    world.want(7, "n1", "n2")
    launch = next(each for each in world.due() if isinstance(each, Launch))
    world.refused(launch)
    assert counted.value("launch_faults", launch.pool, "capacity") == 1
    world.later(1)
    launch = next(each for each in world.due() if isinstance(each, Launch))
    world.launched(launch, "i-1", "i-2", faults=(Fault(FaultKind.THROTTLE, "RequestLimitExceeded", "slower"),))
    assert counted.value("launches", launch.pool, "spot") == 2
    assert counted.value("launch_faults", launch.pool, "throttle") == 1


def test_a_sick_machine_is_counted_by_its_rule(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.apply(e.HealthReported(world.now, "n1", "i-n1", (Finding("xid-79", Action.REPLACE, world.now, "GPU-1", "XID 79"),)))
    (command,) = [each for each in world.due() if isinstance(each, CondemnNode)]
    assert counted.value("machines_replaced_for_health", "xid-79") == 1
    world.apply(e.NoticeReceived(world.now, "n1", command.notice, "health"))
    assert counted.value("preemption_notices", "aws", "health") == 1
    assert counted.seen("preemption_lead_seconds", "aws") == (0, 0.0), "no cloud gave it"
    counted.requeue(7)
    assert counted.value("requeues", "health") == 1


def test_an_admins_drain_is_no_lead_time_of_a_cloud(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    notice = Notice("admin-1", NoticeKind.DRAIN, world.now + 60, world.now, "an admin")
    world.apply(e.NoticeReceived(world.now, "n1", notice, "admin"))
    assert counted.value("preemption_notices", "aws", "drain") == 1
    assert counted.seen("preemption_lead_seconds", "aws") == (0, 0.0)


def test_a_job_that_registered_and_had_to_go_unsaved_has_missed_its_deadline_and_one_that_says_nothing_has_not(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.running(8, "n2")
    world.registered(7, "n1")
    world.notice("n1", window_s=30.0)
    counted.requeue(7, after_s=28.5)
    assert counted.value("evacuations", "preempt", "deadline_missed") == 1, "it is requeued just before the deadline"
    world.notice("n2", window_s=30.0)
    counted.requeue(8, after_s=25.0)
    assert counted.value("evacuations", "preempt", "unsaved") == 1
    assert counted.value("evacuations", "preempt", "deadline_missed") == 1


def test_a_save_for_another_notice_is_no_save_for_this_one(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    advice = Notice("advice", NoticeKind.ADVISE, world.now + 600, world.now, "rebalance")
    world.apply(e.NoticeReceived(world.now, "n1", advice))
    world.notice("n1", window_s=10.0)
    world.later(1.0)
    world.apply(e.JobReported(world.now, "n1", 7, 0, "saved", 1, advice.id, 7))
    assert counted.seen("checkpoint_duration_seconds", "preempt") == (0, 0.0)
    counted.requeue(7, after_s=8.0)
    assert counted.value("evacuations", "preempt", "deadline_missed") == 1


def test_a_job_on_two_nodes_is_saved_when_both_say_so(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1", "n2")
    world.registered(7, "n1")
    world.registered(7, "n2")
    notice = world.notice("n1")
    world.later(2.0)
    world.apply(e.JobReported(world.now, "n1", 7, 0, "saved", 1, notice.id, 7, stopped_on_notice=True))
    assert counted.seen("checkpoint_duration_seconds", "preempt") == (0, 0.0)
    world.later(2.0)
    world.apply(e.JobReported(world.now, "n2", 7, 0, "saved", 1, notice.id, 7))
    assert counted.seen("checkpoint_duration_seconds", "preempt") == (1, 4.0)


def test_maintenance_that_has_come_near_with_time_is_an_evacuation(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    notice = Notice("m-1", NoticeKind.MAINTENANCE, world.now + 400, world.now, "host work")
    world.apply(e.NoticeReceived(world.now, "n1", notice))
    world.later(150.0)
    world.fleet.apply(e.Ticked(world.now))  # which no listener sees
    world.later(2.0)
    world.parked(7, "n1", notice)
    assert counted.seen("checkpoint_duration_seconds", "maintenance") == (1, 2.0)
    counted.requeue(7)
    assert counted.value("evacuations", "maintenance", "saved") == 1


def test_a_job_that_ends_by_itself_meanwhile_is_no_requeue(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.notice("n1")
    world.job(7, "COMPLETED", "n1")
    world.apply(e.JobForgotten(world.now, 7), e.JobForgotten(world.now, 7))
    assert counted.value("evacuations", "preempt", "ended") == 1
    assert counted.value("requeues", "preempt") == 0


def test_parts_of_a_heterogeneous_job_are_one_requeue(counted: Counted) -> None:
    world = counted.world
    for job_id, name in ((7, "n1"), (8, "n2")):
        world.running(job_id, name)
        world.job(job_id, "RUNNING", name, het_job_id=7)
    counted.accrue()
    world.later(10.0)
    counted.accrue()
    world.notice("n1", window_s=30.0)
    world.later(27.0)
    world.due()
    world.apply(e.JobRequeued(world.now, 7, 0))
    for job_id in (7, 8):
        world.job(job_id, "PENDING", het_job_id=7, restarts=1)
    assert counted.value("requeues", "preempt") == 1
    assert counted.value("gpu_seconds_lost", "preempt") == 160, "of both"


def test_what_the_journal_brings_is_not_counted_again(world: Any) -> None:
    world.plan(shape=Shape(gpus=8))
    world.running(7, "n1")
    world.running(8, "n2")
    notice = world.notice("n1", window_s=60.0)
    world.notice("n2")
    first = Counted(world)
    first.requeue(7, after_s=59.0)
    record = world.fleet.instances["i-n1"]
    world.apply(e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    second = Counted(world)
    second.tally.begin(world.fleet)
    world.apply(e.NoticeReceived(world.now, "n1", notice))  # its agent, and the cloud, say it again
    world.apply(e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    second.requeue(8, after_s=60.0)
    second.again(7, "n3", after_s=3.0)
    assert second.value("preemption_notices", "aws", "preempt") == 0
    assert second.value("preemption_unnoticed", "aws") == 0
    assert second.value("requeues", "preempt") == 1, "job 8, which had not been requeued yet"
    assert second.seen("resume_duration_seconds", "preempt") == (1, 63.0), "job 7, which had not run again yet"
    third = Counted(world)
    third.tally.begin(world.fleet)
    world.job(7, "COMPLETED", "n3", restarts=1)
    assert third.value("requeues", "preempt") == 0
    assert third.seen("resume_duration_seconds", "preempt") == (0, 0.0)
    assert 'node_intentional_down{node="n1"} 1.0' in third.text()


def test_a_clock_that_is_set_makes_no_duration(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    world.notice("n1", window_s=10.0)
    counted.requeue(7, after_s=8.0)
    world.later(5000.0)
    world.apply(e.ClockStepped(world.now, 5000.0))
    counted.again(7, "n2", after_s=4.0)
    assert counted.seen("resume_duration_seconds", "preempt") == (1, 4.0)


def test_a_machine_whose_end_we_ordered_or_was_announced_long_ago_is_not_unnoticed(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.running(8, "n2")
    world.notice("n1")
    world.job(7, "COMPLETED", "n1")
    for name in ("n1", "n2"):
        world.node(name, "IDLE", "CLOUD", "POWERED_DOWN")  # with which notices are forgotten
    assert not world.fleet.nodes["n1"].notices
    world.job(8, "COMPLETED", "n2")
    world.apply(e.CommandIssued(world.now, 99, TerminateInstance("terminate:i-n2", "why", "i-n2", "p", "n2")))
    for name in ("i-n1", "i-n2"):
        record = world.fleet.instances[name]
        world.apply(e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    assert counted.value("preemption_unnoticed", "aws") == 0


def test_a_sick_machine_is_counted_once_and_so_is_one_that_is_sick_before_it_is_up(counted: Counted) -> None:
    world = counted.world
    world.plan(health=Health(keep_sick_s=600.0))
    world.running(7, "n1")
    grave = Finding("xid-48", Action.EVACUATE, world.now, "GPU-1", "XID 48")
    world.apply(e.HealthReported(world.now, "n1", "i-n1", (grave,)))
    (command,) = [each for each in world.due() if isinstance(each, CondemnNode)]
    world.apply(e.NoticeReceived(world.now, "n1", command.notice, "health", command.keep_until))
    world.apply(e.HealthReported(world.now, "n1", "i-n1", (replace(grave, rule="xid-79", action=Action.REPLACE),)))
    assert [type(each) for each in world.due()].count(CondemnNode) == 1, "the machine is not kept any more"
    assert counted.value("machines_replaced_for_health", "xid-48") == 1
    assert counted.value("machines_replaced_for_health", "xid-79") == 0
    world.want(8, "n2")
    launch = next(each for each in world.due() if isinstance(each, Launch))
    world.launched(launch, "i-n2")
    world.arrive("i-n2", launch.launch_id)
    world.due()
    world.apply(e.HealthReported(world.now, "n2", "i-n2", (replace(grave, rule="gpus-missing"),)))
    assert any(isinstance(each, TerminateInstance) for each in world.due())
    assert counted.value("machines_replaced_for_health", "gpus-missing") == 1
