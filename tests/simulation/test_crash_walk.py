"""The controller dies at each step in turn, of a launch, of an evacuation and of a loss; the end is the same as if it had not."""

from dataclasses import replace

import pytest
import sim_health
from sim_invariants import settle
from sim_training import running

PARTS = 8
"""Each walk is done in so many parts; the default run takes the first, every eighth step."""
SOME = [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, PARTS))]


def launch(world):
    """A gang of two whose first pool refuses."""
    world.provider.pools["fake/r1/a/g1/spot"].capacity = 1
    job = world.submit(2, work=15)
    world.until(lambda: job.done_at, 100)
    assert len(job.attempts) == 1
    assert len(world.room.machines) == 2
    return job


def evacuation(world):
    """One node of two is taken back, with a notice in which a save fits."""
    job = world.submit(2, work=25)
    world.until(running(job), 60)
    world.wait(2)
    node = job.running.nodes[0]
    world.reclaim(node, 60)
    world.until(lambda: job.done_at, 150)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    assert job.lost == 0, "a full save fitted the window"
    assert node not in job.attempts[1].nodes
    assert len(world.room.machines) == 3, "one machine in the place of one"
    return job


def loss(world):
    """The only node of a job is gone without a word."""
    job = world.submit(1, work=25)
    world.until(running(job), 60)
    world.wait(2)
    world.reclaim(job.running.nodes[0], 0.0, notice=False)
    # Without a journal nobody knows whose machine it was: Slurm finds out by SlurmdTimeout, and makes the job wait two minutes.
    world.until(lambda: job.done_at, 400 if world.die_without_journal else 150)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    return job


def passed_over(world):
    """A reclaim after which Slurm gives the job another name than the one that was bought ahead."""
    world.slurm.engine.settings = replace(world.slurm.engine.settings, power_s=4.0)
    job = world.submit(1, work=25)
    world.until(running(job), 60)
    world.wait(2)
    world.reclaim(job.running.nodes[0], 60)
    world.until(lambda: job.done_at, 150)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    assert job.lost == 0
    assert world.deaths or any(key.startswith("redirect:") for key in world.fleet.commands), world.story()
    # A death between the request and the redirect can cost a second machine, which is given back; never a third.
    assert len(world.room.machines) <= 3, world.story()
    return job


def sickness(world):
    """A GPU of one node of two fails, and the job can still save."""
    job = world.submit(2, work=25)
    world.until(running(job), 60)
    world.wait(2)
    sick = world.machine_of(job.running.nodes[0])
    world.slurm_call(lambda: sick.health.find("replace"))
    world.until(lambda: job.done_at, 150)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    assert job.lost == 0, "it has ten minutes"
    assert sick not in job.attempts[1].machines
    assert len(world.room.machines) == 3, "one machine in the place of one"
    return job


def crash(world):
    """A GPU fails, and the job with it, before anybody knows why."""
    job = world.submit(1, work=25, every_s=2.0)
    world.until(running(job), 60)
    world.wait(5)
    sick = world.machine_of(job.running.nodes[0])
    sim_health.crash(world, job)
    world.wait(0.5)
    world.slurm_call(lambda: sick.health.find("replace"))
    world.until(lambda: job.done_at, 150)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    assert sick not in job.attempts[1].machines
    return job


def comes_sick(world):
    """The first machine fails its check before it takes a job."""
    world.room.sick_next = 1
    job = world.submit(1, work=10)
    world.until(lambda: job.done_at, 150)
    assert len(job.attempts) == 1
    assert len(world.room.machines) <= 3, world.story()
    return job


STORIES = [launch, evacuation, loss, sickness, crash, comes_sick, pytest.param(passed_over, marks=pytest.mark.long)]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("part", SOME)
def test_dying_at_any_step_changes_nothing(make_world, story, part):
    undisturbed = make_world()
    story(undisturbed)
    points = len(undisturbed.passed)
    assert points > 20
    for point in range(part, points, PARTS):
        world = make_world()
        world.die_at = point
        story(world)
        assert world.deaths == 1, point
        settle(world, 300, quiet_s=0)
        assert not world.faults, (point, world.story())
        world.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("part", SOME)
def test_dying_at_any_step_with_the_journal_loses_no_job_and_no_machine(make_world, story, part):
    undisturbed = make_world()
    story(undisturbed)
    for point in range(part, len(undisturbed.passed), PARTS):
        world = make_world()
        world.die_at, world.die_without_journal = point, True
        try:
            story(world)
        except AssertionError as error:
            raise AssertionError(f"{point}: {error}\n{world.story()}") from error
        settle(world, 300, quiet_s=0)
        assert not world.faults, (point, world.story())
        world.close()
