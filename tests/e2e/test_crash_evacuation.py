"""The controller dies in the middle of an evacuation, at each step of it, and is started again: one requeue, and nothing is left over."""

from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
SETTINGS = {"nodes": 14}

POINTS = (
    "effect.StartJob.before",
    "effect.PowerDownNode.after",
)
FURTHER = (  # the steps of a two-node evacuation are walked through in one go elsewhere
    "commit.NoticeReceived.before",  # the agent was not answered: it says it again
    "effect.DrainNode.before",
    "effect.DrainNode.after",
    "effect.RequeueJob.before",
    "effect.RequeueJob.after",  # requeued, and nobody has noted it
    "effect.PowerDownNode.before",
    "effect.TerminateInstance.before",
)


@pytest.mark.parametrize("point", [*POINTS, *(pytest.param(each, marks=pytest.mark.long) for each in FURTHER)])
def test_controller_dies_at(point: str, bed: Bed) -> None:
    plan = ("--steps", "40", "--every-steps", "1000")
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    bed.restart_controller(fault=point)
    job = bed.train(*plan)
    job.await_event("first_step_done")
    [node] = job.nodes()
    bed.reclaim(node, notice_s=25)
    bed.await_controller_death()
    bed.restart_controller()
    parked = job.await_event("parked")
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    assert job.finished()["Restarts"] == "1"
    assert job.starts()[1][1] != node
    assert job.result() == bed.reference(*plan)
    assert "interrupted 1 time(s)" in bed.slurm.job(job.job_id)["AdminComment"]


def test_killed_while_the_job_saves(bed: Bed) -> None:
    plan = ("--steps", "30", "--every-steps", "1000", "--ballast-kib", "1024")
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    bed.restart_controller()
    job = bed.train(*plan, env={"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "0.7"})
    job.await_event("first_step_done")
    [node] = job.nodes()
    bed.reclaim(node, notice_s=25)
    saving = job.await_event("save_began")
    bed.sandbox.supervisor.kill("controller")
    bed.restart_controller()
    assert job.await_event("parked")["step"] == saving["step"]
    assert job.finished()["Restarts"] == "1"
    assert job.result() == bed.reference(*plan)


def test_without_a_controller_the_node_does_it_itself(bed: Bed, until: Callable[..., Any]) -> None:
    plan = ("--steps", "40", "--every-steps", "1000")
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = bed.train(*plan)
    job.await_event("first_step_done")
    [node] = job.nodes()
    bed.sandbox.supervisor.kill("controller")
    bed.reclaim(node, notice_s=30)
    parked = job.await_event("parked")
    until(lambda: bed.slurm.job(job.job_id)["Restarts"] == "1", 30, "the requeue by the node's agent")
    bed.restart_controller()
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    assert job.finished()["Restarts"] == "1"
    assert bed.journal("JobRequeued", job.job_id) == [], "it was to be the agent's deed"
    assert job.result() == bed.reference(*plan)
    assert "interrupted 1 time(s)" in bed.slurm.job(job.job_id)["AdminComment"], "counted although nobody told of it"
