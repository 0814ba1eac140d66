"""What the controller counts in GPU-seconds, steps and money."""

from dataclasses import replace

import pytest
from counting import Counted
from holdfast_common.health.model import Action, Finding
from holdfast_controller import events as e
from holdfast_controller.commands import CondemnNode
from holdfast_controller.metrics.goodput import MOST_STEPS, Progress
from holdfast_controller.metrics.leaving import CAUSES
from holdfast_controller.providers.base import Quote


def test_steps_and_gpu_seconds_that_are_done_again(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    counted.accrue()
    world.later(60.0)
    counted.progress[7] = Progress(0, 30, 20, 2.0)
    counted.accrue()
    world.later(20.0)
    counted.progress[7] = Progress(0, 40, 20, 2.0)
    counted.accrue()
    world.notice("n1", window_s=1.0)
    counted.requeue(7)
    assert counted.value("steps_lost", "preempt") == 20
    assert counted.value("gpu_seconds_lost", "preempt") == 320, "20 steps of 2 s on 8 GPUs"
    assert counted.value("job_gpu_seconds", "lost") == 320
    assert counted.value("job_gpu_seconds", "useful") == 320


def test_a_job_that_says_nothing_is_useful_when_it_ends_by_itself_and_lost_when_it_must_leave(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.running(8, "n2")
    counted.accrue()
    world.later(100.0)
    counted.accrue()
    assert counted.value("job_gpu_seconds", "useful") == 0, "not known yet"
    world.job(7, "COMPLETED", "n1")
    counted.accrue()
    assert counted.value("job_gpu_seconds", "useful") == 800
    world.notice("n2", window_s=1.0)
    counted.requeue(8)
    assert counted.value("gpu_seconds_lost", "preempt") == 800


def test_waiting_to_leave_is_neither(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    counted.accrue()
    world.notice("n1")
    world.later(10.0)
    counted.accrue()
    assert counted.value("job_gpu_seconds", "checkpoint") == 80


def test_money_is_price_times_time_and_an_unknown_price_is_not_none(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.running(8, "n2")
    first, second = world.fleet.instances["i-n1"], world.fleet.instances["i-n2"]
    first.price_usd_h, first.on_demand_usd_h = 10.0, 30.0
    counted.accrue()
    world.later(360.0)
    counted.accrue()
    assert counted.value("cost_usd", "spot") == pytest.approx(1.0)
    assert counted.value("on_demand_cost_usd") == pytest.approx(3.0)
    assert counted.value("unpriced_instance_seconds", "spot") == pytest.approx(360.0)
    quote = Quote(20.0, 60.0)
    world.plans = replace(world.plans, quotes={second.instance.pool: quote})
    world.later(360.0)
    counted.accrue()
    assert counted.value("cost_usd", "spot") == pytest.approx(4.0)
    world.later(-7200.0)  # the clock was set
    counted.accrue()
    world.later(100_000.0)
    counted.accrue()
    assert counted.value("cost_usd", "spot") == pytest.approx(4.0), "time that nobody saw pass costs nothing"


def test_jobs_on_one_node_share_its_gpus(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.job(8, "RUNNING", "n1")
    counted.accrue()
    world.later(10.0)
    counted.accrue()
    for job_id in (7, 8):
        world.job(job_id, "COMPLETED", "n1")
    counted.accrue()
    assert counted.value("job_gpu_seconds", "useful") == 80, "eight GPUs for ten seconds, and no more"


def test_a_requeue_that_slurm_shows_first_costs_what_it_cost(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    counted.progress[7] = Progress(0, 10, 10, 1.0)
    counted.accrue()
    world.later(30.0)
    counted.accrue()
    counted.progress[7] = Progress(0, 40, 10, 1.0)
    world.later(30.0)
    counted.accrue()
    world.notice("n1")
    world.job(7, "PENDING", restarts=1)  # it has no nodes any more
    assert counted.value("gpu_seconds_lost", "preempt") == 240


def test_a_requeue_by_hand_is_nobodys_interruption_and_its_loss_is_said(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    counted.accrue()
    world.later(10.0)
    counted.accrue()
    world.job(7, "PENDING", restarts=1)
    counted.accrue()
    assert counted.value("gpu_seconds_lost", "other") == 80
    assert sum(counted.value("requeues", cause) for cause in CAUSES) == 0


def test_an_attempt_that_failed_on_a_sick_machine_and_comes_again_was_of_no_use(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    counted.accrue()
    world.later(10.0)
    counted.accrue()
    world.apply(e.HealthReported(world.now, "n1", "i-n1", (Finding("xid-79", Action.REPLACE, world.now, "GPU-1", "XID 79"),)))
    (command,) = [each for each in world.due() if isinstance(each, CondemnNode)]
    world.apply(e.NoticeReceived(world.now, "n1", command.notice, "health"))
    world.job(7, "FAILED", "n1", end_time=world.now)
    counted.accrue()
    assert counted.value("job_gpu_seconds", "useful") == 0
    counted.requeue(7)
    assert counted.value("gpu_seconds_lost", "health") == 80


def test_no_claim_of_a_job_makes_more_lost_than_it_had(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.registered(7, "n1")
    counted.accrue()
    world.later(10.0)
    counted.progress[7] = Progress(0, 2**62, 0, 1e300)
    counted.accrue()
    world.notice("n1", window_s=1.0)
    counted.requeue(7)
    assert counted.value("gpu_seconds_lost", "preempt") == 80
    assert counted.value("steps_lost", "preempt") == MOST_STEPS
