"""The clock of the controller's host is set by ten minutes at the worst moments: no job is lost, nor a machine in good health."""

import pytest
from sim_invariants import settle
from sim_training import running
from sim_world import POOL_A, POOL_B

STEPS = pytest.mark.parametrize("by_s", [600.0, -600.0])


@STEPS
def test_while_machines_boot(world, by_s):
    job = world.submit(2)
    world.until(lambda: len(world.room.machines) == 2, 20)
    world.host_clock.set_by += by_s
    world.until(lambda: job.done_at, 60)
    assert len(world.room.machines) == 2, "nothing was bought twice"
    settle(world)


@STEPS
@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_in_the_middle_of_an_evacuation(world, by_s, after_s):
    job, other = world.submit(2), world.submit()
    world.until(running(job), 60)
    world.until(running(other), 60)
    bystanders = [machine for machine in world.room.living() if machine.registered not in job.running.nodes]
    world.reclaim(job.running.nodes[0], 30.0)
    world.wait(after_s)
    world.host_clock.set_by += by_s
    world.until(lambda: job.done_at and other.done_at, 120)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    assert len(other.attempts) == 1
    assert all(machine.cloud.terminated is None or machine.cloud.terminated > other.done_at for machine in bystanders)
    settle(world)


@STEPS
def test_while_a_refused_job_waits_its_backoff(world, by_s):
    for pool in (POOL_A, POOL_B):
        world.provider.pools[pool].capacity = 0
    job = world.submit()
    world.wait(20)
    world.host_clock.set_by += by_s
    for pool in (POOL_A, POOL_B):
        world.provider.pools[pool].capacity = 10
    world.until(lambda: job.done_at, 120)
    settle(world)


@STEPS
def test_while_slurm_refuses_what_an_evacuation_needs(world, by_s):
    """A try that failed waits a second for its next: not ten minutes more."""
    job = world.submit()
    world.until(running(job), 60)
    world.slurm.unavailable = True
    world.reclaim(job.running.nodes[0], 60.0)
    world.wait(5)
    world.host_clock.set_by += by_s
    world.slurm.unavailable = False
    world.until(lambda: job.done_at, 150)
    settle(world)


@STEPS
def test_while_the_controller_is_away(world, by_s):
    """Set back, its journal is ahead of the clock, and tells by how much at least."""
    job, other = world.submit(), world.submit()
    world.until(running(job), 60)
    world.until(running(other), 60)
    world.reclaim(job.running.nodes[0], 60.0)
    world.wait(0.5)
    world.die()
    world.host_clock.set_by += by_s
    world.start()
    world.until(lambda: job.done_at and other.done_at, 150)
    assert len(other.attempts) == 1
    settle(world)
