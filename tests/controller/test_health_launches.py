"""Sick machines and launches: one that is sick before it took a job is replaced, and its pool comes after others for a while."""

from dataclasses import replace
from typing import Any

import pytest
from health_words import by, found
from holdfast_controller import events as e
from holdfast_controller.commands import GiveUp, Launch, TerminateInstance
from holdfast_controller.decide.resume import MAX_SILENT_LAUNCHES
from holdfast_controller.plan import Health


def boots(world: Any, iid: str) -> Launch:
    """The next launch for n1, whose machine has its name."""
    (launch,) = by(world.due(), Launch)
    world.launched(launch, iid)
    world.arrive(iid, launch.launch_id)
    for command in world.due():
        world.finish(command)
    world.later(1)
    return launch


def ends(world: Any, iid: str) -> None:
    world.apply(e.InstanceChanged(world.now, replace(world.fleet.instances[iid].instance, state="gone")))
    world.later(1)


@pytest.mark.parametrize("action", ["drain", "evacuate", "replace"])
def test_one_that_is_sick_before_its_node_is_up_is_terminated_and_bought_anew_elsewhere(world: Any, action: str) -> None:
    world.want(7, "n1")
    first = boots(world, "i-1")
    found(world, action, instance="i-1")
    (end,) = world.due()
    assert isinstance(end, TerminateInstance)
    assert end.instance_id == "i-1"
    assert "sick before it took a job: xid-79" in end.reason
    world.finish(end)
    ends(world, "i-1")
    (again,) = by(world.due(), Launch)
    assert (again.nodes, again.pool) == (("n1",), world.pools[1].name)
    assert first.pool == world.pools[0].name
    memory = world.fleet.pools[first.pool]
    assert (memory.refusals, memory.reclaims) == (0, 0.0), "neither refused nor taken by the cloud"


def test_sick_machines_are_not_bought_without_end(world: Any) -> None:
    world.want(7, "n1")
    for number in range(MAX_SILENT_LAUNCHES):
        boots(world, f"i-{number}")
        found(world, "replace", instance=f"i-{number}")
        for command in world.due():
            world.finish(command)
        ends(world, f"i-{number}")
    due = world.due()
    assert by(due, Launch) == []
    assert len(by(due, GiveUp)) == 1


def test_a_job_that_slurmctld_forgot_to_have_started_is_not_lost_with_its_machine(world: Any) -> None:
    """One that is killed takes the node for booting again, until ResumeTimeout, while the job runs there (seen on 22.05.8)."""
    world.running(7, "n1")
    world.fleet.heard_steps("i-n1", [7], world.now)
    world.node("n1", "ALLOCATED", "CLOUD", "POWERING_UP")
    found(world, "drain")
    assert by(world.due(), TerminateInstance) == []


def test_one_that_is_noted_before_its_node_is_up_boots_on(world: Any) -> None:
    world.want(7, "n1")
    boots(world, "i-1")
    found(world, "note", instance="i-1")
    assert world.due() == []


@pytest.mark.parametrize(
    ("health", "after_s", "expected"),
    [(Health(), 10.0, 1), (Health(), 700.0, 0), (Health(avoid_pool_s=0.0), 10.0, 0), (Health(act=False), 10.0, 0)],
    ids=["avoided", "forgiven", "never", "not acted on"],
)
def test_the_pool_of_a_sick_machine_comes_after_the_others_for_a_while(world: Any, health: Health, after_s: float, expected: int) -> None:
    world.plan(health=health)
    world.running(7, "n1")
    found(world, "drain")
    world.later(after_s)
    world.want(8, "n2")
    (launch,) = by(world.due(), Launch)
    assert launch.pool == world.pools[expected].name


def test_a_note_or_a_dry_run_says_nothing_of_the_pool(world: Any) -> None:
    world.running(7, "n1")
    found(world, "note")
    found(world, "replace", dry_run=True)
    world.want(8, "n2")
    (launch,) = by(world.due(), Launch)
    assert launch.pool == world.pools[0].name
