"""Where Prometheus finds the agents: who is listed, and for how long; over a restart of the controller, too."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.errors import InputError
from holdfast_controller import events as e
from holdfast_controller.commands import TerminateInstance
from holdfast_controller.journal import dump_fleet, load_fleet
from holdfast_controller.metrics.discovery import TargetsFile, as_json, listed
from holdfast_controller.wire import from_hello
from holdfast_protos.v1 import agent_pb2


def serves(world: Any, node: str, address: str = "10.0.0.9", port: int = 9817) -> None:
    world.apply(e.AgentArrived(world.now, f"i-{node}", "b", "", address, node, port))


def where(world: Any) -> dict[str, str]:
    return {group["labels"]["node"]: group["targets"][0] for group in listed(world.fleet, "c1")}


def test_a_silent_agent_stays_listed_and_a_machine_that_ended_does_not(world: Any) -> None:
    world.running(7, "n1", "n2")
    assert where(world) == {}, "they have not said where"
    serves(world, "n1")
    serves(world, "n2")
    serves(world, "unknown")
    assert where(world) == {"n1": "10.0.0.0:9817", "n2": "10.0.0.1:9817"}, "where the cloud says the machine is"
    world.apply(e.AgentLost(world.now, "i-n1"))
    world.notice("n1")
    assert "n1" in where(world), "that is what an alert is for"
    record = world.fleet.instances["i-n1"]
    world.apply(e.InstanceChanged(world.now, replace(record.instance, state="stopping")))
    assert where(world) == {"n2": "10.0.0.1:9817"}
    world.apply(e.CommandIssued(world.now, 99, TerminateInstance("terminate:i-n2", "why", "i-n2", "p", "n2")))
    assert where(world) == {}


def test_an_agent_that_serves_nothing_any_more_is_not_listed(world: Any) -> None:
    world.running(7, "n1")
    serves(world, "n1")
    serves(world, "n1", port=0)
    assert where(world) == {}


def test_an_address_of_version_6_is_in_brackets_and_the_agents_own_word_counts_where_the_cloud_has_none(world: Any) -> None:
    world.running(7, "n1")
    record = world.fleet.instances["i-n1"]
    world.apply(e.InstanceChanged(world.now, replace(record.instance, address="")))
    serves(world, "n1", "fd00::2")
    assert where(world) == {"n1": "[fd00::2]:9817"}
    serves(world, "n1", "")
    assert where(world) == {}


def test_a_controller_that_starts_again_lists_the_same_before_any_agent_has_come_back(world: Any) -> None:
    world.running(7, "n1")
    serves(world, "n1")
    again = load_fleet(dump_fleet(world.fleet))
    assert again is not None
    assert listed(again, "c1") == listed(world.fleet, "c1") != []


@pytest.mark.parametrize(("said", "kept"), [(9817, 9817), (0, 0), (65535, 65535), (65536, 0), (2**32 - 1, 0)])
def test_a_port_that_is_none_is_taken_for_none(said: int, kept: int) -> None:
    hello = agent_pb2.Hello(instance_id="i-1", boot_id="b", metrics_port=said)
    assert from_hello(hello, "l", 1.0).metrics_port == kept
    with pytest.raises(InputError):
        from_hello(agent_pb2.Hello(metrics_port=said), "l", 1.0)


def test_the_file_has_the_same_and_is_written_only_when_that_changed(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    file = TargetsFile(path)
    world.running(7, "n1")
    serves(world, "n1")
    file.write(listed(world.fleet, "c1"))
    pool = world.fleet.instances["i-n1"].instance.pool
    assert json.loads(path.read_text()) == [
        {"targets": ["10.0.0.0:9817"], "labels": {"node": "n1", "cluster": "c1", "pool": pool, "provider": "aws"}}
    ]
    before = path.stat().st_ino
    file.write(listed(world.fleet, "c1"))
    assert path.stat().st_ino == before
    file.write([])
    assert path.read_bytes() == as_json([])
    assert [each.name for each in tmp_path.iterdir()] == ["targets.json"]
