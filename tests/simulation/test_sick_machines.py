"""A GPU fails: jobs leave before it spoils them, a crash costs no job, the machine is replaced, and nothing is done twice."""

import pytest
import sim_health
from holdfast_controller.providers.fake_machines import Timing as CloudTiming
from sim_invariants import settle
from sim_training import running
from sim_world import POLICY, POOL_A, POOL_B


def begun(world, nodes=1, **more):
    """A job that has trained for some seconds."""
    job = world.submit(nodes, **{"work": 60, **more})
    world.until(running(job), 60)
    world.wait(5.2)
    return job


def sicken(world, node, action, **more):
    machine = world.machine_of(node)
    world.slurm_call(lambda: machine.health.find(action, **more))
    return machine


def told(world, kind):
    """How often something happened, by the journal."""
    return world.story(10_000).count(f" {kind}: ")


@pytest.mark.parametrize("action", ["evacuate", "replace"])
def test_a_gang_leaves_a_sick_machine_without_losing_a_step(world, action):
    job = begun(world, 2)
    first = job.running.nodes
    sick = sicken(world, first[0], action)
    world.until(running(job, 1), 60)
    assert job.lost == 0
    assert first[0] not in job.running.nodes
    assert first[1] in job.running.nodes, "the healthy node is used again"
    assert len(world.room.machines) == 3, "one replacement, no more"
    assert told(world, "CondemnNode") == 1
    settle(world)
    assert not sick.alive


def test_the_next_machine_is_bought_elsewhere_and_the_pool_has_neither_refused_nor_reclaimed(world):
    job = begun(world)
    sick = sicken(world, job.running.nodes[0], "replace")
    world.until(running(job, 1), 60)
    pools = [machine.cloud.pool for machine in world.room.machines.values()]
    assert pools == [POOL_A, POOL_B]
    world.until(lambda: not sick.alive, 30)
    world.wait(20)
    memory = world.fleet.pools[POOL_A]
    assert (memory.refusals, memory.heat, memory.reclaims) == (0, 0.0, 0.0)
    settle(world)
    world.wait(600)
    later = world.submit(work=100)
    other = world.submit(work=100)
    world.until(lambda: running(later)() and running(other)(), 60)
    assert POOL_A in [machine.cloud.pool for machine in world.room.living()], "it is the first again"


def test_a_drain_disturbs_no_job_and_the_machine_goes_when_it_has_ended(world):
    job = begun(world)
    sick = sicken(world, job.running.nodes[0], "drain")
    world.until(lambda: job.done_at, 120)
    assert len(job.attempts) == 1
    world.until(lambda: not sick.alive, 20)
    settle(world)


def test_a_dry_run_and_a_note_change_nothing(world):
    job = begun(world)
    machine = sicken(world, job.running.nodes[0], "note", rule="hot")
    sicken(world, job.running.nodes[0], "replace", rule="xid-79", dry_run=True)
    world.until(lambda: job.done_at, 120)
    assert len(job.attempts) == 1
    assert machine.alive
    assert told(world, "DrainNode") == 0
    settle(world)


def test_the_policy_can_have_nothing_done(make_world):
    world = make_world(policy=POLICY + "health = { act = false }\n")
    job = begun(world)
    machine = sicken(world, job.running.nodes[0], "replace")
    world.until(lambda: job.done_at, 120)
    assert len(job.attempts) == 1
    assert machine.alive


@pytest.mark.parametrize("kind", ["library", "plain", "signal"])
@pytest.mark.parametrize("first_s", [-20.0, -1.0, -0.1, 0.0, 0.1, 1.0])
def test_a_job_that_crashes_on_a_sick_machine_runs_again(world, kind, first_s):
    """`first_s`: the crash is so long before or after the kernel's word."""
    job = begun(world, kind=kind, every_s=2.0)
    node = job.running.nodes[0]
    if first_s <= 0:
        sim_health.crash(world, job)
        world.wait(-first_s)
        sicken(world, node, "replace")
    else:
        sicken(world, node, "replace")
        world.wait(first_s)
        sim_health.crash(world, job)
    world.until(running(job, 1), 60)
    assert world.machine_of(job.running.nodes[0]).health.fit
    settle(world)
    assert [attempt.number for attempt in job.attempts] == [0, 1]


