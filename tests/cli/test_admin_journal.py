"""AdminService: the stream of events, explanations and the policy."""

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from holdfast_controller import commands as c
from holdfast_controller import events as e
from holdfast_controller.providers.base import Fault, FaultKind
from holdfast_protos.v1 import admin_pb2 as pb

Code = grpc.StatusCode
OTHER = 'nodes = "spot-[1-5]"'


async def texts(call: Any) -> list[str]:
    return [event.text async for event in call]


async def test_the_newest_events_come_oldest_first(stage) -> None:
    for state in ("IDLE", "ALLOCATED", "MIXED", "DOWN"):
        await stage.node("spot-1", state)
    assert await texts(stage.stub.Events(pb.EventsRequest(limit=2))) == ["spot-1 is MIXED", "spot-1 is DOWN"]
    found = [event async for event in stage.stub.Events(pb.EventsRequest())]
    assert [event.seq for event in found] == [1, 2, 3, 4]
    assert not any(event.command for event in found)


async def test_events_are_found_by_node_and_by_job(stage) -> None:
    await stage.node("spot-1", "IDLE")
    await stage.node("spot-2", "IDLE")
    await stage.job(12, "RUNNING", "spot-2")
    await stage.job(120, "PENDING")
    assert await texts(stage.stub.Events(pb.EventsRequest(node="spot-2"))) == ["spot-2 is IDLE", "job 12 is RUNNING on spot-2, restart 0"]
    assert await texts(stage.stub.Events(pb.EventsRequest(job_id=12))) == ["job 12 is RUNNING on spot-2, restart 0"]


async def test_everything_after_a_number_comes_however_much_it_is(stage) -> None:
    await stage.journal.write([e.NodesReleased(stage.now, (f"x{number}",)) for number in range(2500)])
    found = [event.seq async for event in stage.stub.Events(pb.EventsRequest(after_seq=100))]
    assert found == list(range(101, 2501))


async def test_a_journal_that_was_begun_anew_is_told(stage) -> None:
    await stage.node("spot-1", "IDLE")
    with pytest.raises(grpc.aio.AioRpcError, match="begun anew") as caught:
        await texts(stage.stub.Events(pb.EventsRequest(after_seq=2, follow=True)))
    assert caught.value.code() is Code.OUT_OF_RANGE


async def test_a_follower_gets_what_was_and_what_comes_each_once(stage) -> None:
    await stage.node("spot-1", "IDLE")
    call = stage.stub.Events(pb.EventsRequest(follow=True))
    assert (await call.read()).seq == 1
    await stage.node("spot-1", "ALLOCATED")
    await stage.node("spot-1", "MIXED")
    assert [(await call.read()).seq, (await call.read()).seq] == [2, 3]
    call.cancel()


async def test_a_follower_searches_no_part_of_the_journal_twice(stage, monkeypatch) -> None:
    asked: list[int] = []
    read = stage.journal.read

    async def counted(after_seq: int = 0, *rest: Any, **more: Any) -> Any:
        asked.append(after_seq)
        return await read(after_seq, *rest, **more)

    await stage.node("spot-1", "IDLE")
    monkeypatch.setattr(stage.journal, "read", counted)
    call = stage.stub.Events(pb.EventsRequest(follow=True, node="spot-1"))
    assert (await call.read()).seq == 1
    for _ in range(5):
        await stage.node("spot-2", "IDLE")
        await asyncio.sleep(0.01)
    await stage.node("spot-1", "MIXED")
    assert (await call.read()).seq == 7
    call.cancel()
    assert asked[-1] >= 5, "the other node's events were passed over once"
    await stage.record(e.Ticked(stage.now))
    before = len(asked)
    for _ in range(5):
        await stage.record(e.Ticked(stage.now))
    assert len(asked) <= before + 1, "time that passes is no reason to read"


def issued(at: float, number: int, command: c.Command) -> e.CommandIssued:
    return e.CommandIssued(at, number, command)


