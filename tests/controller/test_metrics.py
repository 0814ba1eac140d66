"""What the controller counts: notices, evacuations, steps, GPU-seconds, money; and what one scrape tells."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.exposition import text
from holdfast_common.health.model import Action, Finding
from holdfast_common.metrics import CONTROLLER
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import events as e
from holdfast_controller.commands import CondemnNode, Launch, RequeueJob
from holdfast_controller.metrics.collector import families
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.goodput import Goodput, Progress
from holdfast_controller.metrics.ledger import Ledger
from holdfast_controller.metrics.tally import INTENTIONAL_S, Tally, reason_class
from holdfast_controller.plan import Shape
from holdfast_controller.providers.base import Fault, FaultKind, Quote

GOLDEN = Path(__file__).parents[1] / "metrics" / "golden" / "controller.txt"
PROMTOOL = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin" / "promtool"


class Counted:
    """A world whose every event is shown to a tally, as the reactor shows it."""

    def __init__(self, world: Any) -> None:
        self.world, self.counts, self.progress = world, Counts(), {}
        world.plan(shape=Shape(gpus=8))
        self.goodput = Goodput(self.counts, self.progress.get)
        self.ledger = Ledger(self.counts)
        self.tally = Tally(self.counts, self.goodput)
        plain = world.apply

        def apply(*events: e.Event) -> None:
            for event in events:
                plain(event)
                self.tally.take(event, world.fleet)

        world.apply = apply

    def value(self, name: str, *labels: str) -> float:
        return self.counts.value(name, *labels)

    def seen(self, name: str, *labels: str) -> tuple[int, float]:
        found = self.counts.observed(name, *labels)
        return (0, 0.0) if found is None else (found.total, round(found.sum_s, 3))

    def accrue(self) -> None:
        self.goodput.accrue(self.world.fleet, self.world.plans, self.world.now)
        self.ledger.accrue(self.world.fleet, self.world.plans, self.world.now)

    def text(self) -> str:
        world = self.world
        return text(families(world.fleet, world.plans, self.counts, self.tally, deciding=True, now=world.now)).decode()

    def requeue(self, job_id: int, after_s: float = 0.0) -> None:
        """Carry out the requeue that is due, as Slurm shows it then."""
        self.world.later(after_s)
        due = [*self.world.due(), *self.world.due()]  # the drain comes first
        (command,) = [each for each in due if isinstance(each, RequeueJob)]
        self.world.apply(e.JobRequeued(self.world.now, job_id, command.attempt))
        self.world.finish(command)
        self.world.job(job_id, "PENDING", restarts=command.attempt + 1)

    def again(self, job_id: int, *nodes: str, after_s: float = 5.0) -> None:
        self.world.later(after_s)
        self.world.job(job_id, "RUNNING", *nodes, restarts=1)


@pytest.fixture
def counted(world: Any) -> Counted:
    return Counted(world)


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


def test_a_preempted_node_is_down_on_purpose_until_long_after(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    assert 'holdfast_node_intentional_down{node="n1"}' not in counted.text()
    world.notice("n1")
    assert 'holdfast_node_intentional_down{node="n1"} 1.0' in counted.text()
    record = world.fleet.instances["i-n1"]
    world.apply(e.AgentLost(world.now, "i-n1"), e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN")
    world.later(INTENTIONAL_S - 1)
    assert 'holdfast_node_intentional_down{node="n1"} 1.0' in counted.text()
    world.later(2)
    assert "holdfast_node_intentional_down" not in counted.text()


def test_whose_drain_it_is() -> None:
    assert reason_class("holdfast: health: xid-79 on GPU-1: XID 79") == ("health", "holdfast")
    assert reason_class("holdfast: preempt: spot interruption") == ("preempt", "holdfast")
    assert reason_class("holdfast: whatever") == ("other", "holdfast")
    assert reason_class("NHC: disk") == ("other", "other")
    assert reason_class("") == ("other", "other")


def full(counted: Counted) -> None:
    """Something of everything."""
    world = counted.world
    quote = Quote(3.5, 12.0)
    world.plans = replace(world.plans, quotes={pool.name: quote for pool in world.pools})
    world.running(7, "n1", "n2")
    world.running(8, "n3")
    counted.accrue()
    world.later(60.0)
    counted.progress[7] = Progress(0, 30, 20, 2.0)
    counted.accrue()
    world.apply(e.HealthReported(world.now, "n3", "i-n3", (Finding("row-remap-pending", Action.DRAIN, world.now, "GPU-1", "pending"),)))
    world.due()
    world.node("n3", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: health: row-remap-pending on GPU-1: pending")
    world.job(8, "COMPLETED", "n3")
    world.due()
    world.registered(7, "n1")
    notice = world.notice("n1")
    world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: preempt: spot interruption")
    world.later(2.0)
    world.parked(7, "n1", notice)
    world.parked(7, "n2", notice)
    counted.accrue()
    counted.requeue(7)
    counted.again(7, "n2", "n4")
    record = world.fleet.instances["i-n2"]
    world.apply(e.InstanceChanged(world.now, replace(record.instance, state="gone", reclaimed=True)))
    refused = (Fault(FaultKind.CAPACITY, "none", "none"),)
    world.fleet.instances["i-n3"].price_usd_h = None
    world.plans = replace(world.plans, quotes={world.pools[1].name: quote})
    counted.world.apply(e.LaunchEnded(world.now, next(iter(world.fleet.launches)), world.pools[0].name, (), refused))
    world.later(1.0)
    counted.accrue()
    world.later(1.0)
    counted.accrue()
    world.plans = replace(world.plans, quotes={pool.name: quote for pool in world.pools})


def test_one_scrape_is_as_it_always_was_and_tells_everything_in_the_table(counted: Counted) -> None:
    """To renew the file: HOLDFAST_GOLDEN=1. A changed name breaks people's dashboards."""
    full(counted)
    told = counted.text()
    if os.environ.get("HOLDFAST_GOLDEN") == "1":
        GOLDEN.write_text(told)
    assert told == GOLDEN.read_text()
    assert {metric.name for metric in CONTROLLER} == {
        line.split()[2].removesuffix("_total") for line in told.splitlines() if "# TYPE" in line
    }


@pytest.mark.skipif(not PROMTOOL.exists(), reason="scripts/setup could not unpack promtool")
def test_promtool_has_nothing_to_say() -> None:
    found = subprocess.run([PROMTOOL, "check", "metrics"], input=GOLDEN.read_bytes(), capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (0, b"")


def test_an_admins_drain_is_no_lead_time_of_a_cloud(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    notice = Notice("admin-1", NoticeKind.DRAIN, world.now + 60, world.now, "an admin")
    world.apply(e.NoticeReceived(world.now, "n1", notice, "admin"))
    assert counted.value("preemption_notices", "aws", "drain") == 1
    assert counted.seen("preemption_lead_seconds", "aws") == (0, 0.0)
