"""Every kind of job has one outcome when its node goes away: none runs twice that had finished, none is lost that can be requeued."""

import re
import subprocess
import time

import pytest
from e2e_bed import Bed
from holdfast_sandbox.defaults import default_controller
from kinds_jobs import USR1, WHOLE_NODE, Story, attempts, began, ended, hook_first, passed, side_by_side, submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]
SETTINGS = {"nodes": 20, "controller": default_controller()}  # the usual patience: many machines boot at once here


def requeue_delay_of_slurm(bed: Bed) -> None:
    """Give Slurm its own delay after a requeue back, two minutes, which the sandbox's configuration makes short."""
    conf = bed.sandbox.layout.slurm_conf
    text, count = re.subn(r"cred_expire=\d+", "cred_expire=120", conf.read_text())
    assert count == 1
    conf.write_text(text)
    bed.sandbox.supervisor.kill("slurmctld")
    bed.sandbox.start_component("slurmctld")


def up(bed: Bed, node: str) -> bool:
    """Whether it has registered."""
    return "POWER" not in bed.slurm.node(node)["State"]


def test_each_kind_of_job_has_its_outcome(bed: Bed) -> None:
    bed.allow_hook_lines("not done in time")  # so many machines boot at once here that a hook may have to leave it to the controller's look
    requeue_delay_of_slurm(bed)
    side_by_side(signalled(bed), silent(bed), heterogeneous(bed), interactive(bed), two_on_one_node(bed), array(bed))


def signalled(bed: Bed) -> Story:
    """What a job does on the signal that it declared decides."""
    well = submit(bed, comment=USR1, on_signal="exit 0")
    badly = submit(bed, comment=USR1, on_signal="exit 1")
    declared = submit(bed, comment=f"{USR1} exit_code=85", on_signal="exit 85")
    by_itself = submit(bed, comment=USR1, on_signal="scontrol requeue $SLURM_JOB_ID; sleep 60")
    jobs = [well, badly, declared, by_itself]
    yield "the signalled jobs to begin", lambda: all(map(began, jobs))
    for job in jobs:
        bed.reclaim(job.nodes()[0], notice_s=30)
    yield "their last attempts", lambda: [len(attempts(job)) for job in jobs] == [1, 1, 2, 2]
    yield "their ends", ended(bed, *(job.job_id for job in jobs))
    yield "a time in which nothing more happens to them", passed(2)
    assert [bed.slurm.job(job.job_id)["JobState"] for job in jobs] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    assert [int(bed.slurm.job(job.job_id)["Restarts"]) for job in jobs] == [0, 0, 1, 1], "nobody requeues what has moved"
    assert [attempts(job) for job in jobs] == [[0], [0], [0, 1], [0, 1]]


def silent(bed: Bed) -> Story:
    """A job that says nothing is requeued in time; with --no-requeue it is lost with its node."""
    plain, lost = submit(bed), submit(bed, WHOLE_NODE, "--no-requeue")
    yield "the silent jobs to begin", lambda: began(plain) and began(lost)
    for job in (plain, lost):
        bed.reclaim(job.nodes()[0], notice_s=14)
    yield "a second attempt", lambda: len(attempts(plain)) == 2
    yield "their ends", ended(bed, plain.job_id, lost.job_id)
    assert bed.slurm.job(plain.job_id)["JobState"] == "COMPLETED"
    assert (bed.slurm.job(lost.job_id)["JobState"], attempts(lost)) == ("NODE_FAIL", [0])


def heterogeneous(bed: Bed) -> Story:
    """A node of its second component goes: its first one saves, and it is requeued as a whole, once, through its leader."""
    plan = ("--steps", "300", "--every-steps", "1000")
    job = bed.train(*plan, options=(WHOLE_NODE, ":", "-p", "spot", WHOLE_NODE))
    parts = [f"{job.job_id}+{part}" for part in (0, 1)]
    yield "the heterogeneous job to train", lambda: job.events("first_step_done")
    [first], [second] = (bed.hostnames(bed.slurm.job(part)["NodeList"]) for part in parts)
    assert first != second, "each component has nodes of its own"
    yield "the second one's node to be up as well", lambda: up(bed, second)
    bed.reclaim(second, notice_s=30)
    yield "it to resume", lambda: job.events("resumed", attempt=1)
    assert job.events("resumed", attempt=1)[0]["step"] == job.events("parked", attempt=0)[0]["step"] > 0, "no step is lost"
    yield "its end", ended(bed, *parts)
    assert [(bed.slurm.job(part)["JobState"], bed.slurm.job(part)["Restarts"]) for part in parts] == [("COMPLETED", "1")] * 2
    assert [attempt for attempt, _ in job.starts()] == [0, 1]
    assert job.result() == bed.reference(*plan)


def interactive(bed: Bed) -> Story:
    """`salloc`, and `srun` without a batch script, are lost with their node."""
    here = bed.directory()
    step = f"touch {here}/$SLURM_JOB_ID; exec sleep 600"
    commands = [["salloc", "-p", "spot", WHOLE_NODE, "srun", "sh", "-c", step], ["srun", "-p", "spot", WHOLE_NODE, "sh", "-c", step]]
    running = [subprocess.Popen(command, env=bed.sandbox.env, cwd=here, stderr=subprocess.DEVNULL) for command in commands]
    yield "salloc and srun to begin", lambda: len(list(here.iterdir())) == 2
    jobs = [int(path.name) for path in here.iterdir()]
    for job in jobs:
        bed.reclaim(bed.hostnames(bed.slurm.job(job)["NodeList"])[0], notice_s=8)
    yield "their ends", ended(bed, *jobs)
    assert {bed.slurm.job(job)["JobState"] for job in jobs} == {"NODE_FAIL"}
    yield "salloc and srun to return", lambda: all(process.poll() is not None for process in running)


