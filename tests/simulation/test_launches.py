"""Launches, from a request to a job that runs: refusals, partial and lost answers, silent machines, hooks that are lost or come twice."""

import pytest
from holdfast_controller.planning import Bounds
from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.fake_faults import hang, lost_answer, partial, refusal
from holdfast_slurm.fake_model import FakeSettings
from sim_invariants import settle
from sim_training import running
from sim_world import CALM_S, POLICY, POOL_A, POOL_B


def pools_of(world):
    return [machine.cloud.pool for machine in world.room.machines.values()]


def test_a_job_gets_its_node_and_runs(world):
    job = world.submit()
    world.until(lambda: job.done_at, 120)
    assert [attempt.number for attempt in job.attempts] == [0]
    assert len(world.room.machines) == 1
    settle(world)


def test_a_gang_is_bought_in_one_call(world):
    job = world.submit(3)
    world.until(lambda: job.done_at, 120)
    assert [call[1] for call in world.provider.calls if call[1] == "launch"] == ["launch"]
    assert len(world.room.machines) == 3
    settle(world)


def test_a_refused_launch_goes_to_the_next_pool_at_once(world):
    world.provider.pools[POOL_A].capacity = 0
    job = world.submit()
    world.until(running(job), 20)
    assert pools_of(world) == [POOL_B]
    settle(world)


def test_refused_everywhere_the_job_is_told_and_later_served(world):
    for pool in world.provider.pools.values():
        pool.capacity = 0
    job = world.submit()
    world.wait(60)
    assert "no capacity" in world.slurm.fake_job(job.key).admin_comment
    assert world.room.machines == {}
    assert job.attempts == []
    for pool in world.provider.pools.values():
        pool.capacity = 10
    world.until(lambda: job.done_at, 200)
    settle(world)


def test_a_gang_that_comes_in_part_is_given_back_and_bought_whole_elsewhere(world):
    world.provider.inject(partial(1).on("launch", pool=POOL_A))
    job = world.submit(2)
    world.until(lambda: job.done_at, 120)
    assert pools_of(world).count(POOL_B) == 2
    settle(world)


@pytest.mark.parametrize("trouble", [lost_answer(), lost_answer(20.0), hang(30.0), hang(30.0, acts=True), refusal(FaultKind.THROTTLE, 2.0)])
def test_a_launch_whose_answer_is_lost_is_not_made_twice(world, trouble):
    world.provider.inject(trouble.on("launch"))
    job = world.submit(2)
    world.until(lambda: job.done_at, 200)
    assert len(world.room.machines) == 2
    settle(world)


def test_a_machine_that_never_speaks_is_replaced(world):
    world.room.mute_next = 1
    job = world.submit()
    world.until(lambda: job.done_at, 200)
    assert len(world.room.machines) == 2
    settle(world)


def test_lost_hooks_are_made_good(world):
    world.hooks.lose = 1000
    job = world.submit(2, work=60)
    world.until(running(job), 60)
    world.reclaim(job.running.nodes[0], 60)
    settle(world)
    assert len(job.attempts) == 2


def test_a_hook_that_comes_twice_buys_once(world):
    world.hooks.double = 1000
    job = world.submit(2)
    world.until(lambda: job.done_at, 60)
    assert len(world.room.machines) == 2
    settle(world)


def test_a_resume_timeout_without_a_controller_leaves_no_name_behind(world):
    for other in world.names[1:]:
        world.slurm.fake_node(other).drain = True
    world.slurm.fake_node(world.names[0]).reason = ""
    world.die()
    job = world.submit(work=10)
    world.wait(230)
    assert world.slurm.fake_node(world.names[0]).down
    world.start()
    world.until(lambda: job.done_at, 250)
    settle(world)


def test_an_admins_down_is_left_alone(world):
    world.slurm.fake_node("n1").down = True
    world.slurm.fake_node("n1").reason = "bad fan"
    world.wait(60)
    assert world.slurm.fake_node("n1").down
    world.slurm.fake_node("n1").down = False


def test_a_job_that_slurm_has_running_and_no_node_has_seen_is_requeued(world):
    world.slurm.engine.swallow = 1
    job = world.submit(2, work=20)
    world.until(lambda: world.slurm.fake_job(job.key).state == "RUNNING", 60)
    world.wait(55)
    assert world.slurm.fake_job(job.key).restarts == 0, "not before its grace is over"
    world.until(running(job, 1), 30)
    world.until(lambda: job.done_at, 60)
    settle(world)


def test_a_job_that_is_never_launched_is_left_to_people_after_two_tries(world):
    world.slurm.engine.swallow = 100
    job = world.submit(work=20)
    world.until(lambda: world.slurm.fake_job(job.key).restarts == 2, 400)
    world.wait(400)
    assert world.slurm.fake_job(job.key).restarts == 2
    world.slurm.engine.swallow = 0
    world.cancel(job)
    settle(world)


