"""Each kind of job has the outcome that docs/researchers.md promises, and wedges no node."""

import pytest
from holdfast_common.notice import NoticeKind
from sim_invariants import settle
from sim_training import running

ATTEMPTS = {
    "library": 2, "stubborn": 2, "plain": 2, "stateless": 2, "signal": 2, "requeues itself": 2,
    "ends well on it": 1, "fails on it": 1, "salloc": 1, "no-requeue": 1,
}  # fmt: skip


@pytest.mark.parametrize("kind", ATTEMPTS)
@pytest.mark.parametrize("num_nodes", [1, 2])
def test_what_becomes_of_it_when_its_node_goes(world, kind, num_nodes):
    job = world.submit(num_nodes, work=90, kind=kind)
    world.until(running(job), 60)
    world.wait(16)
    world.reclaim(job.running.nodes[0], 60)
    settle(world, quiet_s=30)
    assert len(job.attempts) == ATTEMPTS[kind]
    if kind not in {"plain", "stateless", "salloc", "no-requeue"}:
        assert job.lost == 0
    if kind == "stateless":
        assert job.attempts[1].began_at_step == 0


@pytest.mark.parametrize("other", ["library", "plain", "salloc", "stubborn"])
def test_two_jobs_on_one_node_leave_each_for_itself(world, other):
    """The node is given up when the last of them is out, and not before."""
    jobs = [world.submit(work=70, shared=True)]
    world.until(running(jobs[0]), 60)
    jobs.append(world.submit(work=70, kind=other, shared=True))
    world.until(running(jobs[1]), 60)
    assert jobs[0].running.nodes == jobs[1].running.nodes
    world.wait(5)
    node = jobs[0].running.nodes[0]
    world.reclaim(node, 60)
    world.until(lambda: len(jobs[0].attempts) == 2, 30)
    if other in {"plain", "salloc"}:
        assert jobs[1].running.number == 0, "it trains on as long as it can"
        assert world.slurm.fake_node(node).power == "on"
    settle(world)
    assert jobs[0].lost == 0


def test_of_an_array_the_finished_tasks_stay_completed(world):
    """Also where the task that is evacuated has the array's own id as its JobId."""
    tasks = world.submit_array(range(1, 5), work=60)
    first = tasks[0]
    assert str(first.job_id) == first.key.split("_")[0]
    for task in tasks[1:3]:
        task.work = 5.0
    world.until(lambda: all(task.done_at for task in tasks[1:3]) and first.running, 60)
    world.reclaim(first.running.nodes[0], 60)
    world.until(lambda: first.done_at, 150)
    assert [world.slurm.fake_job(task.key).restarts for task in tasks] == [1, 0, 0, 0]
    settle(world)
    assert [len(task.attempts) for task in tasks] == [2, 1, 1, 1]


@pytest.mark.parametrize("left", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("kind", ["library", "plain", "signal"])
def test_a_job_that_finishes_in_the_moment_of_the_notice_is_not_run_again(world, kind, left):
    job = world.submit(work=90, kind=kind, save_s=0.5)
    world.until(running(job), 60)
    job.work = job.running.step + left
    world.reclaim(job.running.nodes[0], 60)
    settle(world, quiet_s=10)
    first = job.attempts[0]
    left_by_its_own_word = kind == "signal" and first.leaving  # its script looks at the signal before it looks at what is left
    assert len(job.attempts) == 1 or first.step < job.work or left_by_its_own_word, "an attempt that had finished was followed by another"


def test_advice_and_maintenance_far_ahead_move_no_job(world):
    job = world.submit(2, work=90)
    world.until(running(job), 60)
    machine = world.machine_of(job.running.nodes[0])
    world.slurm_call(lambda: machine.notice(60.0, NoticeKind.ADVISE))
    world.slurm_call(lambda: machine.notice(4000.0, NoticeKind.MAINTENANCE))
    world.until(lambda: job.done_at, 120)
    assert len(job.attempts) == 1
    assert not world.slurm.fake_node(machine.registered).drain
    settle(world)


@pytest.mark.parametrize("actor", ["controller", "agent"])
def test_a_notice_withdrawn_after_the_signal_was_sent_still_has_the_job_run_again(world, actor):
    """It cannot be told to stay: it has begun to leave, and will end with the exit code that it declared."""
    job = world.submit(work=90, kind="signal", save_s=8.0)
    world.until(running(job), 60)
    machine = world.machine_of(job.running.nodes[0])
    if actor == "agent":
        world.die()
    world.reclaim(machine.registered, 60)
    world.until(lambda: job.running.leaving, 10)
    world.wait(1)
    world.slurm_call(machine.spare)
    world.until(lambda: job.running is None, 20)
    if actor == "agent":
        world.start()
    world.until(running(job, 1), 20)
    assert job.lost == 0
    settle(world)
