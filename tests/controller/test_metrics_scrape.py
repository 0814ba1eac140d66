"""What one scrape of the controller tells: as it always was, whole, and to promtool's liking."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from counting import Counted
from holdfast_common.health.model import Action, Finding
from holdfast_common.metrics import CONTROLLER
from holdfast_controller import events as e
from holdfast_controller.metrics.goodput import Progress
from holdfast_controller.metrics.tally import INTENTIONAL_S, reason_class
from holdfast_controller.providers.base import Fault, FaultKind, Quote

GOLDEN = Path(__file__).parents[1] / "metrics" / "golden" / "controller.txt"
PROMTOOL = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin" / "promtool"


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


def test_a_name_that_has_another_machine_is_not_down_on_purpose(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    old = world.fleet.instances["i-n1"].instance
    world.notice("n1")
    world.job(7, "COMPLETED", "n1")
    world.apply(e.AgentLost(world.now, "i-n1"), e.InstanceChanged(world.now, replace(old, state="gone")))
    world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN")
    world.later(60.0)
    world.running(8, "n1", instances=("i-new",))
    assert world.fleet.nodes["n1"].instance_id == "i-new"
    world.apply(e.InstanceChanged(world.now, replace(old, state="gone", state_reason="said again")))
    world.apply(e.AgentLost(world.now, "i-new"))
    assert "node_intentional_down" not in counted.text(), "an agent that is silent now is an alert"


def test_a_drain_whose_reason_a_later_step_has_replaced_is_still_of_its_sort(counted: Counted) -> None:
    world = counted.world
    world.running(7, "n1")
    world.notice("n1")
    world.node("n1", "ALLOCATED", "CLOUD", "DRAIN", reason="holdfast: the last job is out of n1")
    assert 'node_drain_info{node="n1",owner="holdfast",reason_class="preempt"} 1.0' in counted.text()
