"""The controller dies, or loses its journal, in the middle of a two-node job's launch or evacuation: it ends as it would have ended."""

from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed, TrainingJob
from e2e_gang import end, endless, gang
from holdfast_sandbox.cluster_config import AgentSpec, Site
from holdfast_sandbox.defaults import default_agent

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


def patient(site: Site) -> str:
    """An agent that leaves the evacuation to the controller, however long its restarts take: its own deeds are tested elsewhere."""
    template = default_agent().render_template
    assert template is not None
    return template(site) + "patience_s = 50\n"


SETTINGS = {"nodes": 16, "agent": AgentSpec(default_agent().command, patient)}

WALK = (
    "commit.NoticeReceived.before",
    "commit.NoticeReceived.after",
    "effect.DrainNode.before",
    "effect.PrepareJobs.after",
    "effect.RequeueJob.before",
    "effect.RequeueJob.after",
    "effect.TerminateInstance.before",
    "effect.TerminateInstance.after",
)
FURTHER = (
    "effect.StartJob.before",
    "commit.DrainNode.before",
    "effect.DrainNode.after",
    "effect.PrepareJobs.before",
    "effect.PowerUpNode.before",
    "effect.PowerUpNode.after",
    "commit.JobReported.before",
    "commit.RequeueJob.before",
    "commit.RequeueJob.after",
    "commit.JobRequeued.before",
    "commit.JobRequeued.after",
    "commit.StartJob.before",
    "effect.StartJob.after",
    "effect.PowerDownNode.before",
    "effect.PowerDownNode.after",
    "commit.NodesReleased.before",
)


def assert_went_on(bed: Bed, job: TrainingJob, lost: str) -> None:
    """One requeue; from the very step that it had saved; without the lost machine."""
    parked = job.await_event("parked")
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    assert lost not in map(bed.sandbox.instances.instance_of, job.nodes())
    end(bed, job)


def test_dies_at_every_step_of_one_evacuation(bed: Bed) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = gang(bed, *endless(bed))
    job.await_event("first_step_done")
    doomed = job.nodes()[1]
    lost = bed.sandbox.instances.instance_of(doomed)
    bed.restart_controller(fault=WALK[0])
    bed.reclaim(doomed, notice_s=90)
    bed.await_controller_death()
    for point in WALK[1:]:
        bed.restart_controller(fault=point)
        bed.await_controller_death()
    bed.restart_controller()
    assert_went_on(bed, job, lost)
    assert "interrupted 1 time(s)" in bed.slurm.job(job.job_id)["AdminComment"]


@pytest.mark.long
@pytest.mark.parametrize("point", WALK + FURTHER)
def test_dies_at(point: str, bed: Bed) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = gang(bed, *endless(bed))
    job.await_event("first_step_done")
    bed.restart_controller(fault=point)
    doomed = job.nodes()[1]
    lost = bed.sandbox.instances.instance_of(doomed)
    bed.reclaim(doomed, notice_s=40)
    bed.await_controller_death()
    bed.restart_controller()
    assert_went_on(bed, job, lost)
    assert "interrupted 1 time(s)" in bed.slurm.job(job.job_id)["AdminComment"]


def test_loses_its_journal_within_a_launch_and_within_an_evacuation(bed: Bed, until: Callable[..., Any]) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    other = bed.train(*endless(bed), options=("--exclusive",))
    other.await_event("first_step_done")
    bed.cloud.fail_boot(seconds=2.0, count=2)
    job = gang(bed, *endless(bed), fresh=True)
    first = bed.slurm.await_job(job.job_id, {"CONFIGURING", "RUNNING"}, 10)
    nodes = bed.hostnames(first["NodeList"])

    def launched() -> set[str]:
        return {line["instance_id"] for line in bed.record("requested") if line["tags"].get("holdfast:job") == str(job.job_id)}

    until(lambda: len(launched()) == 2, 20, "both machines to be launched")
    bought = launched()
    bed.lose_journal()
    bed.restart_controller()
    job.await_event("first_step_done")
    assert {bed.sandbox.instances.instance_of(node) for node in nodes} == bought, "what had been launched was not adopted"
    doomed = job.nodes()[1]
    lost = bed.sandbox.instances.instance_of(doomed)
    bed.reclaim(doomed, notice_s=40)
    bed.slurm.await_node(doomed, lambda seen: "DRAIN" in seen["State"], 10)
    bed.lose_journal()
    bed.restart_controller()
    assert_went_on(bed, job, lost)
    survivor = next(node for node in nodes if node != doomed)
    assert bed.sandbox.instances.instance_of(survivor) in bought
    end(bed, other, restarts=0)
