"""The example's real PyTorch training, reclaimed on one node and on one node of two: it ends with the very bits of an undisturbed run.

The references are jobs as well, on the same kind of nodes, that nothing interrupts.
"""

import json
from typing import Any

import pytest
from e2e_bed import EXAMPLE, Bed, TrainingJob

pytestmark = [pytest.mark.slurm, pytest.mark.torch, pytest.mark.timeout(150)]
SETTINGS = {"nodes": 6}
QUICK = "--depth 8 --synthetic-images 200 --batch-size 8 --every-steps 1000 --print-every 1000"


def submit(bed: Bed, script: str, arguments: str) -> TrainingJob:
    """Exclusive: its ranks share a node with nothing, and a reclaim meets one job."""
    directory = bed.directory()
    out = f"--out {directory / 'out.pt'}"
    return bed.submit(directory, EXAMPLE / script, "--exclusive", "--", QUICK, arguments, out, chdir=EXAMPLE)


def outcome(job: TrainingJob) -> dict[str, Any]:
    """Hashes of the final parameters, buffers and optimizer state."""
    found: dict[str, Any] = json.loads((job.directory / "out.pt.json").read_text())
    return found


@pytest.mark.long  # the two-node job shows the same
def test_one_node(bed: Bed) -> None:
    job = submit(bed, "train.sh", "--steps 40 --step-sleep-s 0.05")
    job.await_event("first_step_done")
    [node] = job.nodes()
    bed.reclaim(node, notice_s=40)
    parked = job.await_event("parked")
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"] < 40
    reference = submit(bed, "train.sh", "--steps 40")
    assert job.finished()["Restarts"] == "1"
    assert reference.finished()["Restarts"] == "0"
    assert outcome(job) == outcome(reference)
    assert outcome(job)["step"] == 40


def test_one_node_of_a_two_node_job_and_the_survivor_is_used_again(bed: Bed) -> None:
    steps = 30
    job = submit(bed, "train_2node.sh", f"--steps {steps} --step-sleep-s 0.1")
    job.await_event("first_step_done", timeout_s=60)
    first, second = job.nodes()
    [(_, leader)] = job.starts()
    assert leader == first
    bed.reclaim(second, notice_s=40)  # not where the batch script runs: the survivor's rank must hear of it from another node
    parked = job.await_event("parked")
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == parked["step"] < steps
    again = job.nodes()
    assert first in again, "the survivor was not used again"
    assert second not in again
    reference = submit(bed, "train_2node.sh", f"--steps {steps}")
    assert job.finished()["Restarts"] == "1"
    bought = [line["instance_id"] for line in bed.record("requested")]
    survivor = bed.sandbox.instances.instance_of(first)
    assert survivor in bought, "the survivor is the instance that it was"
    assert reference.finished()["Restarts"] == "0"
    assert outcome(job) == outcome(reference)
    assert outcome(job)["world_size"] == 2
