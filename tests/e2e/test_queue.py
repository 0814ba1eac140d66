"""Under a full queue an evacuated job keeps its surviving nodes and its replacement: the next in line waits for others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
SETTINGS = {
    "nodes": 4,
    "oversubscribe": "EXCLUSIVE",
    "extra_slurm_conf": "SuspendTimeout=8",
}  # a name that was lost is to be had again after it


def occupy(bed: Bed, until_there: Path) -> int:
    """A job of one node that stays until a file is there."""
    options = ("-p", "spot", "-o", f"{until_there}.log", "-D", str(bed.work))
    return bed.slurm.submit(*options, "--wrap", f"until [ -e {until_there} ]; do sleep 0.1; done")


def states(bed: Bed, jobs: list[int]) -> set[str]:
    return {bed.slurm.job(job)["JobState"] for job in jobs}


def reservations(bed: Bed) -> str:
    return bed.sandbox.run(["scontrol", "show", "reservations", "-o"], check=False).stdout


def test_survivors_are_kept_and_the_next_free_node_is_the_evacuated_jobs(bed: Bed, until: Callable[..., Any]) -> None:
    plan = ("--steps", "400", "--every-steps", "1000")
    here = bed.directory()
    job = bed.train(*plan, options=("--nodes=2",))
    others = [occupy(bed, here / f"stop{number}") for number in (1, 2)]
    job.await_event("first_step_done")
    for other in others:
        bed.slurm.await_job(other, {"RUNNING"}, 30)
    rivals = [occupy(bed, here / "stop-all") for _ in range(3)]
    until(
        lambda: len([entry for rival in rivals for entry in bed.journal("JobChanged", rival)]) >= 3, 10, "the controller to see the rivals"
    )
    first, second = before = job.nodes()

    # Nobody ends: the job waits for its own name, which is another machine then, and the survivor waits with it.
    bed.reclaim(second, notice_s=30)
    parked = job.await_event("parked")
    until(lambda: bed.slurm.job(job.job_id)["Restarts"] == "1", 20, "the requeue")
    bed.slurm.await_node(first, lambda seen: {"IDLE", "RESERVED"} <= set(seen["State"].split("+")), 10)
    assert job.await_event("resumed", attempt=1, timeout_s=60)["step"] == parked["step"]
    assert job.nodes() == before
    assert states(bed, rivals) == {"PENDING"}
    until(lambda: "holdfast-" not in reservations(bed), 10, "the reservation to end")

    # Another job ends as this one waits: its node goes to this one, and not to the first in line.
    job.await_event("first_step_done", attempt=1)
    bed.reclaim(first, notice_s=30)
    until(lambda: bed.slurm.job(job.job_id)["Reason"] == "Resources", 20, "the requeued job to be eligible")
    [freed] = bed.hostnames(bed.slurm.job(others[0])["NodeList"])
    (here / "stop1").touch()
    job.await_event("resumed", attempt=2, timeout_s=15)
    assert set(job.nodes()) == {second, freed}
    assert states(bed, rivals) == {"PENDING"}

    (here / "stop2").touch()
    (here / "stop-all").touch()
    assert job.finished()["Restarts"] == "2"
    for rival in rivals:
        bed.slurm.await_job(rival, {"COMPLETED"}, 60)
    assert job.result() == bed.reference(*plan)
    assert "holdfast-" not in reservations(bed)


def test_a_withdrawn_reclaim_lets_the_reservation_go(bed: Bed, until: Callable[..., Any]) -> None:
    here = bed.directory()
    jobs = [occupy(bed, here / "stop") for _ in range(5)]
    until(lambda: sorted(bed.slurm.job(job)["JobState"] for job in jobs) == ["PENDING"] + ["RUNNING"] * 4, 40, "four to run, one to wait")
    [node] = bed.hostnames(bed.slurm.job(jobs[0])["NodeList"])
    instance = bed.sandbox.instances.instance_of(node)
    bed.reclaim(node, notice_s=60)
    until(lambda: "holdfast-" in reservations(bed), 10, "the reservation")
    bed.cloud.cancel_reclaim(instance)
    until(lambda: "holdfast-" not in reservations(bed), 15, "the reservation to end")
    assert bed.slurm.job(jobs[0])["Restarts"] == "0"
    (here / "stop").touch()
    for job in jobs:
        bed.slurm.await_job(job, {"COMPLETED"}, 60)
