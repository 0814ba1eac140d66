"""PrologSlurmctld: waits for the job's nodes, for nobody else's, and never says anything but 0."""

import asyncio

import grpc
import pytest
from holdfast_common.errors import InputError
from holdfast_protos.v1 import hook_pb2
from holdfast_slurm.hooks import prolog_slurmctld as gate
from holdfast_slurm.hooks.fake import serve
from holdfast_slurm.hooks.prolog_slurmctld import Answer, GateJob, read_job, surely_foreign, wait

pytestmark = pytest.mark.timeout(40)
Reply = hook_pb2.AwaitNodesReply
JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "spot-[1-2]"}


class Script:
    """Answers in turn (the last for ever) and a clock that only sleeping and asking move."""

    def __init__(self, *answers: Answer, ask_s: float = 0.0) -> None:
        self.answers = list(answers)
        self.ask_s = ask_s
        self.time = 0.0
        self.asked = 0

    def ask(self) -> Answer:
        self.asked += 1
        self.time += self.ask_s
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, duration_s: float) -> None:
        self.time += duration_s

    def run(self, patience_s: float) -> bool:
        return wait(self.ask, patience_s, now=lambda: self.time, sleep=self.sleep)


def test_leaves_at_the_answer():
    script = Script(Answer.WAIT, Answer.WAIT, Answer.LEAVE, ask_s=20)
    assert script.run(5)
    assert script.asked == 3


def test_a_controller_that_never_answered_is_given_little_time():
    script = Script(Answer.SILENCE)
    assert not script.run(5)
    assert 5 <= script.time < 6.5


def test_a_controller_that_answered_is_given_time_to_come_back():
    script = Script(Answer.WAIT, Answer.SILENCE)
    assert not script.run(5)
    assert 60 <= script.time < 62


def test_restart_within_that_time_is_survived():
    script = Script(Answer.WAIT, *[Answer.SILENCE] * 100, Answer.WAIT, *[Answer.SILENCE] * 100, Answer.LEAVE)
    assert script.run(5)


def test_no_gate_outlives_its_limit():
    script = Script(Answer.WAIT, ask_s=20)
    assert not script.run(5)
    assert gate.LIMIT_S <= script.time < gate.LIMIT_S + 30


@pytest.mark.parametrize(
    ("nodes", "managed", "foreign"),
    [
        ("cpu-[1-9],login", "spot-[1-8]", True),
        ("spot-3", "spot-[1-8]", False),
        ("cpu-1,spot-[3-4]", "gpu-[1-2],spot-[1-8]", False),
        ("spot-99", "spot-[1-8]", False),  # not sure: compared name by name afterwards
        ("", "spot-[1-8]", False),
    ],
)
def test_names_that_cannot_be_managed(nodes, managed, foreign):
    assert surely_foreign(nodes, managed) is foreign


def test_names_are_compared_one_by_one():
    assert gate.is_foreign(GateJob(1, ("spot-99",)), "spot-[1-8]")
    assert not gate.is_foreign(GateJob(1, ("spot-99", "spot-8")), "spot-[1-8]")


@pytest.mark.parametrize(
    "change",
    [{"SLURM_JOB_ID": ""}, {"SLURM_JOB_ID": "0"}, {"SLURM_JOB_ID": "99999999999"}, {"SLURM_JOB_NODELIST": ""}, {"SLURM_JOB_ID": "1x"}],
)
def test_environment_without_a_job(change):
    with pytest.raises(InputError):
        read_job(JOB | change)


@pytest.mark.parametrize("outcome", [Reply.READY, Reply.NOT_OURS, Reply.GONE, Reply.BUSY])
async def test_leaves_with_status_0(hooks, controller, outcome):
    controller.outcomes.extend([Reply.WAIT, outcome])
    assert (await hooks.run("prolog-slurmctld", **JOB)).status == 0
    assert [(call.job_id, list(call.nodes)) for call in controller.calls] == [(12, ["spot-1", "spot-2"])] * 2
    assert 0 < controller.calls[0].wait_s <= gate.ASK_S
    assert hooks.log == ""


async def test_waits_while_the_controller_holds_the_answer(hooks, controller):
    controller.answer.clear()
    process = await hooks.start("prolog-slurmctld", **JOB)
    await asyncio.wait_for(controller.asked.wait(), 20)
    assert process.returncode is None
    controller.answer.set()
    assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_managed_nodes_baked_in(hooks, controller):
    hooks.install(nodes="gpu-[1-8]")
    assert (await hooks.run("prolog-slurmctld", **JOB)).status == 0
    assert controller.calls == []
    hooks.install(nodes="spot-[2-9]")
    assert (await hooks.run("prolog-slurmctld", **JOB)).status == 0
    assert len(controller.calls) == 1


async def test_controller_that_restarts(hooks, controller):
    hooks.install(nodes="spot-[1-2]")
    process = await hooks.start("prolog-slurmctld", **JOB)
    await asyncio.sleep(0.05)
    assert process.returncode is None  # not up at all yet, or waiting: both must end well
    controller.outcomes.append(Reply.WAIT)
    await asyncio.wait_for(controller.asked.wait(), 20)
    await controller.server.stop(0)
    hooks.socket.unlink(missing_ok=True)
    controller.outcomes[0] = Reply.READY
    controller.asked.clear()
    controller.server = await serve(controller, str(hooks.socket))
    await asyncio.wait_for(controller.asked.wait(), 20)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert hooks.log == ""


async def test_refused_call_is_no_reason_to_wait(hooks):
    server = grpc.aio.server()  # without the service: UNIMPLEMENTED
    server.add_insecure_port(f"unix:{hooks.socket}")
    await server.start()
    try:
        assert (await hooks.run("prolog-slurmctld", **JOB)).status == 0
    finally:
        await server.stop(0)
    assert "UNIMPLEMENTED" in hooks.log


async def test_empty_environment(hooks):
    assert (await hooks.run("prolog-slurmctld")).status == 0
    assert "SLURM_JOB_ID" in hooks.log
