"""Jobs that end by themselves, at a bad moment among others, stay ended; a reclaim that is withdrawn costs a job nothing but a save."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
SETTINGS = {"nodes": 5}
DONE = {"COMPLETED", "FAILED"}


def script(bed: Bed, body: str, began: Path) -> int:
    """Submit a job that says that it has begun, in a file."""
    options = ("-p", "spot", "-o", f"{began}.log", "-D", str(bed.work), "--requeue")
    return bed.slurm.submit(*options, "--wrap", f"touch {began}; {body}")


def assert_stays(bed: Bed, job_id: int, state: str, for_s: float = 3.0) -> None:
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        job = bed.slurm.job(job_id)
        assert (job["JobState"], job["Restarts"]) == (state, "0")
        time.sleep(0.3)


def test_a_job_that_has_ended_is_not_run_again(bed: Bed) -> None:
    here = bed.directory()
    good, bad = script(bed, "sleep 1", here / "good"), script(bed, "sleep 1; exit 3", here / "bad")
    nodes = {bed.slurm.await_job(job, DONE, 40)["NodeList"] for job in (good, bad)}
    for node in nodes:
        bed.reclaim(node, notice_s=5)
    assert_stays(bed, good, "COMPLETED")
    assert_stays(bed, bad, "FAILED")


def test_a_job_that_ends_between_notice_and_deadline_is_not_run_again(bed: Bed, until: Callable[..., Any]) -> None:
    here = bed.directory()
    stop, began = here / "stop", (here / "good", here / "bad")
    good, bad = (
        script(bed, f"until [ -e {stop} ]; do sleep 0.1; done; exit {code}", said) for code, said in zip((0, 3), began, strict=True)
    )
    until(lambda: all(said.exists() for said in began), 40, "both jobs to begin")
    nodes = {bed.slurm.job(job)["NodeList"] for job in (good, bad)}
    for node in nodes:
        bed.reclaim(node, notice_s=20)
        bed.slurm.await_node(node, lambda seen: "DRAIN" in seen["State"], 10)
    stop.touch()
    for job, state in ((good, "COMPLETED"), (bad, "FAILED")):
        bed.slurm.await_job(job, DONE, 10)
        assert_stays(bed, job, state)


def test_a_training_run_that_ends_after_its_notice_is_not_run_again(bed: Bed) -> None:
    job = bed.train("--steps", "1", "--step-s", "4")
    job.await_event("first_step")
    bed.reclaim(job.nodes()[0], notice_s=25)
    assert job.finished()["Restarts"] == "0"
    assert_stays(bed, job.job_id, "COMPLETED")
    assert len(job.starts()) == 1


@pytest.mark.parametrize("parked", [False, True], ids=["within a step", "when it has parked"])
def test_a_reclaim_that_is_withdrawn_lets_the_job_go_on(parked: bool, bed: Bed) -> None:
    plan = ("--steps", "3", "--every-steps", "1000")
    # What may not be requeued stays parked; any other job leaves at the moment when it has parked, and no withdrawal comes in time.
    job = bed.train(*plan, "--step-s", "1.5", options=("--no-requeue",) if parked else ())
    job.await_event("first_step")
    [node] = job.nodes()
    instance = bed.sandbox.instances.instance_of(node)
    bed.reclaim(node, notice_s=60)
    bed.slurm.await_node(node, lambda seen: "DRAIN" in seen["State"], 3)
    if parked:
        job.await_event("parked")
    bed.cloud.cancel_reclaim(instance)
    if parked:
        job.await_event("unparked", timeout_s=5)
    bed.slurm.await_node(node, lambda seen: "DRAIN" not in seen["State"], 20)
    assert job.finished()["Restarts"] == "0"
    assert [seen["action"] for seen in job.events("notice_seen")] == ["save_and_park"]
    assert len(job.events("parked")) == parked
    assert job.nodes() == [node]
    assert bed.sandbox.instances.instance_of(node) == instance
    assert job.result() == bed.reference(*plan)