@pytest.mark.parametrize("away_s", [40.0, 100.0])
def test_a_crash_while_no_controller_runs_costs_no_job(world, away_s):
    job = begun(world, every_s=2.0)
    node = job.running.nodes[0]
    world.die()
    sicken(world, node, "replace")
    world.wait(0.5)
    sim_health.crash(world, job)
    world.wait(away_s)
    world.start()
    world.until(running(job, 1), 60)
    settle(world)


def test_the_second_attempt_may_crash_too(world):
    job = begun(world, every_s=2.0)
    world.reclaim(job.running.nodes[0], 30)
    world.until(running(job, 1), 60)
    world.wait(3)
    node = job.running.nodes[0]
    sim_health.crash(world, job)
    world.wait(0.5)
    sicken(world, node, "replace")
    world.until(running(job, 2), 60)
    settle(world)


def test_a_job_that_began_and_crashed_between_two_looks_runs_again(world):
    job = world.submit(work=30)
    world.until(running(job), 60, step_s=0.01)
    node = job.running.nodes[0]
    sicken(world, node, "replace")
    sim_health.crash(world, job)
    world.until(running(job, 1), 60)
    settle(world)


@pytest.mark.parametrize("before_s", [None, 60.0])
def test_a_job_that_failed_by_itself_is_not_run_again(world, before_s):
    """It failed where no rule holds, or long before one did."""
    other = world.submit(work=200)
    job = begun(world)
    node = job.running.nodes[0]
    job.over = True
    world.slurm_call(lambda: world.slurm.finish(job.key, 1))
    if before_s is not None:
        world.wait(before_s)
        sicken(world, node, "replace")
    world.until(lambda: other.done_at, 300)
    assert len(job.attempts) == 1
    settle(world)


def test_a_job_that_was_cancelled_or_has_finished_is_not_run_again(world):
    jobs = [begun(world), begun(world)]
    nodes = [job.running.nodes[0] for job in jobs]
    for node in nodes:
        sicken(world, node, "replace")
    world.cancel(jobs[0])
    jobs[1].done_at = world.clock.now()
    world.slurm_call(lambda: world.slurm.finish(jobs[1].key))
    settle(world)
    assert [len(job.attempts) for job in jobs] == [1, 1]


def test_a_finding_that_is_over_while_the_job_saves_leaves_it_where_it_is(world):
    job = begun(world, work=90, save_s=20.0)
    machine = sicken(world, job.running.nodes[0], "evacuate")
    world.wait(5)
    world.slurm_call(machine.health.resolve)
    world.until(lambda: job.done_at, 130)
    assert len(job.attempts) == 1
    settle(world)
    assert machine.alive


def test_one_that_comes_again_is_acted_on_again(world):
    job = begun(world, work=90, save_s=20.0)
    machine = sicken(world, job.running.nodes[0], "evacuate")
    world.wait(5)
    world.slurm_call(machine.health.resolve)
    world.wait(20)
    sicken(world, machine.registered, "evacuate")
    world.until(running(job, 1), 80)
    assert job.lost == 0
    settle(world)


def test_a_drain_that_is_over_is_undone(world):
    job = begun(world)
    node = job.running.nodes[0]
    machine = sicken(world, node, "drain")
    world.wait(2)
    assert world.slurm.fake_node(node).drain
    world.wait(15)
    assert world.slurm.fake_node(node).drain, "the rule still holds"
    world.slurm_call(machine.health.resolve)
    world.wait(10)
    assert not world.slurm.fake_node(node).drain
    settle(world)
    assert machine.alive


def test_an_admins_drain_stays_as_it_is(world):
    job = begun(world, work=20)
    node = job.running.nodes[0]
    fake = world.slurm.fake_node(node)
    fake.drain, fake.reason = True, "ann looks at it"
    machine = sicken(world, node, "drain")
    world.until(lambda: job.done_at, 60)
    world.wait(60)
    assert (fake.drain, fake.reason, machine.alive) == (True, "ann looks at it", True)
    world.slurm_call(machine.health.resolve)
    world.wait(20)
    assert (fake.drain, fake.reason) == (True, "ann looks at it")


