"""Hooks that come late or twice, machines that do not go or that boot anew, and the ways in which Slurm leaves a requeued job stuck.

A job is taken for never launched after four seconds here: every job of this file shows that none is that runs, or whose Prolog does.
"""

import json
import subprocess
import time
from pathlib import Path

import pytest
from e2e_bed import Bed, TrainingJob
from holdfast_controller.launch_tags import nodes_of
from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.defaults import default_controller, default_policy
from kinds_jobs import FOR_EVER, WHOLE_NODE, Story, attempts, began, ended, hook_first, once, passed, side_by_side, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
GPU_NODE = "NodeName=gpu-1 CPUs=4 RealMemory=4000 Gres=gpu:2 NodeAddr=127.0.0.9 State=UNKNOWN\nPartitionName=gpus Nodes=gpu-1"


def impatient(site: Site) -> str:
    """The sandbox's policy, under which a job that no agent has seen for four seconds was never launched."""
    return default_policy(site) + "requeue = { never_launched_s = 4 }\n"


SETTINGS = {
    "nodes": 16,
    "controller": default_controller(policy=impatient),
    "extra_slurm_conf": f"SuspendTimeout=8\nGresTypes=gpu\nSelectTypeParameters=CR_CPU_Memory\n{GPU_NODE}",
}


def call(bed: Bed, hook: str, node: str, job_id: int = 0) -> None:
    """Run an installed hook as slurmctld does: with SLURM_CONF and the resume file, without PATH."""
    env = {"SLURM_CONF": str(bed.sandbox.layout.slurm_conf)}
    if job_id:
        resume = bed.directory() / "resume.json"
        resume.write_text(json.dumps({"all_nodes": node, "jobs": [{"job_id": job_id, "nodes": node}]}))
        env["SLURM_RESUME_FILE"] = str(resume)
    subprocess.run([bed.sandbox.layout.hooks / hook, node], env=env, cwd="/", stdin=subprocess.DEVNULL, check=True, timeout=10)


def bought(bed: Bed, node: str) -> int:
    return len({line["tags"]["holdfast:launch"] for line in bed.record("requested") if node in nodes_of(line["tags"])})


def test_no_trap_costs_a_job_or_a_machine(bed: Bed) -> None:
    bed.allow_hook_lines("not done in time")  # so many machines boot at once here that a hook may have to leave it to the controller's look
    prolog = bed.directory()
    line = f"rm {prolog}/fail-$SLURM_JOB_ID 2>/dev/null && exit 1; [ -e {prolog}/slow-$SLURM_JOB_ID ] && sleep 10"
    stories = (
        late_hooks(bed),
        old_machine(bed),
        reboot(bed),
        launch_failed(bed, prolog),
        slow_prolog(bed, prolog),
        spoiled(bed),
    )
    with hook_first(bed, "prolog", line):
        side_by_side(*stories)


def late_hooks(bed: Bed) -> Story:
    """Hooks that come late or twice buy nothing and kill nothing."""
    job = submit(bed)
    yield "a node for the job", lambda: job.nodes() and bought(bed, job.nodes()[0])
    [node] = job.nodes()
    call(bed, "resume", node, job.job_id)
    call(bed, "resume", node, job.job_id)
    yield "the job to begin", lambda: began(job)
    instance = bed.sandbox.instances.instance_of(node)
    call(bed, "resume", node, job.job_id)
    call(bed, "suspend", node)  # of a life that is long over, for all that we know
    call(bed, "resume-fail", node)
    yield "the controller to have heard of them", lambda: any(node in entry.body["nodes"] for entry in bed.journal("ResumeFailed"))
    yield "a time in which nothing happens to it", passed(3)
    assert bought(bed, node) == 1
    assert bed.sandbox.instances.instance_of(node) == instance
    assert (bed.slurm.job(job.job_id)["JobState"], attempts(job)) == ("RUNNING", [0])
    bed.sandbox.run(["scancel", str(job.job_id)])
    off, since = f"spot-{bed.sandbox.config.nodes}", time.time()
    call(bed, "suspend", off)
    call(bed, "resume", off, job.job_id)  # for a job that is no more

    def left() -> bool:
        later = (line for line in bed.cloud.instances() if line["requested"] >= since and off in nodes_of(line["tags"]))
        return any(line["state"] != "terminated" for line in later)

    yield "the end of what was bought for nothing", lambda: not left()


def old_machine(bed: Bed) -> Story:
    """A name is bought again only when the machine of its last life is gone, however long the cloud takes for that."""
    job = submit(bed, WHOLE_NODE, "-w", "spot-12", comment="checkpoint=off")
    yield "the job on a named node to begin", lambda: began(job)
    old = bed.sandbox.instances.instance_of("spot-12")
    bed.cloud.fail(action="TerminateInstances", mode="slow", seconds=14, count=1000)
    bed.reclaim("spot-12", notice_s=80)
    yield "Slurm to want the name again", lambda: "POWERING_UP" in bed.slurm.node("spot-12")["State"]
    yield "a time in which nothing is bought", passed(1)
    assert bed.cloud.instance(old)["state"] == "running", "this test has shown nothing: the old machine is gone already"
    assert bought(bed, "spot-12") == 1
    yield "its second attempt", lambda: attempts(job) == [0, 1]
    gone = next(line["t"] for line in bed.record("terminated") if line["instance_id"] == old)
    again = [line["t"] for line in bed.record("requested") if "spot-12" in nodes_of(line["tags"])][-1]
    assert gone < again
    yield "its end", ended(bed, job.job_id)


