"""The controller dies in the middle of a launch, at each step of it, and is started again: the job gets the one node that it waits for."""

import pytest
from e2e_bed import Bed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(90)]
SETTINGS = {"nodes": 10}

POINTS = (
    "commit.Launch.before",  # with the request in hand that a hook delivers: nothing is durable yet
    "commit.Launch.after",  # decided on and durable, and not done
    "effect.Launch.after",  # the cloud has launched, and nobody has noted it
    "commit.LaunchEnded.after",
    "effect.BindInstance.before",
    "effect.BindInstance.after",  # the agent has its name
)


@pytest.mark.parametrize("point", POINTS)
def test_controller_dies_at(point: str, bed: Bed) -> None:
    node = f"spot-{1 + POINTS.index(point)}"  # one that is switched off still
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    bought = len(bed.record("requested"))
    # Agents that come back are bound again: the fault is to meet the new one.
    bed.restart_controller(fault=f"{point}:{1 + len(bed.agents())}" if "BindInstance" in point else point)
    job = bed.train("--steps", "3", options=("-w", node))
    bed.await_controller_death()
    bed.restart_controller()
    assert job.finished()["Restarts"] == "0"
    assert job.starts() == [(0, node)]
    assert len(bed.record("requested")) == bought + 1


def test_killed_while_a_node_boots(bed: Bed) -> None:
    node = f"spot-{1 + len(POINTS)}"
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    bed.cloud.fail_boot(seconds=2.0, count=1)
    job = bed.train("--steps", "3", options=("-w", node))
    bought = bed.until_bought(node)
    bed.sandbox.supervisor.kill("controller")
    bed.restart_controller()
    assert job.finished()["Restarts"] == "0"
    assert bed.sandbox.instances.instance_of(node) == bought
