"""A controller that is slow and not dead, while the node acts by itself; a node whose agent is dead, so that the cloud's word must do."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from e2e_bed import Bed
from e2e_gang import end, endless, gang

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
SETTINGS = {"nodes": 10}


@pytest.mark.parametrize("back", ["when the node has done it", pytest.param("while the node does it", marks=pytest.mark.long)])
def test_a_controller_that_sleeps_within_an_evacuation(back: str, bed: Bed, until: Callable[..., Any]) -> None:
    bed.allow_hook_lines(r"not taken by the controller|does not answer")
    job = bed.train(*endless(bed), "--ballast-kib", "1024", env={"HOLDFAST_SAVE_BANDWIDTH_MIB_S": "0.25"})
    job.await_event("first_step_done")
    [node] = job.nodes()
    bed.reclaim(node, notice_s=40)
    saving = job.await_event("save_began")
    bed.sandbox.supervisor.kill("controller", signal.SIGSTOP)
    parked = job.await_event("parked")
    assert parked["t"] - saving["t"] > 3, "the save was to last longer than the agent's patience"
    if back.startswith("when"):
        until(lambda: bed.slurm.job(job.job_id)["Restarts"] == "1", 20, "the requeue by the node's agent")
    bed.sandbox.supervisor.kill("controller", signal.SIGCONT)
    assert job.await_event("resumed", attempt=1)["step"] == parked["step"] == saving["step"]
    assert job.starts()[1][1] != node
    end(bed, job)
    assert "interrupted 1 time(s)" in bed.slurm.job(job.job_id)["AdminComment"]


def test_nodes_whose_agents_are_dead(bed: Bed, until: Callable[..., Any]) -> None:
    """Nobody can tell the first job: it loses the steps since its last checkpoint. The second one hears of it on its other node."""
    bed.allow_hook_lines(r"not done in time")  # a busy machine
    alone, pair = bed.train("--steps", "400", "--every-steps", "20"), gang(bed, *endless(bed))
    alone.await_event("save_ended", step=20)
    pair.await_event("first_step_done")
    doomed = [alone.nodes()[0], pair.nodes()[1]]
    instances = {node: bed.sandbox.instances.instance_of(node) for node in doomed}
    for node in doomed:
        bed.sandbox.instances.kill_agent(node, restart=False)
    lost = set(instances.values())
    until(lambda: lost <= {entry.body["instance_id"] for entry in bed.journal("AgentLost")}, 10, "the agents' silence to be seen")
    deadline = min(bed.reclaim(node, notice_s=12)["deadline"] for node in doomed)

    parked = pair.await_event("parked")
    assert pair.await_event("resumed", attempt=1)["step"] == parked["step"]
    resumed = alone.await_event("resumed", attempt=1)
    assert resumed["step"] == alone.events("save_ended", attempt=0)[-1]["step"] >= 20
    heard = {entry.body["node"]: entry.body["source"] for entry in bed.journal("NoticeReceived") if entry.body["node"] in doomed}
    assert heard == dict.fromkeys(doomed, "cloud")
    for job in (alone, pair):
        [requeued] = bed.journal("JobRequeued", job.job_id)
        assert requeued.at < deadline, "requeued while the node still answered"
    bed.sandbox.run(["scancel", str(alone.job_id)])
    end(bed, pair)
    assert not set(doomed) & set(pair.nodes())
