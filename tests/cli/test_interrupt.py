"""`holdfast interrupt`: the order, and waiting until the jobs run again."""

import asyncio
import json
import time

import pytest
from holdfast_controller import events as e
from holdfast_controller.cli.waiting import ENDED_S, Progress

pytestmark = pytest.mark.timeout(120)  # each test starts several processes, on what may be a busy machine


async def until_doomed(stage, name: str) -> None:  # type: ignore[no-untyped-def]
    while stage.fleet.nodes[name].doom is None:
        await stage.reactor.changed()


async def test_a_node_is_interrupted_with_reason_and_notice(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.job(12, "RUNNING", "spot-1")
    done = await stage.cli("interrupt", "spot-1", "--notice", "90", "--reason", "new image")
    assert (done.code, done.out) == (0, "spot-1 goes away in 1m 30s; job 12 on it must leave.\n")
    doom = stage.fleet.nodes["spot-1"].doom
    assert (doom.notice.reason, doom.source) == ("new image", "admin")
    assert doom.notice.deadline == pytest.approx(time.time() + 90, abs=8)
    again = await stage.cli("interrupt", "spot-1", "--json")
    assert (again.code, again.document["exit_code"]) == (1, 1)
    assert "only a node that is up" in again.document["error"]


async def test_as_json_without_waiting(stage) -> None:
    await stage.up("spot-1", "i-1")
    document = (await stage.cli("interrupt", "spot-1", "--notice", "5", "--json")).document
    assert set(document) == {"node", "notice_id", "deadline", "job_ids"}
    assert document["job_ids"] == []


async def test_nodes_that_cannot_be_interrupted(stage) -> None:
    assert (await stage.cli("interrupt", "login")).code == 1
    assert (await stage.cli("interrupt", "spot-1")).code == 1
    assert (await stage.cli("interrupt", "spot-1", "--notice", "-1")).code == 2
    assert (await stage.cli("interrupt", "spot-1", "--notice", "nan")).code == 2


async def test_waiting_shows_the_way_until_every_job_runs_again_also_over_a_restart(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.job(12, "RUNNING", "spot-1")
    await stage.job(13, "RUNNING", "spot-2")
    child = await stage.spawn("interrupt", "spot-1", "--wait")
    await until_doomed(stage, "spot-1")
    await stage.job(13, "PENDING")
    await stage.job(12, "PENDING", restarts=1)
    assert child.stdout is not None
    while b"job 12 is PENDING" not in (said := await child.stdout.readline()):
        assert said
        assert b"job 13" not in said, "that is another's job"
    await stage.stop()
    assert b"waiting for it" in await child.stderr.readline()
    await stage.start()
    await stage.job(12, "RUNNING", "spot-3", restarts=1)
    out, _ = await child.communicate()
    last = out.decode().splitlines()[-1]
    assert last.startswith("job 12 is RUNNING again on spot-3, ")
    assert child.returncode == 0


async def test_waiting_as_json_is_one_document_and_a_lost_job_a_failure(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.job(12, "RUNNING", "spot-1")
    await stage.job(13, "RUNNING", "spot-1")
    child = await stage.spawn("interrupt", "spot-1", "--wait", "--json")
    await until_doomed(stage, "spot-1")
    await stage.job(12, "RUNNING", "spot-3", restarts=1)
    await stage.job(13, "CANCELLED", "spot-1")
    await stage.record(e.JobForgotten(stage.now, 13))
    out, _ = await child.communicate()
    document = json.loads(out)
    assert set(document) == {"node", "notice_id", "deadline", "job_ids", "jobs", "seconds"}
    assert [(job["job_id"], job["state"], job["nodes"], job["attempt"]) for job in document["jobs"]] == [
        (12, "RUNNING", ["spot-3"], 1),
        (13, "CANCELLED", [], None),
    ]
    assert child.returncode == 1


async def test_ctrl_c_ends_the_waiting_and_not_the_evacuation(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.job(12, "RUNNING", "spot-1")
    child = await stage.spawn("interrupt", "spot-1", "--wait")
    assert child.stdout is not None
    await child.stdout.readline()
    await asyncio.sleep(0.05)
    assert await stage.interrupted(child) == 130
    assert stage.fleet.nodes["spot-1"].doom is not None


def changed(job_id: int, state: str, restarts: int = 0, **more: object) -> dict[str, object]:
    return {"view": {"job_id": job_id, "state": state, "restarts": restarts, "completing": False, "nodes": ["n2"], **more}}


def test_a_job_that_ended_on_the_notice_is_waited_for_and_then_runs_again() -> None:
    progress = Progress("n1", {1: 0})
    progress.see("JobChanged", changed(1, "COMPLETED"), 100.0)
    progress.tick(100.0 + ENDED_S - 0.1)
    progress.see("JobChanged", changed(1, "PENDING", 1), 104.0)
    progress.tick(200.0)
    assert not progress.finished
    progress.see("JobChanged", changed(1, "RUNNING", 1, completing=True), 201.0)
    assert not progress.finished
    progress.see("JobChanged", changed(1, "RUNNING", 1), 202.0)
    assert progress.finished
    assert progress.well
    assert progress.outcomes == {1: {"state": "RUNNING", "nodes": ["n2"], "attempt": 1, "at": 202.0}}


@pytest.mark.parametrize(("state", "well"), [("COMPLETED", True), ("NODE_FAIL", False), ("CANCELLED", False)])
def test_a_job_that_stays_ended_is_over(state, well) -> None:
    progress = Progress("n1", {1: 2})
    progress.see("JobChanged", changed(1, "RUNNING", 2), 1.0)
    progress.see("JobChanged", changed(1, state, 2), 2.0)
    progress.tick(2.0 + ENDED_S)
    assert (progress.finished, progress.well) == (True, well)


def test_without_a_job_there_is_nothing_to_wait_for() -> None:
    assert Progress("n1", {}).finished


def test_what_concerns_the_node_and_its_jobs() -> None:
    progress = Progress("n1", {1: 0})
    for body in (
        {"node": "n1"},
        {"nodes": ["n0", "n1"]},
        {"view": {"name": "n1"}},
        {"command": {"job_id": 1}},
        {"command": {"job_ids": [1]}},
        changed(1, "X"),
    ):
        assert progress.concerns(body)
    for other in ({}, {"node": "n2", "job_id": 2}, {"view": {"name": "n2"}}, changed(2, "X")):
        assert not progress.concerns(other)
