"""Every kind of job has one outcome when its node goes away: none runs twice that had finished, none is lost that can be requeued."""

import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed
from kinds_jobs import USR1, WHOLE_NODE, attempts, began, hook_first, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]
SETTINGS = {"nodes": 16}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"}


def requeue_delay_of_slurm(bed: Bed) -> None:
    """Give Slurm its own delay after a requeue back, two minutes, which the sandbox's configuration makes short."""
    conf = bed.sandbox.layout.slurm_conf
    text, count = re.subn(r"cred_expire=\d+", "cred_expire=120", conf.read_text())
    assert count == 1
    conf.write_text(text)
    bed.sandbox.supervisor.kill("slurmctld")
    bed.sandbox.start_component("slurmctld")


def test_what_a_job_does_on_its_signal_decides(bed: Bed, until: Callable[..., Any]) -> None:
    requeue_delay_of_slurm(bed)
    well = submit(bed, comment=USR1, on_signal="exit 0")
    badly = submit(bed, comment=USR1, on_signal="exit 1")
    declared = submit(bed, comment=f"{USR1} exit_code=85", on_signal="exit 85")
    by_itself = submit(bed, comment=USR1, on_signal="scontrol requeue $SLURM_JOB_ID; sleep 60")
    jobs = [well, badly, declared, by_itself]
    until(lambda: all(map(began, jobs)), 60, "all jobs to begin")
    for job in jobs:
        bed.reclaim(job.nodes()[0], notice_s=30)
    outcomes = []
    for job in jobs:
        until(lambda job=job: bed.slurm.job(job.job_id)["JobState"] in ENDED and len(attempts(job)) == 1 + (job in jobs[2:]), 30, "its end")
        outcomes.append((bed.slurm.job(job.job_id)["JobState"], attempts(job)))
    assert outcomes == [("COMPLETED", [0]), ("FAILED", [0]), ("COMPLETED", [0, 1]), ("COMPLETED", [0, 1])]
    time.sleep(2)
    assert [int(bed.slurm.job(job.job_id)["Restarts"]) for job in jobs] == [0, 0, 1, 1], "nobody requeues what has moved"


def test_jobs_that_say_nothing_are_requeued_in_time_and_the_others_lost_with_their_node(bed: Bed, until: Callable[..., Any]) -> None:
    here = bed.directory()
    plain, lost = submit(bed), submit(bed, WHOLE_NODE, "--no-requeue")
    parts = submit(bed, WHOLE_NODE, ":", "-p", "spot", WHOLE_NODE)
    until(lambda: all(map(began, (plain, lost, parts))), 60, "the batch jobs to begin")
    [shared] = plain.nodes()
    idle = {"env": bed.sandbox.env, "cwd": here, "stderr": subprocess.DEVNULL}
    step = f"touch {here}/$SLURM_JOB_ID; exec sleep 600"
    interactive = [
        subprocess.Popen(["salloc", "-p", "spot", WHOLE_NODE, "srun", "sh", "-c", step], **idle),
        subprocess.Popen(["srun", "-p", "spot", WHOLE_NODE, "sh", "-c", step], **idle),
    ]
    until(lambda: len(list(here.iterdir())) == 2, 60, "salloc and srun to begin")
    allocated = [int(path.name) for path in here.iterdir()]
    [first], [second] = (bed.hostnames(bed.slurm.job(f"{parts.job_id}+{part}")["NodeList"]) for part in (0, 1))
    assert first != second, "each component has nodes of its own"
    doomed = [shared, *lost.nodes(), second, *(bed.hostnames(bed.slurm.job(job)["NodeList"])[0] for job in allocated)]
    for node in doomed:
        bed.reclaim(node, notice_s=12)
    for job in (plain, parts):
        until(lambda job=job: bed.slurm.job(job.job_id)["JobState"] == "COMPLETED" and len(attempts(job)) == 2, 40, "a second attempt")
    for job_id in (lost.job_id, *allocated):
        assert bed.slurm.await_job(job_id, ENDED, 40)["JobState"] == "NODE_FAIL"
    assert [attempts(job) for job in (plain, parts, lost)] == [[0, 1], [0, 1], [0]]
    for process in interactive:
        process.wait(20)  # nobody waits for them any longer
    assert {bed.slurm.job(f"{parts.job_id}+{part}")["Restarts"] for part in (0, 1)} == {"1"}, "requeued as a whole, once"