def two_on_one_node(bed: Bed) -> Story:
    """Both leave it, each in its time, and it is powered down after the last."""
    first, last = submit(bed, "-c2", comment="checkpoint=off"), submit(bed, "-c2")
    yield "two jobs on one node to begin", lambda: began(first) and began(last)
    [node] = {*first.nodes(), *last.nodes()}
    bed.reclaim(node, notice_s=16)
    yield "the one that saves nothing to have left", lambda: bed.slurm.job(first.job_id)["Restarts"] == "1"
    assert attempts(last) == [0]
    assert "POWER" not in bed.slurm.node(node)["State"], "the other one still trains there"
    yield "the other one to follow", lambda: bed.slurm.job(last.job_id)["Restarts"] == "1"
    yield "the end of the node", lambda: "POWER" in bed.slurm.node(node)["State"]
    down = [entry for entry in bed.journal("PowerDownNode") if entry.command["node"] == node][-1]
    requeued = [bed.journal("JobRequeued", job.job_id)[0].at for job in (first, last)]
    assert requeued[0] < requeued[1] < down.at
    yield "their second attempts", lambda: [attempts(job) for job in (first, last)] == [[0, 1]] * 2


def array(bed: Bed) -> Story:
    """Only the task on the lost node runs again, though the array's plain id, which is that task's own, means all of them to Slurm."""
    here = bed.directory()
    body = (
        f'echo "$SLURM_ARRAY_TASK_ID $SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}}" >>{here}/starts; '
        f"[ $SLURM_ARRAY_TASK_ID -ge 2 ] || exit 0; until [ -e {here}/stop ]; do sleep 0.2; done"
    )
    job = bed.slurm.submit("-p", "spot", WHOLE_NODE, "-o", f"{here}/log.%a", "--requeue", "--array=0-3%2", "--wrap", body)

    def starts() -> list[tuple[int, ...]]:
        path = here / "starts"
        return sorted(tuple(map(int, line.split())) for line in path.read_text().splitlines()) if path.exists() else []

    yield "all four tasks to have begun", lambda: len(starts()) == 4
    tasks = [f"{job}_{number}" for number in range(4)]
    yield "two of them to have finished", ended(bed, *tasks[:2])
    [mine] = [number for number, job_id, _ in starts() if job_id == job]
    assert mine >= 2, "the task that keeps the array's own id is one of those that still run"
    bed.reclaim(bed.hostnames(bed.slurm.job(tasks[mine])["NodeList"])[0], notice_s=10)
    yield "its second attempt", lambda: len(starts()) == 5
    (here / "stop").touch()
    yield "all tasks to end", ended(bed, *tasks)
    assert sorted((number, attempt) for number, _, attempt in starts()) == sorted([(0, 0), (1, 0), (2, 0), (3, 0), (mine, 1)])
    assert [bed.slurm.job(task)["Restarts"] for task in tasks] == [str(int(number == mine)) for number in range(4)]
    assert {bed.slurm.job(task)["JobState"] for task in tasks} == {"COMPLETED"}


def test_a_job_that_ends_in_the_moment_of_its_notice_and_requeue_is_not_run_again(bed: Bed) -> None:
    """Jobs that save nothing are requeued at once: these end about then, a tenth of a second apart; those of one node complete for long."""
    here = bed.directory()
    left = f'python3 -c "import time; print(max(0, $(cat {here}/at) + LATE - time.time()))"'
    body = f"until [ -e {here}/at ]; do sleep 0.1; done; sleep $({left}); exit 0"
    jobs = [submit(bed, "-c1", comment="checkpoint=off", body=body.replace("LATE", f"{late / 10}")) for late in range(8)]
    with hook_first(bed, "epilog", f"while [ -e {here}/$SLURMD_NODENAME ]; do sleep 0.05; done"):
        side_by_side(moment(bed, jobs, here))
    log = (bed.sandbox.layout.log / "slurmctld.log").read_text()
    for job in jobs:
        again = int(bed.slurm.job(job.job_id)["Restarts"])
        assert attempts(job) == list(range(again + 1))
        if again:  # then slurmctld had not heard of its end when it was told to requeue it
            assert 0 <= log.find(f"Requeuing JobId={job.job_id}\n") < log.find(f"_job_complete: JobId={job.job_id} WEXITSTATUS 0")
    assert any(attempts(job) == [0] for job in jobs)


def moment(bed: Bed, jobs: list, here) -> Story:
    yield "all jobs to begin", lambda: all(map(began, jobs))
    nodes = {job.nodes()[0] for job in jobs}
    slow = here / min(nodes)
    slow.touch()  # its jobs complete for as long as this stands
    at = time.time() + 1.5
    (here / "at.new").write_text(str(at))
    (here / "at.new").rename(here / "at")
    yield "the moment", lambda: time.time() >= at
    for node in nodes:
        bed.reclaim(node, notice_s=25)
    yield "the drain", lambda: "DRAIN" in bed.slurm.node(slow.name)["State"]
    yield "a time in which they complete", passed(2)
    slow.unlink()
    yield "their ends", lambda: {bed.slurm.job(job.job_id)["JobState"] for job in jobs} == {"COMPLETED"}
