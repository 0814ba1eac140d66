"""Instances end when nobody needs them, and never on a look-up that failed or is older than what it would undo."""

from holdfast_controller import events as e
from holdfast_controller.commands import TerminateInstance
from holdfast_controller.providers.base import Instance


def stray(world, **more):
    return Instance("i-x", more.pop("launch_id", "hf-old-9"), world.pools[0].name, "running", launched=world.now, **more)


def test_a_powered_down_node_has_its_instance_terminated(world) -> None:
    world.running(7, "n1")
    world.job(7, "COMPLETED")
    world.later(1)
    world.node("n1", "IDLE", "CLOUD", "POWERING_DOWN")
    (end,) = world.due()
    assert isinstance(end, TerminateInstance)
    assert end.instance_id == "i-n1"


def test_a_stale_suspend_kills_nothing(world) -> None:
    world.running(7, "n1")
    world.apply(e.NodesReleased(world.now, ("n1",)))
    assert world.due() == []


def test_a_node_that_powers_down_with_a_job_keeps_its_machine_until_the_job_is_out(world) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    world.node("n1", "ALLOCATED", "CLOUD", "POWERING_DOWN")
    world.job(7, "PENDING", restarts=1)
    assert world.due() == []
    world.apply(e.JobLeftNode(world.now, "n1", 7, 0))
    assert [type(command) for command in world.due()] == [TerminateInstance]


def test_an_orphan_has_a_grace_and_needs_a_whole_listing(world) -> None:
    world.fleet.cloud_listed = False
    world.apply(e.InstanceChanged(world.now, stray(world)))
    world.later(1000)
    assert world.due() == []
    world.apply(e.CloudListed(world.now))
    assert [command.instance_id for command in world.due()] == ["i-x"]


def test_within_its_grace_an_orphan_stays(world) -> None:
    world.apply(e.InstanceChanged(world.now, stray(world)))
    world.later(99)
    assert world.due() == []


def test_an_instance_whose_node_is_up_is_adopted_not_terminated(world) -> None:
    world.node("n2", "IDLE", "CLOUD", address="10.9.9.9")
    world.apply(e.InstanceChanged(world.now, stray(world, address="10.9.9.9")))
    world.later(1000)
    assert world.due() == []
    world.arrive("i-x", "hf-old-9", node="n2")
    (bind,) = world.due()
    assert (bind.node, bind.instance_id) == ("n2", "i-x")


def test_a_machine_that_was_switched_off_and_is_still_there_is_terminated(world) -> None:
    """On Google and Azure a guest's own shutdown only stops it: it is paid for, and its name is not free."""
    world.running(7, "n1")
    stopped = Instance("i-n1", world.fleet.instances["i-n1"].instance.launch_id, world.pools[0].name, "stopping", "10.0.0.9")
    world.apply(e.InstanceChanged(world.now, stopped))
    world.job(7, "COMPLETED")
    assert [command for command in world.due() if isinstance(command, TerminateInstance)] == [], "it may be on its way out"
    world.later(301)
    assert [command.instance_id for command in world.due() if isinstance(command, TerminateInstance)] == ["i-n1"]
