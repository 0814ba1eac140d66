"""A machine is gone without a word: the job runs again within seconds of anyone saying so, whatever the controller goes through."""

import pytest
from e2e_bed import Bed, TrainingJob
from e2e_gang import gang

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
SETTINGS = {"nodes": 12}
PLAN = ("--steps", "60", "--every-steps", "10")
MESSAGE_TIMEOUT_S = 10.0
"""slurm.conf's: where no step tells Slurm sooner, a requeue waits so long for a dead node of several."""
STEP_S = 3.0
"""… and so long with a step on the survivor (measured: 2.7 s)."""
BUSY_S = 5.0
"""For our own part and Slurm's, on a machine that is busy; it takes 1 to 2 s where it is not."""


def lose(bed: Bed, node: str) -> str:
    """Take a node's machine away at once, and return its instance's id."""
    instance = bed.sandbox.instances.instance_of(node)
    bed.cloud.kill(instance)
    return instance


def known(bed: Bed, instance: str) -> float:
    """When the cloud's list told the controller."""
    told = [entry.at for entry in bed.journal("InstanceChanged") if entry.body["instance"]["instance_id"] == instance]
    return next(at for at, entry in zip(told, _states(bed, instance), strict=True) if entry == "gone")


def _states(bed: Bed, instance: str) -> list[str]:
    entries = bed.journal("InstanceChanged")
    return [entry.body["instance"]["state"] for entry in entries if entry.body["instance"]["instance_id"] == instance]


def started(job: TrainingJob, attempt: int) -> float:
    """When an attempt's batch script began."""
    lines = (job.directory / "ck" / "starts.txt").read_text().splitlines()
    return next(float(line.split()[0]) for line in lines if line.split()[1] == str(attempt))


def assert_went_on(bed: Bed, job: TrainingJob) -> None:
    """It goes on from its newest checkpoint, and ends as if nothing had been."""
    resumed = job.await_event("resumed", attempt=1)
    assert resumed["step"] == job.events("save_ended", attempt=0)[-1]["step"] >= 10
    assert job.finished()["Restarts"] == "1"
    assert job.result() == bed.reference(*PLAN)
    assert "interrupted 1 time(s)" in bed.slurm.job(job.job_id)["AdminComment"]


def test_one_node_with_others_idle(bed: Bed) -> None:
    job = bed.train(*PLAN, options=("--exclusive",))
    spare = bed.train("--steps", "1", options=("--exclusive",))
    spare.finished()
    job.await_event("save_ended", step=10)
    [node] = job.nodes()
    instance = lose(bed, node)
    assert_went_on(bed, job)
    assert job.starts()[1][1] == spare.nodes()[0]
    took_s = started(job, 1) - known(bed, instance)
    assert took_s < BUSY_S, f"{took_s:.1f} s from the loss being known to the job running again"


@pytest.mark.parametrize(
    ("step", "victim"),
    [(True, 1), pytest.param(True, 0, marks=pytest.mark.long), pytest.param(False, 1, marks=pytest.mark.long)],
    ids=["with a step", "the batch script's node", "without a step"],
)
def test_one_node_of_two(step: bool, victim: int, bed: Bed) -> None:
    job = gang(bed, *PLAN, step=step)
    job.await_event("save_ended", step=10)
    nodes = job.nodes()
    instance = lose(bed, nodes[victim])
    assert_went_on(bed, job)
    assert nodes[victim] not in job.nodes()
    assert nodes[1 - victim] in job.nodes(), "the survivor was not used again"
    bought = next(line["t"] for line in reversed(bed.record("running")))
    took_s = started(job, 1) - max(known(bed, instance), bought)
    most_s = BUSY_S + (STEP_S if step else MESSAGE_TIMEOUT_S)
    assert took_s < most_s, f"{took_s:.1f} s from the loss being known (or the new node's start)"


@pytest.mark.long
def test_the_controller_dies_at_each_step_of_a_loss(bed: Bed) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = gang(bed, *PLAN, "--step-s", "0.3")
    job.await_event("save_ended", step=10)
    bed.restart_controller(fault="effect.RequeueJob.before")
    lost = job.nodes()[1]
    lose(bed, lost)
    bed.await_controller_death()
    for point in ("effect.RequeueJob.after", "effect.PowerDownNode.after"):
        bed.restart_controller(fault=point)
        bed.await_controller_death()
    bed.restart_controller()
    assert_went_on(bed, job)
    assert lost not in job.nodes()


@pytest.mark.long
def test_the_controller_is_away_when_the_machine_is_lost(bed: Bed) -> None:
    """Slurm would say so after SlurmdTimeout; the cloud's list does when the controller is back."""
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = bed.train(*PLAN)
    job.await_event("save_ended", step=10)
    [node] = job.nodes()
    bed.sandbox.supervisor.kill("controller")
    lose(bed, node)
    bed.restart_controller()
    assert_went_on(bed, job)
