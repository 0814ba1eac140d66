"""Hooks that come late or twice, machines that do not go or that boot anew, and the ways in which Slurm leaves a requeued job stuck.

A job is taken for never launched after four seconds here: every job of this file shows that none is that runs, or whose Prolog does.
"""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed
from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.defaults import default_controller, default_policy
from kinds_jobs import FOR_EVER, WHOLE_NODE, attempts, began, hook_first, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]
GPU_NODE = "NodeName=gpu-1 CPUs=4 RealMemory=4000 Gres=gpu:2 NodeAddr=127.0.0.9 State=UNKNOWN\nPartitionName=gpus Nodes=gpu-1"


def impatient(site: Site) -> str:
    """The sandbox's policy, under which a job that no agent has seen for four seconds was never launched."""
    return default_policy(site) + "requeue = { never_launched_s = 4 }\n"


SETTINGS = {
    "nodes": 8,
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
    return sum(node in line["tags"]["holdfast:nodes"].split(",") for line in bed.record("requested"))


def test_hooks_that_come_late_or_twice_buy_nothing_and_kill_nothing(bed: Bed, until: Callable[..., Any]) -> None:
    bed.cloud.fail_boot(seconds=2.0, count=1)
    job = submit(bed)
    node = until(job.nodes, 20, "a node")[0]
    until(lambda: bought(bed, node) == 1, 20, "its launch")
    call(bed, "resume", node, job.job_id)
    call(bed, "resume", node, job.job_id)
    until(lambda: began(job), 60, "the job to begin")
    instance = bed.sandbox.instances.instance_of(node)
    call(bed, "resume", node, job.job_id)
    call(bed, "suspend", node)  # of a life that is long over, for all that slurmctld knows
    call(bed, "resume-fail", node)
    until(lambda: bed.journal("ResumeFailed"), 10, "the controller to have heard of them")
    time.sleep(3)
    assert bought(bed, node) == 1
    assert bed.sandbox.instances.instance_of(node) == instance
    assert (bed.slurm.job(job.job_id)["JobState"], attempts(job)) == ("RUNNING", [0])
    bed.sandbox.run(["scancel", str(job.job_id)])
    off = f"spot-{bed.sandbox.config.nodes}"
    call(bed, "suspend", off)
    call(bed, "resume", off, job.job_id)  # for a job that is no more
    until(lambda: all(line["state"] == "terminated" for line in bed.cloud.instances() if line["tags"]["holdfast:nodes"] == off), 20)


def test_a_name_is_bought_again_only_when_its_old_machine_is_gone(bed: Bed, until: Callable[..., Any]) -> None:
    job = submit(bed, WHOLE_NODE, "-w", "spot-5", comment="checkpoint=off")
    until(lambda: began(job), 60, "the job to begin")
    [node] = job.nodes()
    old = bed.sandbox.instances.instance_of(node)
    bed.cloud.fail(action="TerminateInstances", mode="500", count=10_000)
    bed.reclaim(node, notice_s=80)
    bed.slurm.await_node(node, lambda seen: "POWERING_UP" in seen["State"], 40)
    time.sleep(3)
    assert bought(bed, node) == 1, "Slurm wants the name, and the machine of its last life still runs"
    assert bed.cloud.instance(old)["state"] == "running"
    bed.cloud.clear()
    until(lambda: len(attempts(job)) == 2, 60, "its second attempt")
    gone = next(line["t"] for line in bed.record("terminated") if line["instance_id"] == old)
    assert gone < [line["t"] for line in bed.record("requested") if node in line["tags"]["holdfast:nodes"]][-1]
    bed.slurm.await_job(job.job_id, {"COMPLETED"}, 20)


def test_a_machine_that_boots_anew_is_a_loss(bed: Bed, until: Callable[..., Any]) -> None:
    job = submit(bed)
    until(lambda: began(job), 60, "the job to begin")
    rebooted = bed.sandbox.instances.reboot(job.nodes()[0])
    until(lambda: len(attempts(job)) == 2, 60, "its second attempt")
    bed.cloud.wait_for(rebooted, lambda seen: seen["state"] == "terminated", 20)
    assert [entry.body["instance_id"] for entry in bed.journal("AgentRebooted")] == [rebooted]
    assert bed.slurm.await_job(job.job_id, {"COMPLETED"}, 20)["Restarts"] == "1"


def test_a_job_that_comes_back_within_the_second_in_which_it_left_is_run_again(bed: Bed, until: Callable[..., Any]) -> None:
    jobs = [submit(bed, "-c1") for _ in range(4)]
    until(lambda: all(map(began, jobs)), 60, "the jobs to begin")
    for job in jobs:
        time.sleep(1.02 - time.time() % 1)
        bed.sandbox.run(["scontrol", "requeue", str(job.job_id)])
        until(lambda job=job: bed.slurm.job(job.job_id)["JobState"] == "PENDING", 10)
        bed.sandbox.run(["scontrol", "update", f"jobid={job.job_id}", "StartTime=now"], check=False)
    for job in jobs:
        until(lambda job=job: attempts(job)[-1] > 0 and bed.slurm.job(job.job_id)["JobState"] == "COMPLETED", 30, "its next attempt")
    log = (bed.sandbox.layout.log / "slurmctld.log").read_text()
    revoked = [job for job in jobs if f"batch JobId={job.job_id}: Job credential revoked" in log]
    assert revoked, "none was: this test has shown nothing"
    assert [attempts(job) for job in revoked] == [[0, 2]] * len(revoked)


def test_a_failed_launch_is_tried_on_another_node_and_a_slow_prolog_waited_for(bed: Bed, until: Callable[..., Any]) -> None:
    here = bed.directory()
    with hook_first(bed, "prolog", f"mkdir {here}/failed 2>/dev/null && exit 1; [ -e {here}/slow ] && sleep 12"):
        job = submit(bed)
        until(lambda: began(job), 60, "its second attempt")
        drained = [line.split()[-1] for line in bed.sandbox.run(["sinfo", "-h", "-R"]).stdout.splitlines() if "Prolog" in line]
        bed.requeued_by_slurm[job.job_id] = 1
        assert attempts(job) == [1]
        assert bed.journal("ReleaseJob", job.job_id)
        (here / "slow").touch()
        slow = submit(bed)
        until(lambda: began(slow), 60, "the job whose Prolog is slow")
    assert attempts(slow) == [0], "a job whose Prolog runs is not taken for one that was never launched"
    assert bed.slurm.job(slow.job_id)["Restarts"] == "0"
    bed.sandbox.run(["scancel", str(slow.job_id)])
    for node in drained:  # what Slurm drained is the admin's
        bed.sandbox.run(["scontrol", "update", f"nodename={node}", "state=resume"])


def test_a_job_whose_record_slurm_has_spoiled_is_named(bed: Bed, until: Callable[..., Any]) -> None:
    """22.05: `--exclusive` on nodes without GPUs, GresTypes set for others, and a machine that dies without notice."""
    job = submit(bed, "--exclusive", body=FOR_EVER)
    until(lambda: began(job), 60, "the job to begin")
    bed.cloud.kill(bed.sandbox.instances.instance_of(job.nodes()[0]))
    until(lambda: bed.slurm.job(job.job_id).get("Reason") == "BadConstraints", 30, "Slurm to spoil it")
    until(lambda: "submit it again" in bed.slurm.job(job.job_id).get("AdminComment", ""), 10, "its AdminComment")
    explained = bed.sandbox.run(["holdfast", "explain", "job", str(job.job_id)]).stdout
    assert "BadConstraints" in explained
    assert "submit it again" in explained
    bed.sandbox.run(["scancel", str(job.job_id)])
