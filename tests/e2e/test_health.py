"""A GPU fails under a training job: the job goes on elsewhere from its very step, the machine is replaced, and Prometheus says so."""

import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from e2e_bed import Bed, TrainingJob, until
from e2e_gang import end, endless, gang, switched_on
from e2e_prometheus import Prometheus
from holdfast_sandbox.processes import with_environment

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
SETTINGS = {"nodes": 8, "gpu_profile": "h100x8"}
PLAN = ("--steps", "150", "--every-steps", "1000")
GPUS = 8
ALERT = "XidReset"


@pytest.fixture(scope="module")
def prometheus(shared_bed: Bed) -> Iterator[Prometheus]:
    started = Prometheus(shared_bed, shared_bed.work / "prometheus")
    yield started
    started.stop()


def watched(prometheus: Prometheus, nodes: list[str]) -> bool:
    """Whether Prometheus has all GPUs of the nodes."""
    return all(len(prometheus.query(f'holdfast_gpu_up{{node="{node}"}} == 1')) == GPUS for node in nodes)


def until_gone(bed: Bed, instance: str) -> None:
    """Wait for the machine's end, by the cloud's own record."""
    until(lambda: any(line["instance_id"] == instance for line in bed.record("terminated")), 30, f"the end of {instance}")


def drained(bed: Bed, node: str, since: float) -> float:
    """When no new job comes to the node any more, by slurmctld's log."""
    for line in (bed.sandbox.layout.log / "slurmctld.log").read_text(errors="replace").splitlines():
        stamp, _, text = line.partition("] ")
        if f"update_node: node {node} state set to DRAIN" in text and datetime.fromisoformat(stamp[1:]).timestamp() >= since - 0.001:
            return datetime.fromisoformat(stamp[1:]).timestamp()
    raise AssertionError(f"{node} was not drained")


def test_xid_79_on_one_node_of_two(bed: Bed, prometheus: Prometheus) -> None:
    job = gang(bed, *PLAN)
    job.await_event("first_step_done")
    healthy, sick = job.nodes()
    until(lambda: watched(prometheus, [healthy, sick]), 20, "the GPUs in Prometheus")
    instance, gpus = bed.sandbox.instances.instance_of(sick), bed.sandbox.gpus(sick)
    notice = bed.sandbox.instances.directory(sick) / "run" / "jobs" / f"{job.job_id}.0" / "node" / "notice.json"
    until(lambda: prometheus.firing() == [], 10, "no alert")
    at = time.time()
    gpus.xid(79, gpu=3)
    parked = job.await_event("parked")
    told = notice.stat().st_mtime
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == parked["step"] > 0
    assert parked["steps_lost"] == 0
    assert sick not in job.nodes()
    assert healthy in job.nodes(), "the healthy node was not used again"
    assert any(line["t"] >= at for line in bed.record("requested")), "no other machine was bought"
    until(lambda: (ALERT, sick) in prometheus.fired(at), 15, f"{ALERT} of {sick}")
    until_gone(bed, instance)
    assert job.finished()["Restarts"] == "1"
    assert job.result() == bed.reference(*PLAN)
    print(f"from the kernel's line: drained {drained(bed, sick, at) - at:.2f} s, job told {told - at:.2f} s")
    until(lambda: prometheus.firing() == [], 30, "the end of all alerts")


def test_a_node_that_is_taken_back_raises_no_alert(bed: Bed, prometheus: Prometheus) -> None:
    job = bed.train("--steps", "100", "--every-steps", "1000")
    job.await_event("first_step_done")
    [node] = job.nodes()
    until(lambda: watched(prometheus, [node]), 20, "the GPUs in Prometheus")
    instance, at = bed.sandbox.instances.instance_of(node), time.time()
    bed.reclaim(node, notice_s=4)
    until_gone(bed, instance)
    assert job.finished()["Restarts"] == "1"
    time.sleep(3)  # two scrapes of what is not there any more, and the second that an alert waits
    assert prometheus.fired(at) == set()


@pytest.mark.long
def test_a_row_that_waits_for_a_reset_lets_the_job_end(bed: Bed) -> None:
    job = bed.train(*endless(bed), options=("--exclusive",))
    job.await_event("first_step_done")
    [node] = job.nodes()
    instance = bed.sandbox.instances.instance_of(node)
    bed.sandbox.gpus(node).remap()
    seen = bed.slurm.await_node(node, lambda found: "DRAIN" in found["State"], 20)
    assert seen["Reason"].startswith("holdfast: health: ")
    time.sleep(3)
    assert job.events("notice_seen") == [], "the job was disturbed"
    assert not any(line["instance_id"] == instance for line in bed.record("terminated"))
    end(bed, job, restarts=0)
    until_gone(bed, instance)


@pytest.mark.long
@pytest.mark.parametrize("first", ["the kernel's line", "the crash"])
def test_a_job_that_crashes_before_it_can_save_runs_again(first: str, bed: Bed) -> None:
    plan = ("--steps", "100", "--every-steps", "10")
    job = bed.train(*plan, options=("--exclusive",))
    job.await_event("save_ended", step=10)
    [node] = job.nodes()
    instance = bed.sandbox.instances.instance_of(node)
    if first == "the crash":
        crash(job)
        bed.sandbox.gpus(node).xid(79)
    else:
        bed.sandbox.gpus(node).xid(79)
        crash(job)
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == job.events("save_ended", attempt=0)[-1]["step"] >= 10
    assert job.finished()["Restarts"] == "1"
    assert job.starts()[1][1] != node
    assert job.result() == bed.reference(*plan)
    until_gone(bed, instance)


def crash(job: TrainingJob) -> None:
    """Kill what trains, as a CUDA error would."""
    pids = with_environment("HOLDFAST_CHECKPOINT_DIR", str(job.directory / "ck"))
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_a_machine_that_comes_with_a_gpu_less_never_takes_a_job(bed: Bed) -> None:
    bed.sandbox.spoil_next_machine()
    began = time.time()
    job = bed.train("--steps", "5", options=("--exclude", ",".join(switched_on(bed))) if switched_on(bed) else ())
    spoilt = until(lambda: [line["instance_id"] for line in bed.record("running") if line["t"] >= began], 20, "a machine")[0]
    until_gone(bed, spoilt)
    assert not (bed.sandbox.layout.cloud / "instances" / spoilt / "run" / "slurmd.log").exists(), "slurmd was started on it"
    assert job.finished()["Restarts"] == "0"
    assert len(job.starts()) == 1


@pytest.mark.long
def test_a_dry_run_does_nothing_until_it_is_none(bed: Bed) -> None:
    rules = bed.sandbox.layout.health_rules
    real = rules.read_text()
    rules.write_text(re.sub(r"^action = ", "dry_run = true\naction = ", real, flags=re.MULTILINE))
    bed.restart_controller()
    job = bed.train(*endless(bed), options=("--exclusive",))
    job.await_event("first_step_done")
    [node] = job.nodes()
    instance = bed.sandbox.instances.instance_of(node)
    bed.sandbox.gpus(node).xid(79)
    until(lambda: any(f["dry_run"] for entry in bed.journal("HealthReported") for f in entry.body["findings"]), 20, "the finding")
    time.sleep(3)
    assert job.events("notice_seen") == []
    assert "DRAIN" not in bed.slurm.node(node)["State"]
    rules.write_text(real)
    bed.restart_controller()
    job.await_event("resumed", attempt=1)
    end(bed, job)
    until_gone(bed, instance)
