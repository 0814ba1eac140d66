"""ResumeProgram, SuspendProgram and ResumeFailProgram: handed over, and soon back whatever the controller does."""

import asyncio
import json
import os
import socket
import time

import pytest
from holdfast_slurm.hooks import caller
from holdfast_slurm.hooks.caller import Call
from holdfast_slurm.hooks.log import HookLog

pytestmark = pytest.mark.timeout(40)
LIMIT_S = 1.0
TRIES = 5  # one run may be slow because the machine is; a hook that waits is slow each time


async def soon_back(hooks, name, *arguments, **environ):
    best_s = 99.0
    for _ in range(TRIES):
        outcome = await hooks.run(name, *arguments, **environ)
        assert outcome.status == 0
        best_s = min(best_s, outcome.elapsed_s)
        if best_s < LIMIT_S:
            return
    pytest.fail(f"the quickest of {TRIES} runs took {best_s:.2f} s")


@pytest.mark.parametrize("name", ["Suspend", "ResumeFail", "Resume"])
async def test_nodes_reach_the_controller(hooks, controller, name):
    outcome = await hooks.run({"ResumeFail": "resume-fail"}.get(name, name.lower()), "spot-[1-3],gpu-7")
    assert outcome.status == 0
    assert [type(call).__name__ for call in controller.calls] == [f"{name}Request"]
    assert sorted(controller.calls[0].nodes) == ["gpu-7", "spot-1", "spot-2", "spot-3"]
    assert hooks.log == ""


async def test_jobs_of_the_resume_file_go_along(hooks, controller, tmp_path):
    file = tmp_path / "resume.json"
    file.write_text(json.dumps({"jobs": [{"job_id": 7, "nodes": "spot-[1-2]"}], "all_nodes": "spot-[1-2]"}))
    await hooks.run("resume", "spot-[1-2]", SLURM_RESUME_FILE=str(file), SLURM_CONF="/x")
    (request,) = controller.calls
    assert list(request.nodes) == ["spot-1", "spot-2"]
    assert [(job.job_id, list(job.nodes), list(job.nodes_alloc)) for job in request.jobs] == [(7, ["spot-1", "spot-2"], [])]


async def test_malformed_resume_file_falls_back_to_the_arguments(hooks, controller, tmp_path):
    file = tmp_path / "resume.json"
    file.write_text('{"jobs": [{"job_id": "7"')
    outcome = await hooks.run("resume", "spot-1", SLURM_RESUME_FILE=str(file))
    (request,) = controller.calls
    assert outcome.status == 0
    assert list(request.nodes) == ["spot-1"]
    assert not request.jobs
    assert "resume file not used" in hooks.log


async def test_no_nodes_at_all_is_logged(hooks, controller):
    outcome = await hooks.run("resume")
    assert outcome.status == 0
    assert controller.calls == []
    assert "no nodes" in hooks.log


async def test_healthy_controller(hooks, controller):
    await soon_back(hooks, "resume", "spot-1")


async def test_controller_down(hooks):
    await soon_back(hooks, "resume", "spot-1")
    assert "UNAVAILABLE" in hooks.log


async def test_controller_that_takes_the_call_and_never_answers(hooks, controller):
    controller.answer.clear()
    await soon_back(hooks, "resume", "spot-1")
    assert controller.calls, "the request arrived all the same"
    assert "DEADLINE_EXCEEDED" in hooks.log


async def test_socket_that_accepts_and_says_nothing(hooks):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hooks.socket))
        listener.listen()
        await soon_back(hooks, "suspend", "spot-1")
    assert "not taken by the controller" in hooks.log


async def test_resume_file_that_is_a_pipe_without_a_writer(hooks, controller, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    await soon_back(hooks, "resume", "spot-1", SLURM_RESUME_FILE=str(pipe))
    assert list(controller.calls[0].nodes) == ["spot-1"]
    assert "not a regular file" in hooks.log


async def test_log_that_cannot_be_written_is_done_without(hooks):
    os.mkfifo(hooks.root / "hooks.log")
    await soon_back(hooks, "resume", "spot-1")


async def test_slow_controller_is_waited_for(hooks, controller):
    controller.answer.clear()
    process = await hooks.start("resume", "spot-1")
    await asyncio.wait_for(controller.asked.wait(), 8)
    controller.answer.set()
    assert await process.wait() == 0
    assert hooks.log == ""


def test_the_deadline_grows_with_a_slow_start_within_bounds(hooks):
    def left_s(age_s):
        return Call("spot-1", hooks.socket, HookLog("resume"), time.monotonic() - age_s).left_s()

    assert left_s(0.1) == caller.ANSWER_S
    assert left_s(1.0) == pytest.approx(1.0, abs=0.05)
    assert left_s(9.0) == caller.ANSWER_BUSY_S


def test_process_age_is_that_of_the_process():
    assert 0 <= caller.process_age_s() < caller.END_S
