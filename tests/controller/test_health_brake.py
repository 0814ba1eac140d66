"""What is found on too many whole nodes within an hour is held back: it is more likely the rule, the policy or a clock."""

from typing import Any

import pytest
from holdfast_common.health.model import Action, Finding
from holdfast_controller import events as e
from holdfast_controller.commands import BindInstance, CondemnNode, DrainNode
from holdfast_controller.describe import node_sentence
from holdfast_controller.journal import dump_fleet, load_fleet
from holdfast_controller.plan import Health
from holdfast_controller.providers.base import Instance
from holdfast_controller.state import STRUCK_S

NODES = ("n1", "n2", "n3", "n4")


def found(world: Any, node: str, action: Action = Action.EVACUATE, gpu: str = "", rule: str = "read-only") -> None:
    finding = Finding(rule, action, world.now, gpu, "a file system is read-only", "our own")
    world.apply(e.HealthReported(world.now, node, f"i-{node}", (finding,)))


def given_up(world: Any) -> set[str]:
    return {command.node for command in world.due() if isinstance(command, CondemnNode | DrainNode) and command.rule}


@pytest.fixture
def four(world: Any) -> Any:
    world.running(7, *NODES)
    return world


@pytest.mark.parametrize("action", [Action.DRAIN, Action.EVACUATE])
def test_the_fourth_of_four_is_held_back_for_an_hour(four: Any, action: Action) -> None:
    for node in NODES[:3]:
        found(four, node, action)
    assert given_up(four) == {"n1", "n2", "n3"}
    found(four, "n4", action)
    assert given_up(four) == set()
    assert "held back" in node_sentence(four.fleet, four.plans, four.fleet.nodes["n4"], four.now)
    for node in NODES[:3]:
        four.apply(e.HealthReported(four.now, node, f"i-{node}", ()))
    four.later(STRUCK_S + 1)
    assert "n4" in given_up(four)


def test_all_at_once_are_no_way_around_it(four: Any) -> None:
    for node in NODES:
        found(four, node)
    assert given_up(four) == {"n1", "n2", "n3"}
    assert given_up(four) == set()


def test_one_machine_after_another_under_the_same_name_is_no_way_around_it(world: Any) -> None:
    world.running(7, "n1")
    acted = []
    for number in range(4):
        machine = Instance(f"i-{number}", "l-1", world.pools[0].name, "running")
        bound = BindInstance(f"bind:{number}", "why", "n1", machine.instance_id)
        world.apply(e.InstanceChanged(world.now, machine), e.CommandIssued(world.now, 1000 + number, bound))
        finding = Finding("read-only", Action.EVACUATE, world.now, "", "a file system is read-only", "our own")
        world.apply(e.HealthReported(world.now, "n1", machine.instance_id, (finding,)))
        acted.append(given_up(world))
        world.later(240)
    assert acted == [{"n1"}, {"n1"}, {"n1"}, set()], "each costs its boot, and the next has the same"


def test_what_is_found_on_a_gpu_is_never_held_back(four: Any) -> None:
    for node in NODES[:3]:
        found(four, node, gpu="GPU-1", rule="xid-79")
    given_up(four)
    found(four, "n4", gpu="GPU-1", rule="xid-79")
    assert given_up(four) == {"n4"}


def test_another_rule_is_another_matter(four: Any) -> None:
    for node in NODES[:3]:
        found(four, node)
    given_up(four)
    found(four, "n4", rule="disk-full")
    assert given_up(four) == {"n4"}


def test_an_admin_may_do_without(four: Any) -> None:
    four.plan(health=Health(brake_share=1.0))
    for node in NODES[:3]:
        found(four, node)
    given_up(four)
    found(four, "n4")
    assert given_up(four) == {"n4"}


def test_a_larger_share_is_a_larger_number_and_the_journal_remembers(four: Any) -> None:
    for node in NODES[:3]:
        found(four, node)
    given_up(four)
    found(four, "n4")
    loaded = load_fleet(dump_fleet(four.fleet))
    assert loaded is not None
    four.fleet = loaded
    assert given_up(four) == set()
    four.plan(health=Health(brake_share=0.8))
    assert given_up(four) == {"n4"}, "three of four are fewer than 80 %"