def reboot(bed: Bed) -> Story:
    """A machine that boots anew is a loss, and is given up."""
    job = submit(bed)
    yield "the job to begin", lambda: began(job)
    rebooted = bed.sandbox.instances.reboot(job.nodes()[0])
    yield "its second attempt", lambda: attempts(job) == [0, 1]
    assert [entry.body["instance_id"] for entry in bed.journal("AgentRebooted")][-1:] == [rebooted]
    yield "the end of the machine", lambda: bed.cloud.instance(rebooted)["state"] == "terminated"
    yield "its end", ended(bed, job.job_id)
    assert bed.slurm.job(job.job_id)["Restarts"] == "1"


def held(bed: Bed, mark: Path) -> TrainingJob:
    """Submit a job whose id the Prolog finds at `mark` already."""
    job = submit(bed, WHOLE_NODE, "--hold")
    mark.with_name(f"{mark.name}-{job.job_id}").touch()
    bed.sandbox.run(["scontrol", "release", str(job.job_id)])
    return job


def launch_failed(bed: Bed, prolog: Path) -> Story:
    """A job whose Prolog fails is held by Slurm; it is released, and runs on another node."""
    job = held(bed, prolog / "fail")
    bed.requeued_by_slurm[job.job_id] = 1
    yield "the attempt after a failed launch", lambda: began(job)
    assert attempts(job) == [1]
    assert bed.journal("ReleaseJob", job.job_id)
    yield "its end", ended(bed, job.job_id)
    for line in bed.sandbox.run(["sinfo", "-h", "-R", "-o", "%E|%N"]).stdout.splitlines():
        reason, node = line.split("|")
        if reason == "Prolog error":  # what Slurm drained is the admin's
            bed.sandbox.run(["scontrol", "update", f"nodename={node}", "state=resume"])


def slow_prolog(bed: Bed, prolog: Path) -> Story:
    """A job whose Prolog runs for long is not taken for one that was never launched."""
    job = held(bed, prolog / "slow")
    yield "the job whose Prolog is slow to begin", lambda: began(job)
    assert (attempts(job), bed.slurm.job(job.job_id)["Restarts"]) == ([0], "0")
    bed.sandbox.run(["scancel", str(job.job_id)])


def spoiled(bed: Bed) -> Story:
    """22.05: `--exclusive` on nodes without GPUs, GresTypes set for others, and a machine that dies without notice. It is named."""
    job = submit(bed, "--exclusive", body=FOR_EVER)
    yield "the exclusive job to begin", lambda: began(job)
    bed.cloud.kill(bed.sandbox.instances.instance_of(job.nodes()[0]))
    yield "Slurm to spoil it", lambda: bed.slurm.job(job.job_id).get("Reason") == "BadConstraints"
    yield "its AdminComment", lambda: "submit it again" in bed.slurm.job(job.job_id).get("AdminComment", "")
    explained = bed.sandbox.run(["holdfast", "explain", "job", str(job.job_id)]).stdout
    assert "BadConstraints" in explained
    assert "submit it again" in explained
    bed.sandbox.run(["scancel", str(job.job_id)])


@pytest.mark.long
def test_a_job_that_comes_back_within_the_second_in_which_it_left_is_run_again(bed: Bed) -> None:
    """Slurm ends it FAILED. Some tries: requeue and start must fall into one second, whatever else the machine does. Most need one."""
    bed.allow_hook_lines("not done in time")
    jobs = [submit(bed, "-c1", "--mem=100") for _ in range(20)]
    log = bed.sandbox.layout.log / "slurmctld.log"
    side_by_side(once("the jobs to begin", lambda: all(map(began, jobs))))
    for job in jobs:
        time.sleep(1.02 - time.time() % 1)
        bed.sandbox.run(["scontrol", "requeue", str(job.job_id)])
        while bed.slurm.job(job.job_id)["JobState"] != "PENDING" and time.time() % 1 < 0.9:
            time.sleep(0.01)
        bed.sandbox.run(["scontrol", "update", f"jobid={job.job_id}", "StartTime=now"], check=False)
        bed.slurm.submit("-p", "local", "-o", "/dev/null", "--wrap", "true")  # a submission has the scheduler look at once
        side_by_side(once("its next attempt", lambda job=job: ended(bed, job.job_id)() and attempts(job)[-1] > 0))
        if f"batch JobId={job.job_id}: Job credential revoked" in log.read_text():
            break
    assert attempts(job) == [0, 2], "attempt 1 was revoked"
    assert bed.slurm.job(job.job_id)["JobState"] == "COMPLETED"
    assert "never ran" in bed.journal("RequeueJob", job.job_id)[0].text
    bed.sandbox.run(["scancel", *(str(other.job_id) for other in jobs if began(other))], check=False)
