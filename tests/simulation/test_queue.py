"""A full competing queue: the evacuated job gets its survivors and its replacement, and not the next in line."""

import pytest
from holdfast_common.errors import SlurmUnavailable
from sim_invariants import settle
from sim_training import running


def crowd(world, count=3, **more):
    """Jobs of one node each that wait in line."""
    return [world.submit(work=60, kind="plain", **more) for _ in range(count)]


def full(world, *jobs):
    """All jobs run, and then others wait."""
    world.until(lambda: all(running(job)() for job in jobs), 60)
    rivals = crowd(world)
    world.wait(3)
    assert not any(rival.attempts for rival in rivals)
    return rivals


def test_the_job_comes_back_to_its_survivor_before_any_that_waited_longer(world):
    job = world.submit(2, work=60)
    others = [world.submit(work=300), world.submit(work=300)]
    rivals = full(world, job, *others)
    first, second = job.running.nodes
    world.reclaim(second, 60)
    world.until(running(job, 1), 60)
    assert first in job.running.nodes
    assert not any(rival.attempts for rival in rivals)
    assert job.lost == 0
    settle(world, 1500)


def test_a_node_that_another_job_leaves_is_the_evacuated_jobs(world):
    job = world.submit(2, work=60)
    others = [world.submit(work=300), world.submit(work=300)]
    rivals = full(world, job, *others)
    first, second = job.running.nodes
    freed = others[0].running.nodes[0]
    world.reclaim(second, 60)
    world.until(lambda: world.slurm.fake_job(job.key).reason == "Resources", 30)
    world.cancel(others[0])
    world.until(running(job, 1), 5)
    assert set(job.running.nodes) == {first, freed}
    assert not any(rival.attempts for rival in rivals)
    settle(world, 1500)


@pytest.mark.parametrize("limit_s", [None, 70.0])
def test_rivals_are_served_in_the_end(world, limit_s):
    job = world.submit(3, work=60)
    world.until(running(job), 60)
    rivals = crowd(world, 4, time_limit_s=limit_s)
    world.wait(3)
    world.reclaim(job.running.nodes[0], 60)
    settle(world, 1500)
    assert all(rival.done_at for rival in rivals)


def test_a_job_that_loses_its_only_node_gets_the_next_that_is_free(world):
    """One node, no survivor: what is bought for it, or becomes free, is its own."""
    jobs = [world.submit(work=100) for _ in range(4)]
    rivals = full(world, *jobs)
    world.reclaim(jobs[0].running.nodes[0], 60)
    world.until(running(jobs[0], 1), 60)
    assert not any(rival.attempts for rival in rivals)
    assert jobs[0].lost == 0
    settle(world, 1500)


@pytest.mark.parametrize(("times", "limit_s"), [(1, 40.0), (5, 120.0)])
def test_a_reservation_whose_making_is_cut_off_keeps_the_job_from_nothing(world, times, limit_s):
    """It is there, and no answer came when the job was told to use it. One try more makes it good; else it ends within seconds."""
    job = world.submit(2, work=60)
    rivals = full(world, job, world.submit(work=300), world.submit(work=300))
    _, second = job.running.nodes
    fault = SlurmUnavailable("no answer")
    world.slurm_call(lambda: world.slurm.fail_next("use_reservation", fault, times))
    began = world.clock.now()
    world.reclaim(second, 0, notice=False)
    world.until(lambda: not any(node.reservation for node in world.slurm.engine.fleet.values()), limit_s)
    if times == 1:
        world.until(running(job, 1), limit_s)
        assert world.clock.now() - began < limit_s
        assert not any(rival.attempts for rival in rivals)
    settle(world, 1500)
