"""How often a node is lost reaches its agent, through the real reactor and hub."""

from itertools import pairwise

from holdfast_controller import risk
from holdfast_controller.providers.fake_faults import hang
from sim_invariants import settle
from sim_training import running
from sim_world import POOL_A


def test_an_agent_is_told_when_it_comes_and_when_that_changes_but_not_each_minute(world):
    job = world.submit(work=3000.0)
    world.until(running(job), 60)
    machine = world.machine_of(job.attempts[0].nodes[0])
    assert machine.agent.market == "spot"
    ((first_at, first),) = machine.agent.hazards
    assert first > 0
    world.wait(30)
    assert len(machine.agent.hazards) == 1, "nothing new"
    world.provider.pools[POOL_A].capacity = 1
    other = world.submit(work=10.0)  # refused there, and served by the next pool
    world.until(lambda: other.done_at, 120)
    world.until(lambda: len(machine.agent.hazards) == 2, risk.AGAIN_S + 2 * risk.LOOK_S)
    raised_at, raised = machine.agent.hazards[1]
    assert raised > first + 0.5, "a pool that has just refused takes back what it has given"
    assert raised_at >= first_at + risk.AGAIN_S
    world.until(lambda: machine.agent.hazards[-1][1] < first * 1.5, 4 * 3600, step_s=60)
    told = machine.agent.hazards[1:]
    assert 3 <= len(told) <= 12, "it fades by steps that are worth a message"
    assert all(later[0] - sooner[0] >= risk.AGAIN_S for sooner, later in pairwise(told))
    settle(world)


def test_a_controller_that_starts_again_tells_anew(world):
    job = world.submit(work=300.0)
    world.until(running(job), 60)
    machine = world.machine_of(job.attempts[0].nodes[0])
    world.restart()
    world.until(lambda: len(machine.agent.hazards) == 2, 30)
    settle(world)


def test_an_agent_whose_pool_is_not_known_yet_is_told_once_it_is(world):
    """The journal is lost, and the agent comes back before the cloud's list."""
    job = world.submit(work=300.0)
    world.until(running(job), 60)
    machine = world.machine_of(job.attempts[0].nodes[0])
    world.provider.inject(hang(20.0).on("instances"))
    world.restart(lose_journal=True)
    world.until(lambda: world.controller.hub.connected(machine.iid), 30)
    world.wait(1)
    assert len(machine.agent.hazards) == 1
    world.until(lambda: len(machine.agent.hazards) == 2, 60)
    settle(world)
