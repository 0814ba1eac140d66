"""Whole stories: launches, refusals, evacuations, losses, each in virtual time, over the real loop."""

import pytest
from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.fake_faults import hang, lost_answer, partial, refusal
from sim_invariants import always, settle
from sim_world import POOL_A, POOL_B


def running(job, attempt=0):
    return lambda: job.running is not None and job.running.number == attempt and job.running.state == "running"


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


def test_a_noticed_reclaim_costs_no_step(world):
    job = world.submit(work=60)
    world.until(running(job), 60)
    world.wait(9.3)
    world.reclaim(job.running.nodes[0], 120)
    world.until(running(job, 1), 60)
    assert job.lost == 0
    world.until(lambda: job.done_at, 120)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    settle(world)


def test_of_two_nodes_the_survivor_is_used_again(world):
    job = world.submit(2, work=60)
    world.until(running(job), 60)
    world.wait(5)
    first = job.running.nodes
    world.reclaim(first[0], 120)
    world.until(running(job, 1), 60)
    assert first[1] in job.running.nodes
    assert first[0] not in job.running.nodes
    assert job.lost == 0
    assert len(world.room.machines) == 3, "one replacement, no more"
    settle(world)


def test_a_job_that_does_not_register_is_requeued_before_the_deadline(world):
    job = world.submit(work=60, kind="plain")
    world.until(running(job), 60)
    world.wait(3)
    world.reclaim(job.running.nodes[0], 30)
    world.wait(20)
    assert job.running.number == 0, "it trains on as long as it can"
    world.wait(6)
    assert job.running is None or job.running.number == 1
    settle(world)


def test_death_without_notice(world):
    job = world.submit(2, work=60)
    world.until(running(job), 60)
    world.wait(5)
    world.reclaim(job.running.nodes[0], 0.0, notice=False)
    world.until(running(job, 1), 60)
    world.until(lambda: job.done_at, 120)
    settle(world)


def test_a_withdrawn_notice_leaves_everything_as_it_was(world):
    job = world.submit(2, work=90, save_s=20.0)
    world.until(running(job), 60)
    machine = world.machine_of(job.running.nodes[0])
    world.reclaim(machine.registered, 120)
    world.wait(5)
    world.slurm_call(lambda: (world.provider.spare(machine.iid), machine.withdraw()))
    world.until(lambda: job.done_at, 130)
    assert [attempt.number for attempt in job.attempts] == [0]
    settle(world)


def test_lost_hooks_are_made_good(world):
    world.lose_hooks = 1000
    job = world.submit(2, work=60)
    world.until(running(job), 60)
    world.reclaim(job.running.nodes[0], 60)
    settle(world)
    assert len(job.attempts) == 2


def test_a_hook_that_comes_twice_buys_once(world):
    world.double_hooks = 1000
    job = world.submit(2)
    world.until(lambda: job.done_at, 60)
    assert len(world.room.machines) == 2
    settle(world)


def test_a_late_suspend_hook_harms_no_new_instance(world):
    job = world.submit(work=60)
    world.until(running(job), 60)
    node = job.running.nodes[0]
    before = world.machine_of(node)
    world.late_hooks_s = 28.0  # later than the node is off and on again
    for other in world.names:
        if other != node:
            world.slurm.fake_node(other).down = True
    world.reclaim(node, 20)
    world.until(running(job, 1), 150)
    assert world.machine_of(node) is not before
    world.wait(60)
    assert job.running is None or job.running.number == 1
    for other in world.names:
        world.slurm.fake_node(other).down = False
    settle(world)


@pytest.mark.parametrize("method", ["instances", "launch", "terminate", "find"])
def test_a_cloud_that_hangs_delays_no_evacuation(world, method):
    jobs = [world.submit(work=120), world.submit(2, work=120)]
    world.until(lambda: all(running(job)() for job in jobs), 60)
    spare = world.submit(work=5)
    world.until(lambda: spare.done_at, 60)
    world.provider.inject(hang(600.0).on(method, times=50))
    if method == "launch":
        world.submit(2, work=5)  # waits for the launch that hangs
    world.reclaim(jobs[1].running.nodes[0], 30)
    world.until(lambda: jobs[1].running is None, 5)
    assert jobs[1].lost == 0
    world.provider.clear()
    settle(world, 3000)


def test_without_slurm_for_a_while_nothing_is_concluded(world):
    job = world.submit(2, work=200)
    world.until(running(job), 60)
    world.slurm.unavailable = True
    world.wait(100)
    assert len(world.room.living()) == 2
    assert world.fleet.jobs
    world.slurm.unavailable = False
    world.until(lambda: job.done_at, 150)
    assert len(job.attempts) == 1
    settle(world)


def test_a_notice_while_slurm_is_away_is_acted_on_when_it_is_back(world):
    job = world.submit(work=100)
    world.until(running(job), 60)
    world.slurm.unavailable = True
    world.reclaim(job.running.nodes[0], 60)
    world.wait(30)
    world.slurm.unavailable = False
    world.until(running(job, 1), 60)
    assert job.lost == 0
    settle(world)


def test_a_lost_journal_costs_no_machine_and_no_job(world):
    job = world.submit(2, work=200)
    world.until(running(job), 60)
    machines = set(world.room.machines)
    world.restart(away_s=5, lose_journal=True)
    world.wait(100)
    assert {machine.iid for machine in world.room.living()} == machines
    world.until(lambda: job.done_at, 150)
    assert len(job.attempts) == 1
    settle(world)
    assert {world.fleet.nodes[m.name].instance_id for m in world.room.living()} == machines, "adopted"