@pytest.mark.parametrize("trouble", ["the agent does not know", "the agent is away", "the controller starts anew"])
def test_silence_proves_nothing_where_an_agent_could_not_tell(world, trouble):
    """A job that runs well, and of which nobody has a report: it is not requeued for that."""
    job = world.submit(2, work=400, kind="plain")
    world.until(running(job), 60)
    machine = job.running.machines[0]
    machine.blind = trouble == "the agent does not know"
    for each in world.fleet.jobs.values():
        each.reports.clear()
        each.present.clear()
    world.fleet.reindex()
    while not job.done_at:
        if trouble == "the agent is away":
            world.slurm_call(lambda: machine.away(10.0))
        elif trouble == "the controller starts anew":
            world.restart(away_s=5.0, lose_journal=True)
        world.wait(40)
    assert len(job.attempts) == 1
    machine.blind = False
    settle(world)


def test_a_job_that_comes_back_within_the_second_in_which_it_left_is_run_again(world):
    for other in world.names[1:]:
        world.slurm.fake_node(other).drain = True
    job = world.submit(work=40, kind="plain")
    world.until(running(job), 60)
    world.wait(5.05 - world.clock.now() % 1)
    world.slurm_call(lambda: world.slurm.engine.requeue(world.slurm.fake_job(job.key)))
    world.until(lambda: not world.slurm.fake_job(job.key).completing, 5, step_s=0.05)
    world.slurm_call(lambda: world.slurm.engine.put_off(world.slurm.fake_job(job.key), 0))
    world.until(lambda: world.slurm.fake_job(job.key).state == "FAILED", 2, step_s=0.05)
    world.until(running(job, 2), 30)
    for other in world.names[1:]:
        world.slurm.fake_node(other).drain = False
    world.until(lambda: job.done_at, 100)
    settle(world)


def test_a_job_whose_prolog_is_slow_is_not_taken_for_one_that_was_never_launched(make_world):
    world = make_world(slurm=FakeSettings(prolog_s=200.0, suspend_timeout_s=20.0, resume_timeout_s=200.0))
    job = world.submit(2, work=20)
    world.until(lambda: world.slurm.fake_job(job.key).reason == "Prolog", 60)
    world.until(lambda: job.done_at, 260)
    assert len(job.attempts) == 1
    settle(world)


def zones_of(world, job):
    """The zones in which the job's machines stand."""
    return {world.machine_of(node).cloud.pool.split("/")[2] for node in job.running.nodes}


def test_a_gang_whose_zone_has_no_more_goes_to_another_as_a_whole(world):
    job = world.submit(2, work=400)
    world.until(running(job), 60)
    assert zones_of(world, job) == {"a"}
    world.wait(CALM_S)
    world.provider.pools[POOL_A].capacity = 1
    world.reclaim(job.running.nodes[0], 60)
    world.until(running(job, 2), 400)  # attempt 1 had the survivor, and never began
    assert zones_of(world, job) == {"b"}
    settle(world)
    assert world.training.jobs[job.key].done_at is not None


def test_with_gang_any_the_survivor_stays_and_its_peer_stands_elsewhere(make_world):
    world = make_world(policy=POLICY.replace("launch = {", 'launch = { gang = "any",'))
    job = world.submit(2, work=400)
    world.until(running(job), 60)
    world.wait(CALM_S)
    world.provider.pools[POOL_A].capacity = 1
    world.reclaim(job.running.nodes[0], 60)
    world.until(running(job, 1), 400)
    assert zones_of(world, job) == {"a", "b"}
    settle(world)


def test_many_jobs_of_one_node_are_few_calls(make_world):
    world = make_world(nodes=12, bounds=Bounds(1, 100))
    jobs = [world.submit(work=20) for _ in range(12)]
    world.until(lambda: all(job.running is not None or job.done_at for job in jobs), 120)
    assert len(world.requests) <= 4
    settle(world)
    assert all(len(job.attempts) == 1 for job in jobs)


def test_a_shared_call_that_brings_less_is_made_up_in_the_next_pool(make_world):
    world = make_world(nodes=6, bounds=Bounds(1, 100))
    world.provider.pools[POOL_A].capacity = 2
    jobs = [world.submit(work=20) for _ in range(6)]
    world.until(lambda: all(job.running is not None or job.done_at for job in jobs), 200)
    settle(world)
    assert {machine.cloud.pool for machine in world.room.machines.values()} == {POOL_A, POOL_B}


def test_on_demand_is_bought_when_spot_has_refused_for_so_long(make_world):
    more = '[pools.od]\nprovider = "fake"\nregion = "r1"\nzone = "a"\ninstance_type = "g1"\nmarket = "on_demand"\n[node_groups.gpu]'
    policy = POLICY.replace("[node_groups.gpu]", more).replace(
        'pools = ["a", "b"]', 'pools = ["a", "b", "od"]\nondemand = "when_refused(100)"'
    )
    world = make_world(policy=policy)
    for name in (POOL_A, POOL_B):
        world.provider.pools[name].capacity = 0
    began = world.clock.now()
    job = world.submit(work=20)
    world.until(lambda: job.done_at, 400)
    assert 100 <= job.attempts[0].began - began < 160
    assert pools_of(world) == ["fake/r1/a/g1/on_demand"]
    settle(world)
