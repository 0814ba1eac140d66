"""`holdfast reconfigure`: the gates leave first, and none waits meanwhile."""

import asyncio
import time

import pytest
from holdfast_common.errors import SlurmUnavailable
from holdfast_controller.hooks import STARTS_S
from holdfast_protos.v1 import hook_pb2

pytestmark = pytest.mark.timeout(60)  # each test starts several processes, on what may be a busy machine
Outcome = hook_pb2.AwaitNodesReply.Outcome


def gate(stage, job_id: int = 7) -> hook_pb2.AwaitNodesReply:  # type: ignore[no-untyped-def]
    return stage.hooks.AwaitNodes(hook_pb2.AwaitNodesRequest(job_id=job_id, nodes=["spot-1"], wait_s=30))


async def gate_at_once(stage) -> "Outcome.ValueType":  # type: ignore[no-untyped-def]
    request = hook_pb2.AwaitNodesRequest(job_id=8, nodes=["spot-1"], wait_s=0.0)
    return (await stage.hooks.AwaitNodes(request)).outcome


async def test_waiting_gates_are_sent_away_before_slurm_reads_its_configuration(stage) -> None:
    waiting = asyncio.ensure_future(gate(stage))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    stage.slurm.slow_s = 1.0
    order = asyncio.ensure_future(stage.cli("reconfigure", "--json"))
    assert (await waiting).outcome == Outcome.BUSY, "sent away: it takes Slurm's own look"
    assert [name for _, name, _ in stage.slurm.calls if name == "reconfigure"] == [], "first the gates, then Slurm"
    while not any(name == "reconfigure" for _, name, _ in stage.slurm.calls):
        assert (await gate(stage, 8)).outcome == Outcome.BUSY, "none waits while Slurm reconfigures"
        await asyncio.sleep(0.02)
    done = await order
    assert (done.code, done.document) == (0, {"gates_released": 1})
    again = asyncio.ensure_future(gate(stage))
    await asyncio.sleep(0.1)
    assert not again.done(), "afterwards gates wait again"
    again.cancel()


async def test_a_gate_that_is_between_two_questions_or_just_starting_is_waited_for_too(stage) -> None:
    order = asyncio.ensure_future(stage.cli("reconfigure"))
    answer = Outcome.WAIT
    while answer != Outcome.BUSY:
        await asyncio.sleep(0.02)
        answer = await gate_at_once(stage)
    closed_at = time.time()  # within so long a gate that imported gRPC meanwhile asks, is sent away, and leaves
    assert (await order).code == 0
    asked_at = next(at for at, name, _ in stage.slurm.calls if name == "reconfigure")
    assert asked_at - closed_at > STARTS_S


async def test_as_text_and_where_slurm_does_not_answer(stage) -> None:
    done = await stage.cli("reconfigure")
    assert (done.code, done.out) == (0, "Slurm has read its configuration again.\n")
    stage.slurm.fail_next("reconfigure", SlurmUnavailable("Unable to contact slurm controller"))
    failed = await stage.cli("reconfigure")
    assert failed.code == 1
    assert "Unable to contact slurm controller" in failed.err