def test_two_jobs_on_one_node_leave_it_one_by_one(bed: Bed, until: Callable[..., Any]) -> None:
    first, last = submit(bed, "-c2", comment="checkpoint=off"), submit(bed, "-c2")
    until(lambda: began(first) and began(last), 60, "both jobs to begin")
    [node] = {*first.nodes(), *last.nodes()}
    bed.reclaim(node, notice_s=14)
    until(lambda: len(attempts(first)) == 2, 12, "the one that saves nothing to be elsewhere")
    assert attempts(last) == [0]
    assert "POWER" not in bed.slurm.node(node)["State"], "the other one still trains there"
    until(lambda: len(attempts(last)) == 2, 30, "the other one to follow")
    [down] = [entry for entry in bed.journal("PowerDownNode") if entry.command["node"] == node]
    requeues = {entry.body["job_id"]: entry.at for entry in bed.journal("JobRequeued")}
    assert requeues[first.job_id] < requeues[last.job_id] < down.at
    for job in (first, last):
        bed.slurm.await_job(job.job_id, {"COMPLETED"}, 20)


def test_of_an_array_only_the_task_on_the_lost_node_runs_again(bed: Bed, until: Callable[..., Any]) -> None:
    here = bed.directory()
    stop = here / "stop"
    body = (
        f'echo "$SLURM_ARRAY_TASK_ID $SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}}" >>{here}/starts; '
        f"[ $SLURM_ARRAY_TASK_ID -ge 2 ] || exit 0; until [ -e {stop} ]; do sleep 0.2; done"
    )
    array = bed.slurm.submit("-p", "spot", WHOLE_NODE, "-o", f"{here}/log.%a", "--requeue", "--array=0-3%2", "--wrap", body)

    def starts() -> list[tuple[int, ...]]:
        path = here / "starts"
        return sorted(tuple(map(int, line.split())) for line in path.read_text().splitlines()) if path.exists() else []

    until(lambda: len(starts()) == 4, 90, "all four tasks to have begun")
    task = next(task for task, job_id, _ in starts() if job_id == array)
    other = 5 - task
    assert task >= 2, "the task that keeps the array's own id is one of those that still run"
    bed.reclaim(bed.hostnames(bed.slurm.job(f"{array}_{task}")["NodeList"])[0], notice_s=10)
    until(lambda: len(starts()) == 5, 40, "its second attempt")
    stop.touch()
    for number in range(4):
        bed.slurm.await_job(f"{array}_{number}", {"COMPLETED"}, 20)
    assert [(number, attempt) for number, _, attempt in starts()] == sorted([(0, 0), (1, 0), (other, 0), (task, 0), (task, 1)])
    assert [bed.slurm.job(f"{array}_{number}")["Restarts"] for number in range(4)] == [
        "1" if number == task else "0" for number in range(4)
    ]


def test_a_job_that_ends_in_the_moment_of_its_notice_and_requeue_is_not_run_again(bed: Bed, until: Callable[..., Any]) -> None:
    """Jobs that save nothing are requeued at once: these end about then, a tenth of a second apart."""
    here = bed.directory()
    left = f'python3 -c "import time; print(max(0, $(cat {here}/at) + LATE - time.time()))"'
    body = f"until [ -e {here}/at ]; do sleep 0.1; done; sleep $({left}); exit 0"
    jobs = [submit(bed, "-c1", comment="checkpoint=off", body=body.replace("LATE", f"{late / 10}")) for late in range(8)]
    until(lambda: all(map(began, jobs)), 60, "all jobs to begin")
    nodes = {job.nodes()[0] for job in jobs}
    assert len(nodes) == 2, "four on each node"
    slow = min(nodes)
    with hook_first(bed, "epilog", f"while [ -e {here}/$SLURMD_NODENAME ]; do sleep 0.05; done"):
        (here / slow).touch()  # its jobs complete for as long as this stands
        moment = time.time() + 1.5
        (here / "at.new").write_text(str(moment))
        (here / "at.new").rename(here / "at")
        time.sleep(moment - time.time())
        for node in nodes:
            bed.reclaim(node, notice_s=25)
        bed.slurm.await_node(slow, lambda seen: "DRAIN" in seen["State"], 10)
        time.sleep(2)
        (here / slow).unlink()
        for job in jobs:
            bed.slurm.await_job(job.job_id, {"COMPLETED"}, 40)
    log = (bed.sandbox.layout.log / "slurmctld.log").read_text()
    for job in jobs:
        again = int(bed.slurm.job(job.job_id)["Restarts"])
        assert attempts(job) == list(range(again + 1))
        if again:  # then slurmctld had not heard of its end when it was told to requeue it
            assert 0 <= log.find(f"Requeuing JobId={job.job_id}\n") < log.find(f"_job_complete: JobId={job.job_id} WEXITSTATUS 0")
    assert any(attempts(job) == [0] for job in jobs)