def test_a_journal_lost_while_machines_boot_buys_none_again(world):
    job = world.submit(2, work=50)
    world.until(lambda: len(world.room.machines) == 2, 20)
    world.restart(away_s=1, lose_journal=True)
    world.until(lambda: job.done_at, 150)
    assert len(world.room.machines) == 2
    settle(world)


def test_a_lost_journal_and_a_notice_at_once(world):
    job = world.submit(2, work=100)
    world.until(running(job), 60)
    world.reclaim(job.running.nodes[0], 60)
    world.wait(0.6)
    world.restart(away_s=2, lose_journal=True)
    world.until(running(job, 1), 90)
    assert job.lost == 0
    settle(world)
    always(world)


def test_a_machine_that_dies_while_nobody_looks_gives_its_name_back(world):
    job = world.submit(work=30)
    world.until(running(job), 60)
    world.die()
    world.reclaim(job.running.nodes[0], 0.0, notice=False)
    world.wait(1)
    world.restart(lose_journal=True)
    settle(world)
    assert len(job.attempts) == 2


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


def test_a_job_that_exits_on_the_signal_it_declared_is_run_again(world):
    job = world.submit(2, work=40, kind="signal", save_s=3.0)
    world.until(running(job), 60)
    world.wait(5)
    world.reclaim(job.running.nodes[0], 60)
    world.until(lambda: job.done_at, 150)
    assert [attempt.number for attempt in job.attempts] == [0, 1]
    assert job.lost == 0
    settle(world)


def test_an_interactive_job_is_lost_only_with_its_node(world):
    job = world.submit(work=40, kind="salloc")
    world.until(running(job), 60)
    world.reclaim(job.running.nodes[0], 60)
    world.until(lambda: job.over or job.done_at, 100)
    assert job.done_at, "it ended in time"
    settle(world)


def test_a_cancelled_job_is_not_requeued(world):
    job = world.submit(2, work=60)
    world.until(running(job), 60)
    world.reclaim(job.running.nodes[0], 30)
    world.wait(0.6)
    world.cancel(job)
    settle(world)
    assert len(job.attempts) == 1


def test_a_name_that_was_off_between_two_looks_has_a_new_life(make_world):
    world = make_world(nodes=1)
    job = world.submit(work=30)
    world.until(running(job), 60)
    world.reclaim("n1", 0.0, notice=False)
    world.until(lambda: world.slurm.fake_node("n1").power == "suspending", 20)
    world.slurm.unavailable = True
    world.until(lambda: world.slurm.fake_node("n1").power == "resuming", 160)
    world.slurm.unavailable = False
    world.until(lambda: job.done_at, 100)
    assert world.slurm.fake_job(job.key).restarts == 1
    settle(world)


def test_a_job_that_completes_on_a_node_without_a_machine_is_let_go(world):
    job = world.submit(work=30)
    world.until(running(job), 60)
    node = job.running.nodes[0]
    world.die()
    world.reclaim(node, 0.0, notice=False)
    world.wait(1)
    world.slurm_call(lambda: world.slurm.engine.power_down(world.slurm.fake_node(node)))
    world.wait(40)
    assert world.slurm.fake_job(job.key).completing
    world.start()
    world.until(lambda: job.done_at, 250)
    settle(world)


def test_the_controller_that_dies_before_it_saw_slurm_knows_its_launches_again(world):
    """What a journal says of instances counts on replay, although no node was journaled yet."""
    job = world.submit(2, work=60)
    world.until(running(job), 60)
    world.die()
    world.slurm.unavailable = True
    world.restart(lose_journal=True)
    world.wait(1)
    world.restart()
    world.slurm.unavailable = False
    world.wait(5)
    assert sorted(launch.nodes for launch in world.fleet.launches.values()) == [("n1", "n2")]
    settle(world)


def test_a_drain_that_comes_late_harms_no_later_life_of_the_name(world):
    job = world.submit(work=10)
    world.until(lambda: job.done_at, 60)
    node = job.attempts[0].nodes[0]
    fake = world.slurm.fake_node(node)
    world.slurm_call(lambda: world.slurm.engine.power_down(fake))
    world.until(lambda: fake.power == "suspending", 20)
    fake.drain, fake.reason = True, "holdfast: preempt: spot interruption"
    settle(world)


def test_a_resume_hook_that_comes_late_forgets_no_notice(world):
    world.late_hooks_s = 25.0
    job = world.submit(work=100, save_s=15.0)
    world.until(running(job), 60)
    world.wait(2)
    assert world.clock.now() % 1e5 < 24
    world.reclaim(job.running.nodes[0], 60)
    world.until(running(job, 1), 50)
    settle(world)


def test_no_agent_is_turned_away_before_the_clouds_were_listed(world):
    job = world.submit(work=100)
    world.until(running(job), 60)
    world.provider.inject(hang(45.0).on("instances"))
    world.restart(lose_journal=True)
    machine = world.machine_of(job.running.nodes[0])
    world.wait(60)
    assert machine.agent.refused == ""
    assert world.fleet.nodes[machine.name].instance_id == machine.iid
    settle(world)


def test_without_a_controller_the_nodes_own_agent_brings_the_job_to_safety(world):
    job = world.submit(work=60)
    spare = world.submit(work=5)
    world.until(lambda: running(job)() and spare.done_at, 60)
    node = job.running.nodes[0]
    world.die()
    world.reclaim(node, 40)
    world.until(running(job, 1), 60)
    assert job.lost == 0
    world.wait(10)
    world.start()
    world.until(lambda: job.done_at, 60)
    assert world.slurm.fake_job(job.key).restarts == 1
    settle(world)
