"""What the controller tells Prometheus while nodes come and go, jobs leave, and it dies itself."""

from collections import Counter
from typing import Any

import pytest
from holdfast_controller.metrics.collector import NODE_PHASES
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.metrics.leaving import CAUSES
from holdfast_controller.metrics.service import MetricsService
from holdfast_controller.metrics.tally import INTENTIONAL_S
from sim_invariants import settle
from sim_training import running


def total(counts: Counts, name: str) -> int:
    """Return how much has been observed, whatever the cause."""
    found = (counts.observed(name, cause) for cause in CAUSES)
    return sum(seen.total for seen in found if seen is not None)


class Prometheus:
    """Looks twice a second, as a scrape of all machines would: who answers, and who is said to be down on purpose."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.down_s: Counter[str] = Counter()
        """For how long an alert on a silent agent has been pending, at the longest."""
        self._pending: Counter[str] = Counter()

    @property
    def metrics(self) -> MetricsService:
        return self.world.controller.metrics

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        for family in self.metrics.families():
            if family.name == f"holdfast_{name}":
                return {tuple(sample.labels.values()): sample.value for sample in family.samples}
        return {}

    def listed(self) -> set[str]:
        return {group["labels"]["node"] for group in self.metrics.targets()}

    def look(self) -> None:
        assert {phase for (phase,) in self.series("nodes")} == set(NODE_PHASES)
        on_purpose = {node for (node,) in self.series("node_intentional_down")}
        answers = {machine.name for machine in self.world.room.living()}
        alerts = self.listed() - answers - on_purpose
        for node in self.world.names:
            self._pending[node] = self._pending[node] + 1 if node in alerts else 0
            self.down_s[node] = max(self.down_s[node], self._pending[node] // 2)

    def watch(self, duration_s: float) -> None:
        for _ in range(int(duration_s * 2)):
            self.world.wait(0.5)
            self.look()

    def value(self, name: str, *labels: str) -> float:
        return self.metrics.counts.value(name, *labels)

    def total(self, name: str) -> int:
        return total(self.metrics.counts, name)


@pytest.fixture
def prometheus(world: Any) -> Prometheus:
    return Prometheus(world)


def test_a_preemption_is_told_whole_and_raises_no_alert(world: Any, prometheus: Prometheus) -> None:
    job = world.submit(work=120)
    world.until(running(job), 60)
    prometheus.watch(5)
    node = job.running.nodes[0]
    assert prometheus.listed() == {node}
    world.reclaim(node, 60)
    world.until(running(job, 1), 60)
    prometheus.watch(60)
    assert prometheus.down_s[node] == 0, "never was a listed agent silent that was not said to be down on purpose"
    assert prometheus.value("preemption_notices", "fake", "preempt") == 1
    assert prometheus.value("evacuations", "preempt", "saved") == 1
    assert prometheus.value("requeues", "preempt") == 1
    assert prometheus.value("preemption_unnoticed", "fake") == 0
    assert prometheus.value("steps_lost", "preempt") == 0
    assert prometheus.value("gpu_seconds_lost", "preempt") == 0
    assert [prometheus.total(f"{part}_duration_seconds") for part in ("checkpoint", "requeue", "resume")] == [1, 1, 1]
    world.until(lambda: job.done_at, 200)
    settle(world)
    assert not prometheus.listed() - {machine.name for machine in world.room.living()}


def test_a_machine_that_dies_without_a_word_is_an_alert_for_seconds_only(world: Any, prometheus: Prometheus) -> None:
    job = world.submit(2, work=90)
    world.until(running(job), 60)
    node = job.running.nodes[0]
    world.reclaim(node, 0.0, notice=False)
    prometheus.watch(120)
    assert prometheus.down_s[node] <= 30, "the alert waits for 180"
    assert prometheus.value("preemption_unnoticed", "fake") == 1
    assert prometheus.value("requeues", "loss") == 1
    assert prometheus.value("evacuations", "loss", "unsaved") == 1
    assert prometheus.value("job_gpu_seconds", "useful") > 0
    world.until(lambda: job.done_at, 200)
    settle(world)


def test_a_name_that_has_a_new_machine_is_not_down_on_purpose_any_more(world: Any, prometheus: Prometheus) -> None:
    job = world.submit(len(world.names), work=200)
    world.until(running(job), 60)
    node = job.running.nodes[0]
    world.reclaim(node, 30)
    world.until(running(job, 1), 200)
    assert node in job.running.nodes, "there is no other"
    prometheus.watch(5)
    assert prometheus.series("node_intentional_down") == {}
    assert prometheus.listed() == set(world.names)
    world.until(lambda: job.done_at, 300)
    prometheus.watch(INTENTIONAL_S / 4)
    assert max(prometheus.down_s.values()) == 0
    settle(world)


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0, 3.0, 5.0, 9.0, 20.0])
def test_a_controller_that_dies_counts_each_thing_once_over_its_lives(world: Any, prometheus: Prometheus, after_s: float) -> None:
    job = world.submit(work=120)
    world.until(running(job), 60)
    world.reclaim(job.running.nodes[0], 60)
    world.wait(after_s)
    before = prometheus.metrics.counts
    world.restart(away_s=0.5)
    world.until(running(job, 1), 90)
    world.until(lambda: job.done_at, 300)
    prometheus.watch(20)

    def both(name: str, *labels: str) -> float:
        return before.value(name, *labels) + prometheus.value(name, *labels)

    assert both("preemption_notices", "fake", "preempt") == 1
    assert both("requeues", "preempt") == 1
    assert both("evacuations", "preempt", "saved") == 1
    assert both("preemption_unnoticed", "fake") == 0
    for name in ("requeue_duration_seconds", "resume_duration_seconds"):
        assert total(before, name) + prometheus.total(name) == 1, name
    settle(world)


def test_a_job_that_registered_and_could_not_save_in_time_has_missed_its_deadline(world: Any, prometheus: Prometheus) -> None:
    job = world.submit(work=60, save_s=50.0)
    world.until(running(job), 60)
    world.wait(10)
    world.reclaim(job.running.nodes[0], 30)
    world.until(running(job, 1), 120)
    assert prometheus.value("evacuations", "preempt", "deadline_missed") == 1
    assert prometheus.value("evacuations", "preempt", "saved") == 0
    world.until(lambda: job.done_at, 300)
    settle(world)


def test_a_withdrawn_notice_is_no_requeue(world: Any, prometheus: Prometheus) -> None:
    job = world.submit(2, work=90, save_s=20.0)
    world.until(running(job), 60)
    machine = world.machine_of(job.running.nodes[0])
    world.reclaim(machine.registered, 120)
    world.wait(5)
    world.slurm_call(machine.spare)
    world.until(lambda: job.done_at, 130)
    prometheus.watch(5)
    assert prometheus.value("evacuations", "preempt", "withdrawn") == 1
    assert prometheus.value("requeues", "preempt") == 0
    assert prometheus.series("preemption_deadline_timestamp_seconds") == {}
    settle(world)