async def test_an_explanation_has_the_notice_and_what_came_of_each_command(stage) -> None:
    await stage.notice("spot-1", time.time() - 50)
    await stage.job(12, "RUNNING", "spot-1")
    await stage.notice("spot-1", time.time() + 60)
    await stage.notice("spot-2", time.time() + 60)
    requeue = c.RequeueJob("requeue:12:0", "job 12 saved at step 7 and parked; spot-1 goes away", "12", 12)
    start = c.StartJob("start:12:1", "job 12 is out of its nodes", "12", 12)
    about = requeue.refs()
    await stage.record(
        issued(stage.now, 1, requeue),
        e.CommandFinished(stage.now, 1, requeue.key, "failed", "slurmctld was silent", about=about),
        issued(stage.now, 2, requeue),
        e.CommandFinished(stage.now, 2, requeue.key, about=about),
        issued(stage.now, 3, start),
    )
    reply = await stage.stub.Explain(pb.ExplainRequest(job_id=12))
    assert reply.summary.startswith("job 12 leaves spot-1")
    assert [(event.kind, event.command, event.outcome) for event in reply.history] == [
        ("JobChanged", False, ""),
        ("NoticeReceived", False, ""),
        ("RequeueJob", True, "failed: slurmctld was silent"),
        ("RequeueJob", True, "ok"),
        ("StartJob", True, ""),
    ]
    assert reply.history[2].text == "RequeueJob: job 12 saved at step 7 and parked; spot-1 goes away"


async def test_what_the_cloud_refused_is_part_of_the_explanation(stage) -> None:
    launch = c.Launch("launch:l", "job 12 needs 1 node(s)", "l", "p", ("spot-1",), 12)
    refusal = Fault(FaultKind.CAPACITY, "InsufficientInstanceCapacity", "none left")
    await stage.record(issued(stage.now, 1, launch), e.LaunchEnded(stage.now, "l", "p", (), (refusal,), about=launch.refs()))
    for request in (pb.ExplainRequest(job_id=12), pb.ExplainRequest(node="spot-1")):
        history = (await stage.stub.Explain(request)).history
        assert history[-1].text == "0 instances started in p; capacity: InsufficientInstanceCapacity"


async def test_a_job_that_slurm_forgot_still_has_its_history(stage) -> None:
    await stage.job(12, "COMPLETED")
    await stage.record(e.JobForgotten(stage.now, 12))
    reply = await stage.stub.Explain(pb.ExplainRequest(job_id=12))
    assert reply.summary == "job 12 is over, and Slurm has forgotten it."
    assert [event.kind for event in reply.history] == ["JobChanged", "JobForgotten"]


async def test_a_policy_is_checked_without_being_set(stage) -> None:
    before = await stage.stub.GetPolicy(pb.GetPolicyRequest())
    text = before.toml.replace('nodes = "spot-[1-3]"', OTHER)
    reply = await stage.stub.SetPolicy(pb.SetPolicyRequest(toml=text, check_only=True))
    assert (list(reply.faults), reply.revision != before.revision) == ([], True)
    assert await stage.stub.GetPolicy(pb.GetPolicyRequest()) == before
    assert "spot-5" not in stage.fleet.nodes


async def test_every_fault_of_a_policy_comes_back_and_nothing_changes(stage) -> None:
    before = await stage.stub.GetPolicy(pb.GetPolicyRequest())
    text = before.toml.replace("version = 1", "version = 2").replace('market = "spot"', 'market = "spott"')
    reply = await stage.stub.SetPolicy(pb.SetPolicyRequest(toml=text))
    assert len(reply.faults) == 2
    assert reply.revision == before.revision
    assert stage.policy.read_text() == before.toml
    assert (await stage.stub.SetPolicy(pb.SetPolicyRequest(toml="#" * 1_000_001))).faults == ["longer than 1000000 bytes"]


async def test_a_policy_that_is_set_is_in_force_on_disk_and_in_the_journal(stage) -> None:
    before = await stage.stub.GetPolicy(pb.GetPolicyRequest())
    text = before.toml.replace('nodes = "spot-[1-3]"', OTHER)
    reply = await stage.stub.SetPolicy(pb.SetPolicyRequest(toml=text, expected_revision=before.revision))
    assert reply.revision == (await stage.stub.GetPolicy(pb.GetPolicyRequest())).revision != before.revision
    assert stage.policy.read_text() == text
    assert "spot-5" in stage.fleet.nodes
    assert (await stage.journal.read())[-1].text == f"policy {reply.revision} is in force"


async def test_a_policy_that_changed_meanwhile_is_not_overwritten(stage) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="changed meanwhile") as caught:
        await stage.stub.SetPolicy(pb.SetPolicyRequest(toml=stage.policies.text, expected_revision="0123456789ab"))
    assert caught.value.code() is Code.ABORTED
    assert await stage.journal.read() == []


async def test_a_policy_file_that_cannot_be_written_is_said_and_nothing_changes(stage) -> None:
    (stage.directory / ".policy.toml.tmp").mkdir()
    text = stage.policies.text.replace('nodes = "spot-[1-3]"', OTHER)
    with pytest.raises(grpc.aio.AioRpcError, match="cannot be written") as caught:
        await stage.stub.SetPolicy(pb.SetPolicyRequest(toml=text))
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert "spot-5" not in stage.fleet.nodes
