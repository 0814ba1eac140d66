"""A spot node is taken back under a training job, which goes on elsewhere from the very step it had reached."""

import pytest
from e2e_bed import Bed, TrainingJob

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
SETTINGS = {"nodes": 6}


def assert_same_end(bed: Bed, job: TrainingJob, *arguments: str) -> None:
    assert job.result() == bed.reference(*arguments)


def test_at_a_free_moment(bed: Bed) -> None:
    plan = ("--steps", "120", "--every-steps", "1000")
    job = bed.train(*plan)
    job.await_event("first_step_done")
    [node] = job.nodes()
    notice = bed.reclaim(node, notice_s=30)
    parked = job.await_event("parked")
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == parked["step"] > 0
    ended = job.finished()
    assert ended["Restarts"] == "1"
    assert [attempt for attempt, _ in job.starts()] == [0, 1]
    assert job.starts()[1][1] != node
    assert job.events("first_step", attempt=1)[0]["step"] == parked["step"], "a step was done twice, or left out"
    # Neither Slurm's two minutes nor the end of the notice were waited for.
    assert resumed["t"] < notice["deadline"] - 10
    assert_same_end(bed, job, *plan)


def test_while_a_checkpoint_is_being_written(bed: Bed) -> None:
    plan = ("--steps", "30", "--every-steps", "20", "--ballast-kib", "1024")
    job = bed.train(*plan, env={"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "0.5"})
    began = job.await_event("save_began")
    assert (began["step"], began["why"]) == (20, "due")
    [node] = job.nodes()
    bed.reclaim(node, notice_s=40)
    parked = job.await_event("parked")
    [seen] = job.events("notice_seen", 0)
    first, last = job.events("save_ended", 0)
    assert began["t"] < seen["t"] < first["t"], "the notice was to come within the save"
    assert first["ok"]
    assert first["seconds"] > 1.5, "the bandwidth limit was to make the save last"
    assert first["blocked_s"] < 0.5, "training goes on while it is written"
    # What is being written is finished, and the window is long enough for the step that training has reached: no step is lost.
    assert last["ok"]
    assert parked["step"] == last["step"] > first["step"] == 20
    assert parked["steps_lost"] == 0
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"]
    assert job.finished()["Restarts"] == "1"
    assert_same_end(bed, job, *plan)


def test_without_any_notice(bed: Bed) -> None:
    plan = ("--steps", "100", "--every-steps", "10")
    job = bed.train(*plan)
    job.await_event("save_ended", step=20)
    [node] = job.nodes()
    bed.cloud.kill(bed.sandbox.instances.instance_of(node))
    resumed = job.await_event("resumed", attempt=1)
    reached = job.events("save_ended", attempt=0)[-1]["step"]
    assert resumed["step"] == reached >= 20, "it goes on from the newest checkpoint, so fewer than ten steps are lost"
    assert job.finished()["Restarts"] == "1"
    assert job.starts()[1][1] != node
    assert_same_end(bed, job, *plan)
