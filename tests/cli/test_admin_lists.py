"""AdminService: nodes, jobs, interruptions, as callers see them."""

import math
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from holdfast_common.notice import NoticeKind
from holdfast_controller import events as e
from holdfast_protos.v1 import admin_pb2 as pb
from holdfast_protos.v1 import agent_pb2

Code = grpc.StatusCode


async def refused(call: Any) -> tuple[Code, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_ping_says_when_the_clouds_have_been_listed(stage) -> None:
    ping = await stage.stub.Ping(pb.PingRequest())
    assert (ping.cluster, ping.reconciled) == ("lab", False)
    stage.reactor.deciding = True
    await stage.record(e.CloudListed(stage.now))
    assert (await stage.stub.Ping(pb.PingRequest())).reconciled


async def test_all_managed_nodes_are_listed_also_those_that_slurm_hides(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.node("spot-2", "IDLE", "CLOUD", "POWERED_DOWN")
    reply = await stage.stub.ListNodes(pb.ListNodesRequest())
    assert [(node.name, node.phase, node.slurm_state) for node in reply.nodes] == [
        ("spot-1", "up", "ALLOCATED+CLOUD"),
        ("spot-2", "off", "IDLE+CLOUD+POWERED_DOWN"),
        ("spot-3", "unknown", "unknown"),
    ]
    first = reply.nodes[0]
    assert (first.instance_id, first.market, first.price_usd_h, first.agent_connected) == ("i-1", "spot", 3.5, True)
    assert "i-1 in fake/r1/r1a/g1/spot" in first.reason


async def test_the_life_of_a_node_in_phases(stage) -> None:
    async def phase() -> str:
        reply = await stage.stub.ListNodes(pb.ListNodesRequest(names=["spot-1"]))
        return reply.nodes[0].phase

    await stage.record(e.NodesRequested(stage.now, ("spot-1",), 7))
    assert await phase() == "launching"
    await stage.up("spot-1", "i-1")
    await stage.job(7, "RUNNING", "spot-1")
    assert await phase() == "up"
    await stage.record(e.AgentLost(stage.now, "i-1"))
    reply = await stage.stub.ListNodes(pb.ListNodesRequest(names=["spot-1"]))
    assert "its agent is silent" in reply.nodes[0].reason
    await stage.notice("spot-1", time.time() + 60)
    reply = await stage.stub.ListNodes(pb.ListNodesRequest(names=["spot-1"]))
    assert reply.nodes[0].phase == "doomed"
    assert reply.nodes[0].notice_deadline == pytest.approx(time.time() + 60, abs=5)
    assert "still on it: job 7" in reply.nodes[0].reason
    await stage.node("spot-1", "IDLE", "CLOUD", "POWERED_DOWN")
    assert await phase() == "off"


async def test_an_unknown_node_is_not_found(stage) -> None:
    assert await refused(stage.stub.ListNodes(pb.ListNodesRequest(names=["spot-1", "login"]))) == (
        Code.NOT_FOUND,
        "Holdfast does not manage node login",
    )
    assert (await refused(stage.stub.Explain(pb.ExplainRequest(node="login"))))[0] is Code.NOT_FOUND
    assert (await refused(stage.stub.Interrupt(pb.InterruptRequest(node="login", notice_s=5))))[0] is Code.NOT_FOUND


async def test_a_job_shows_the_step_reached_and_the_step_saved(stage) -> None:
    await stage.job(12, "RUNNING", "spot-1", restarts=1)
    blank = (await stage.stub.ListJobs(pb.ListJobsRequest())).jobs[0]
    assert (blank.step, blank.saved_step) == (-1, -1)
    stage.hub.progress[12] = agent_pb2.JobStatus(job_id=12, attempt=1, step=40, saved_step=30)
    stage.hub.progress[13] = agent_pb2.JobStatus(job_id=13, attempt=1, step=99, saved_step=98)
    await stage.record(e.JobRequeued(stage.now, 12, 0))
    job = (await stage.stub.ListJobs(pb.ListJobsRequest(ids=["12"]))).jobs[0]
    assert (job.step, job.saved_step, job.interruptions, job.attempt, job.phase) == (40, 30, 1, 1, "running")
    assert job.reason == "job 12 is RUNNING on spot-1, interrupted 1 time(s)."


async def test_a_job_that_leaves_says_so_and_until_when(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.job(12, "RUNNING", "spot-1")
    await stage.notice("spot-1", time.time() + 60)
    told = (await stage.stub.ListJobs(pb.ListJobsRequest())).jobs[0]
    assert told.phase == "told"
    assert told.reason.startswith("job 12 leaves spot-1: told; requeued at the latest in 5")
    await stage.record(e.JobReported(stage.now, "spot-1", 12, 0, "saving", 1, "n-spot-1"))
    assert (await stage.stub.ListJobs(pb.ListJobsRequest())).jobs[0].phase == "saving"
    await stage.record(e.JobReported(stage.now, "spot-1", 12, 0, "parked", 1, "n-spot-1", 44, True))
    parked = (await stage.stub.ListJobs(pb.ListJobsRequest())).jobs[0]
    assert (parked.phase, parked.saved_step) == ("parked", 44)
    await stage.job(12, "PENDING", "spot-1", restarts=1, completing=True)
    gone = (await stage.stub.ListJobs(pb.ListJobsRequest())).jobs[0]
    assert (gone.phase, gone.state) == ("requeueing", "PENDING+COMPLETING")


async def test_an_arrays_id_names_its_tasks_and_an_unknown_id_is_not_passed_over(stage) -> None:
    await stage.job(20, "RUNNING", "spot-1", key="20_1")
    await stage.job(21, "RUNNING", "spot-2", key="20_2")
    await stage.job(22, "PENDING", key="22")

    async def keys(*ids: str) -> list[str]:
        return [job.key for job in (await stage.stub.ListJobs(pb.ListJobsRequest(ids=ids))).jobs]

    assert await keys("20") == ["20_1", "20_2"]
    assert await keys("20_2", "22") == ["20_2", "22"]
    assert await refused(stage.stub.ListJobs(pb.ListJobsRequest(ids=["22", "99"]))) == (Code.NOT_FOUND, "Holdfast knows no job 99")


async def test_only_a_node_that_is_up_can_be_interrupted_and_only_once(stage) -> None:
    await stage.node("spot-1", "IDLE", "CLOUD", "POWERED_DOWN")
    code, said = await refused(stage.stub.Interrupt(pb.InterruptRequest(node="spot-1", notice_s=30)))
    assert code is Code.FAILED_PRECONDITION
    assert said == "only a node that is up can be interrupted: spot-1 is off."
    await stage.up("spot-1", "i-1")
    reply = await stage.stub.Interrupt(pb.InterruptRequest(node="spot-1", notice_s=30, reason="new\x1b[31m image"))
    doom = stage.fleet.nodes["spot-1"].doom
    assert doom is not None
    assert (doom.notice.id, doom.notice.kind, doom.source) == (reply.notice_id, NoticeKind.DRAIN, "admin")
    assert doom.notice.deadline == pytest.approx(time.time() + 30, abs=5)
    assert doom.notice.reason == "new[31m image", "what a terminal obeys is dropped"
    assert (await stage.journal.read())[-1].kind == "NoticeReceived", "it is durable before the answer"
    again, _ = await refused(stage.stub.Interrupt(pb.InterruptRequest(node="spot-1", notice_s=30)))
    assert again is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("notice_s", [-1.0, 86_401.0, math.nan, math.inf])
async def test_a_notice_of_no_possible_length_is_refused(stage, notice_s) -> None:
    await stage.up("spot-1", "i-1")
    code, _ = await refused(stage.stub.Interrupt(pb.InterruptRequest(node="spot-1", notice_s=notice_s)))
    assert code is Code.INVALID_ARGUMENT
    assert stage.fleet.nodes["spot-1"].doom is None


async def test_a_node_or_a_job_is_explained_and_nothing_else(stage) -> None:
    both = pb.ExplainRequest(node="spot-1", job_id=1)
    for request in (pb.ExplainRequest(), both):
        assert (await refused(stage.stub.Explain(request)))[0] is Code.INVALID_ARGUMENT
    assert (await refused(stage.stub.Explain(pb.ExplainRequest(job_id=5)))) == (Code.NOT_FOUND, "Holdfast knows no job 5")