def test_an_agent_that_comes_back_says_the_same_and_nothing_is_done_again(world):
    job = begun(world, save_s=20.0)
    machine = sicken(world, job.running.nodes[0], "evacuate")
    for _ in range(3):
        world.slurm_call(lambda: machine.away(1.0))
        world.wait(4)
    assert told(world, "CondemnNode") == told(world, "HealthReported") == 1
    world.until(running(job, 1), 60)
    settle(world)


def test_an_agent_that_is_silent_takes_nothing_back(world):
    job = begun(world, work=40)
    machine = sicken(world, job.running.nodes[0], "drain")
    world.wait(1)
    world.slurm_call(lambda: machine.away(60.0))
    world.until(lambda: job.done_at, 80)
    world.until(lambda: not machine.alive, 30)
    settle(world)


@pytest.mark.parametrize("action", ["drain", "evacuate"])
def test_a_machine_is_kept_to_be_looked_at_where_the_policy_says_so(make_world, action):
    world = make_world(policy=POLICY + "health = { keep_sick_s = 300 }\n")
    job = begun(world, work=20)
    node = job.running.nodes[0]
    machine = sicken(world, node, action)
    world.until(lambda: job.done_at, 60)
    emptied = world.clock.now()
    world.wait(120)
    assert machine.alive
    assert world.slurm.fake_node(node).drain, "no job comes to it"
    world.until(lambda: not machine.alive, 250)
    assert world.clock.now() - emptied >= 250
    settle(world)


def test_what_is_kept_goes_at_once_when_it_is_to_be_replaced(make_world):
    world = make_world(policy=POLICY + "health = { keep_sick_s = 3000 }\n")
    job = begun(world, work=20)
    machine = sicken(world, job.running.nodes[0], "evacuate")
    world.until(lambda: job.done_at, 60)
    sicken(world, machine.registered, "replace", rule="row-remap-failed")
    world.until(lambda: not machine.alive, 15)
    settle(world)


def test_a_job_that_hangs_is_requeued_when_its_time_to_save_is_over(make_world):
    """What a lost GPU does to a collective operation: nothing is saved, nothing ends."""
    world = make_world(policy=POLICY + "health = { evacuate_s = 30, keep_sick_s = 3000 }\n")
    job = begun(world, save_s=10_000.0, every_s=2.0)
    sicken(world, job.running.nodes[0], "replace")
    world.until(running(job, 1), 60)
    job.save_s = 1.0
    settle(world)


def test_a_declared_signal_comes_at_once_and_its_time_is_not_waited_out_twice(world):
    job = world.submit(kind="plain", work=200)
    world.slurm.fake_job(job.key).comment = "holdfast: signal=USR1@40"
    world.until(running(job), 60)
    world.wait(3)
    sicken(world, job.running.nodes[0], "evacuate")
    at = world.clock.now()
    world.until(running(job, 1), 80)
    assert 20 < world.clock.now() - at < 60, "it had the 40 s that it wants, and no ten minutes"
    settle(world)


@pytest.mark.parametrize("count", [1, 2])
def test_a_machine_that_comes_sick_takes_no_job(world, count):
    world.room.sick_next = count
    job = world.submit(work=10)
    world.until(lambda: job.done_at, 200)
    assert len(job.attempts) == 1
    assert len(world.room.machines) == count + 1
    settle(world)


def test_when_every_machine_comes_sick_not_one_after_the_other_is_bought(make_world):
    world = make_world(cloud=CloudTiming(boot_s=2.0, shutdown_s=1.0))
    world.room.sick_next = 1000
    job = world.submit(work=10)
    world.wait(300)
    bought = len(world.room.machines)
    assert bought <= 2 * (300 / 30 + 1), "two for each try, and a pause between tries"
    world.room.sick_next = 0
    world.until(lambda: job.done_at, 200)
    settle(world)


def test_the_node_is_drained_and_the_job_told_within_a_second(world):
    job = begun(world, 2, save_s=20.0)
    nodes = job.running.nodes
    sicken(world, nodes[1], "replace")
    world.wait(0.3)
    assert world.slurm.fake_node(nodes[1]).drain
    assert all(machine.notices(job.job_id) for machine in job.running.machines)
