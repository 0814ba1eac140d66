"""The controller, its journal, Slurm or all three are away for a while; nothing is lost by it."""

import pytest
from holdfast_controller.providers.fake_faults import hang
from holdfast_slurm.fake_model import FakeSettings
from sim_invariants import settle
from sim_training import running


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


def test_a_journal_lost_while_the_clouds_lists_lag_buys_nothing_twice(world):
    """The first lists leave out what was bought just before."""
    world.provider.timing.listing_lag_s = 15.0
    world.provider.timing.boot_s = 25.0
    job = world.submit(2, work=50)
    world.until(lambda: len(world.room.machines) == 2, 20)
    world.restart(away_s=1, lose_journal=True)
    world.until(lambda: job.done_at, 150)
    assert len(world.room.machines) == 2
    world.provider.timing.listing_lag_s = 0.0
    settle(world)


def test_a_lost_journal_and_a_machine_that_hangs_leave_no_name_with_two(make_world):
    """Nobody says any more whose machine it was; Slurm still has its address."""
    world = make_world(nodes=2)
    job = world.submit(2, work=10)
    world.until(lambda: job.done_at, 60)
    world.provider.timing.shutdown_s = 40.0
    machine = world.machine_of("n2")
    world.slurm_call(machine.hang)
    world.slurm_call(lambda: world.slurm.engine.power_down(world.slurm.fake_node("n2")))
    world.restart(lose_journal=True)
    again = world.submit(2, work=10)
    world.until(lambda: again.done_at, 300)
    settle(world)


def test_after_the_journal_was_lost_new_requests_are_served_at_once(world):
    world.wait(5)
    world.restart(lose_journal=True)
    world.wait(1)
    job = world.submit(2, work=20)
    world.until(running(job), 15)
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


def test_a_machine_that_dies_while_nobody_looks_gives_its_name_back(world):
    job = world.submit(work=30)
    world.until(running(job), 60)
    world.die()
    world.reclaim(job.running.nodes[0], 0.0, notice=False)
    world.wait(1)
    world.restart(lose_journal=True)
    settle(world)
    assert len(job.attempts) == 2


def test_a_death_that_was_lost_with_the_journal_is_found_before_slurm_gives_the_node_up(make_world):
    """Nobody knows any more which instance the node had; but Slurm gets no answer, and no cloud lists one at its address."""
    world = make_world(slurm=FakeSettings(suspend_timeout_s=20.0, slurmd_timeout_s=300.0))
    job, bystander = world.submit(2, work=60), world.submit(work=400)
    world.until(lambda: running(job)() and running(bystander)(), 60)
    world.die()
    world.reclaim(job.running.nodes[0], 0.0, notice=False)
    world.provider.timing.gone_listed_s = 0.0
    world.wait(1)
    world.restart(lose_journal=True)
    world.until(running(job, 1), 250)
    assert len(bystander.attempts) == 1
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


def test_the_clouds_word_does_where_the_agent_is_dead(world):
    job = world.submit(2, work=200)
    world.until(running(job), 60)
    node = job.running.nodes[0]
    machine = world.machine_of(node)
    machine.away(500)
    world.until(lambda: not world.fleet.instances[machine.iid].connected, 30)
    machine.warned = True
    world.slurm_call(lambda: world.provider.reclaim([machine.iid], 100))
    world.until(lambda: world.fleet.nodes[node].doom is not None, 30)
    assert world.fleet.nodes[node].doom.source == "cloud"
    world.until(lambda: job.running is None, 100)
    assert machine.alive, "requeued while the node still answered"
    world.until(running(job, 1), 60)
    settle(world, 600)


def test_a_controller_that_is_frozen_while_an_agent_acts_requeues_nothing_again(world):
    job, spare = world.submit(work=100), world.submit(work=5)
    world.until(lambda: running(job)() and spare.done_at, 60)
    node = job.running.nodes[0]
    world.freeze(20)
    world.reclaim(node, 40)
    world.until(running(job, 1), 15)
    assert job.lost == 0
    world.wait(30)
    assert world.slurm.fake_job(job.key).restarts == 1
    settle(world)


def test_a_controller_that_freezes_between_its_look_and_its_deed_looks_again(world):
    """The agent has requeued the job meanwhile, which runs again: what was true before the pause is so no more."""
    job, spare = world.submit(work=100), world.submit(work=5)
    world.until(lambda: running(job)() and spare.done_at, 60)
    node = job.running.nodes[0]
    world.slurm.after_s = 0.5
    world.reclaim(node, 60)
    world.until(lambda: job.running.state == "parked", 10, step_s=0.05)
    world.until(lambda: [call for call in world.slurm.calls if call[1] == "job" and call[2] == (job.key,)], 5, step_s=0.05)
    world.freeze(20)
    world.slurm.after_s = 0.0
    world.until(running(job, 1), 15)
    world.wait(40)
    assert world.slurm.fake_job(job.key).restarts == 1
    settle(world)


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("stage", ["asked for", "bought", "runs", "parked", "requeued"])
def test_slurmctld_restarts_at_every_stage(world, stage, kill):
    job = world.submit(2, work=40)
    reached = {
        "asked for": lambda: world.slurm.fake_job(job.key).state == "CONFIGURING",
        "bought": lambda: world.room.machines,
        "runs": running(job),
        "parked": lambda: job.running and job.running.state == "parked",
        "requeued": lambda: world.slurm.fake_job(job.key).restarts == 1,
    }
    if stage in {"parked", "requeued"}:
        world.until(running(job), 60)
        world.reclaim(job.running.nodes[0], 60)
    world.until(reached[stage], 60, step_s=0.05)
    world.slurm_call(lambda: world.slurm.restart(3.0, kill=kill))
    settle(world)
    assert len(job.attempts) == (2 if stage in {"parked", "requeued"} else 1)
    assert job.lost == 0
    assert len(world.room.machines) == (3 if stage in {"parked", "requeued"} else 2)


@pytest.mark.parametrize("version", [(22, 5), (24, 11)])
def test_a_reconfigure_while_gates_wait_changes_nothing(make_world, version):
    world = make_world(slurm=FakeSettings(version=version, suspend_timeout_s=20.0, resume_timeout_s=200.0))
    job = world.submit(2, work=20)
    world.until(lambda: world.room.machines, 20)
    world.run(world.slurm.reconfigure())
    world.until(running(job), 15)
    settle(world)
