"""slurmctld is restarted, or told to read its configuration again, at every stage of a job's life: the job runs, and runs again, once."""

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed, TrainingJob
from e2e_gang import end, endless, switched_on
from e2e_invariants import violations
from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.defaults import default_controller, default_policy

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def patient(site: Site) -> str:
    """The sandbox's policy: a reconfigure may keep slurmctld dark for 5 s for each node that boots and has no address yet."""
    return default_policy(site).replace("registration_timeout_s = 45", "registration_timeout_s = 25, orphan_grace_s = 10")


SETTINGS: dict[str, Any] = {"nodes": 12, "controller": default_controller(policy=patient)}
RESTED_S = 80.0
"""A node that was up, and that a slurmctld which was killed believes to boot, is bought anew after the policy's time-out."""
COMPLETING_S = 10.0


def saved(bed: Bed, job: TrainingJob, until: Callable[..., Any]) -> None:
    """Wait until slurmctld has saved what it knows now, which it does at most every 6 s: killed before, it has forgotten it."""
    began = time.time()
    state = bed.sandbox.layout.slurm_state / "job_state"
    bed.sandbox.run(["scontrol", "update", f"jobid={job.job_id}", "comment=something to save"])
    until(lambda: state.stat().st_mtime > began, 15, "slurmctld to save its state")


def terminated(bed: Bed) -> None:
    bed.sandbox.supervisor.stop("slurmctld")
    bed.sandbox.start_component("slurmctld")


def killed(bed: Bed) -> None:
    bed.sandbox.supervisor.kill("slurmctld", signal.SIGKILL)
    bed.sandbox.start_component("slurmctld")


def reconfigured(bed: Bed) -> None:
    bed.sandbox.run(["scontrol", "reconfigure"])


def reconfigured_by_us(bed: Bed) -> None:
    bed.sandbox.run(["holdfast", "reconfigure"])


def stubborn(bed: Bed) -> TrainingJob:
    """A job that ignores SIGTERM: requeued, it is COMPLETING until KillWait is over."""
    up = switched_on(bed)
    return bed.train(
        *endless(bed),
        "--ballast-kib",
        "1024",
        options=("--exclude", ",".join(up)) if up else (),
        env={"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "0.25"},
        python=f"env --ignore-signal=TERM {sys.executable}",
    )


def completing(bed: Bed, job: TrainingJob) -> bool:
    return "COMPLETING" in bed.sandbox.run(["squeue", "-h", "-j", str(job.job_id), "-o", "%T"]).stdout


@pytest.mark.parametrize(
    "disturbed",
    [killed, *(pytest.param(each, marks=pytest.mark.long) for each in (terminated, reconfigured, reconfigured_by_us))],
)
def test_at_every_stage(disturbed: Callable[[Bed], None], bed: Bed, until: Callable[..., Any]) -> None:
    bed.allow_hook_lines(r"resume file not used|not done in time")  # gone with the slurmctld that had made it; a busy machine
    bed.cloud.fail_boot(seconds=3.0, count=1)
    job = stubborn(bed)
    seen = bed.slurm.await_job(job.job_id, {"CONFIGURING"}, 10)
    [node] = bed.hostnames(seen["NodeList"])
    disturbed(bed)  # ResumeProgram has just been called, or is about to be
    bed.until_bought(node)
    disturbed(bed)  # the node boots, and the gate waits
    # `holdfast reconfigure` sent its gate away: it starts at slurmctld's 30-second look, which may have been dark for 20 s before.
    job.await_event("first_step_done", timeout_s=80)
    if disturbed is killed:
        saved(bed, job, until)
        bed.requeued_again.add(job.job_id)
    disturbed(bed)  # it runs
    assert bed.slurm.job(job.job_id)["JobState"] == "RUNNING"

    bed.cloud.fail_boot(seconds=3.0, count=1)
    bought = len(bed.record("requested"))
    bed.reclaim(node, notice_s=60)
    saving = job.await_event("save_began")
    # Restarted between POWER_UP and ResumeProgram, Slurm keeps the flag POWER_UP for ever (docs/limits.md).
    bed.slurm.await_node(node, lambda now: "DRAIN" in now["State"], 10)
    if any(entry.command["for_job"] == job.job_id for entry in bed.journal("PowerUpNode")):
        until(lambda: len(bed.record("requested")) > bought, 10, "the replacement to be bought")
    disturbed(bed)  # it saves
    parked = job.await_event("parked")
    until(lambda: bed.slurm.job(job.job_id)["Restarts"] == "1", COMPLETING_S, "the requeue")
    assert completing(bed, job)
    disturbed(bed)  # requeued, and COMPLETING
    until(lambda: bed.slurm.job(job.job_id)["JobState"] in {"PENDING", "CONFIGURING"} and not completing(bed, job), 20, "the job to be out")
    if disturbed is killed:  # else it forgets both requeues, and the job waits for the deadline
        saved(bed, job, until)
    disturbed(bed)  # it waits for its start
    # A slurmctld that forgets how far its replacement was starts the job there in vain: it is powered down, and the job goes elsewhere.
    resumed = until(lambda: [line for line in job.events("resumed") if line["attempt"] > 0], 60, "the job to resume")[0]
    assert resumed["step"] == parked["step"] == saving["step"]
    assert job.starts()[-1][1] != node
    assert len(job.starts()) == 2
    end(bed, job)
    until(lambda: violations(bed) == [], RESTED_S, "everything to come to rest")
