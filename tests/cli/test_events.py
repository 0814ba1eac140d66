"""`holdfast events` and `holdfast explain` as a user sees them."""

import asyncio
import json
import time

import pytest
from holdfast_controller import commands as c
from holdfast_controller import events as e

pytestmark = pytest.mark.timeout(120)  # each test starts several processes, on what may be a busy machine

EVENT_KEYS = {"seq", "at", "kind", "command", "text", "outcome", "body"}


async def line(child: asyncio.subprocess.Process) -> dict:  # type: ignore[type-arg]
    assert child.stdout is not None
    found = await child.stdout.readline()
    assert found, (await child.stderr.read()).decode() if child.stderr else ""
    return json.loads(found)  # type: ignore[no-any-return]


async def test_events_for_people_have_time_age_what_and_why(stage) -> None:
    stage.now = time.time() - 125
    await stage.notice("spot-1", time.time())
    requeue = c.RequeueJob("requeue:12:0", "spot-1 is gone", "12", 12)
    await stage.record(
        e.CommandIssued(stage.now, 1, requeue), e.CommandFinished(stage.now, 1, requeue.key, "failed", "no answer", about=requeue.refs())
    )
    done = await stage.cli("events")
    assert done.code == 0
    first, second, third = done.out.splitlines()
    assert "(2m " in first
    assert "notice received     spot-1 goes away in" in first
    assert "(preempt: spot interruption)" in first
    assert second.endswith("requeue job         spot-1 is gone")
    assert third.endswith("command finished    requeue:12:0: failed: no answer")


async def test_events_as_json_one_object_per_line(stage) -> None:
    for state in ("IDLE", "ALLOCATED", "DOWN"):
        await stage.node("spot-1", state)
    done = await stage.cli("events", "--json", "--last", "2")
    documents = [json.loads(text) for text in done.out.splitlines()]
    assert [set(document) for document in documents] == [EVENT_KEYS] * 2
    assert [document["seq"] for document in documents] == [2, 3]
    assert documents[1]["body"]["view"]["state"] == "DOWN"
    assert (documents[1]["kind"], documents[1]["command"], documents[1]["outcome"]) == ("NodeChanged", False, None)


async def test_events_of_one_node_or_one_job(stage) -> None:
    await stage.node("spot-1", "IDLE")
    await stage.job(12, "RUNNING", "spot-2")
    assert "spot-1 is IDLE" in (await stage.cli("events", "--node", "spot-1")).out
    assert "job 12 is RUNNING" in (await stage.cli("events", "--job", "12")).out
    none = await stage.cli("events", "--job", "13")
    assert (none.code, none.out, none.err) == (0, "", "The journal has no such event.\n")
    for wrong in (("--job", "x"), ("--job", "0"), ("--job", str(2**32)), ("--job", "1", "--node", "a"), ("--last", "-1")):
        assert (await stage.cli("events", *wrong)).code == 2


async def test_followers_outlast_a_restart_and_miss_and_repeat_nothing(stage) -> None:
    await stage.node("spot-1", "IDLE")
    child = await stage.spawn("events", "--follow", "--json")
    assert (await line(child))["seq"] == 1
    await stage.node("spot-1", "ALLOCATED")
    assert (await line(child))["seq"] == 2
    await stage.stop()
    assert b"waiting for it" in await child.stderr.readline()
    await stage.start()
    await stage.node("spot-1", "MIXED")
    await stage.node("spot-1", "DOWN")
    assert [(await line(child))["seq"], (await line(child))["seq"]] == [3, 4]
    assert b"the controller is back" in await child.stderr.readline()
    assert await stage.interrupted(child) == 0


async def test_followers_go_on_when_the_journal_was_lost(stage) -> None:
    for state in ("IDLE", "ALLOCATED", "MIXED"):
        await stage.node("spot-1", state)
    child = await stage.spawn("events", "--follow", "--json", "--last", "1")
    assert (await line(child))["seq"] == 3
    await stage.stop()
    for found in stage.directory.glob("journal*"):
        found.unlink()
    await stage.start()
    await stage.node("spot-1", "DOWN")
    assert (await line(child))["body"]["view"]["state"] == "DOWN"
    said = await child.stderr.readline() + await child.stderr.readline() + await child.stderr.readline()
    assert b"begun anew" in said
    assert await stage.interrupted(child) == 0


async def test_a_follower_may_begin_with_what_is_new(stage) -> None:
    await stage.node("spot-1", "IDLE")
    child = await stage.spawn("events", "--follow", "--json", "--last", "0")
    first = asyncio.ensure_future(line(child))
    while not first.done():
        await stage.node("spot-1", "MIXED")
        await asyncio.sleep(0.05)
    assert (await first)["seq"] > 1


async def test_following_a_controller_that_was_never_there_fails_at_once(stage) -> None:
    done = await stage.cli("events", "--follow", "--socket", str(stage.directory / "none"))
    assert done.code == 3


async def test_a_reader_that_goes_away_ends_the_stream_quietly(stage) -> None:
    await stage.journal.write([e.NodesReleased(stage.now, ("x" * 200,)) for _ in range(3000)])
    child = await stage.spawn("events", "--last", "3000")
    assert child.stdout is not None
    await child.stdout.readline()
    child.stdout._transport.close()  # type: ignore[attr-defined]
    assert await child.stderr.read() == b""
    assert await child.wait() == 1


async def test_a_job_is_explained_in_a_sentence_and_then_its_history(stage) -> None:
    await stage.job(12, "RUNNING", "spot-1")
    await stage.notice("spot-1", time.time() + 60)
    requeue = c.RequeueJob("requeue:12:0", "job 12 saved at step 7 and parked; spot-1 goes away", "12", 12)
    await stage.record(e.CommandIssued(stage.now, 1, requeue), e.CommandFinished(stage.now, 1, requeue.key, about=requeue.refs()))
    done = await stage.cli("explain", "job", "12")
    lines = done.out.splitlines()
    assert lines[0].startswith("job 12 leaves spot-1: told; requeued at the latest in ")
    assert lines[1] == ""
    assert lines[2].split() == ["WHEN", "WHAT", "WHY"]
    assert "(1m " in lines[3]
    assert lines[-1].endswith("requeue job      job 12 saved at step 7 and parked; spot-1 goes away → ok")
    document = (await stage.cli("explain", "job", "12", "--json")).document
    assert set(document) == {"summary", "history"}
    assert [set(event) for event in document["history"]] == [EVENT_KEYS] * 3
    assert document["history"][-1]["outcome"] == "ok"


async def test_a_node_and_an_array_task_are_explained(stage) -> None:
    await stage.up("spot-1", "i-1")
    node = await stage.cli("explain", "node", "spot-1")
    assert node.out.startswith("spot-1 (i-1 in fake/r1/r1a/g1/spot) is up.\n")
    await stage.node("spot-2", "IDLE", "CLOUD", "DRAIN", "INVALID_REG", reason="gres/gpu count reported lower than configured (1 < 2)")
    refused = await stage.cli("explain", "node", "spot-2")
    assert "refused by Slurm, since it registered with less than slurm.conf says: gres/gpu count reported lower" in refused.out
    await stage.job(20, "RUNNING", "spot-1", key="19_3")
    assert (await stage.cli("explain", "job", "19_3")).out.startswith("job 19_3 is RUNNING on spot-1.\n")
    for wrong, code in ((("job", "19_4"), 1), (("job", "99"), 1), (("node", "login"), 1), (("job", "x"), 2), (("pool", "a"), 2)):
        assert (await stage.cli("explain", *wrong)).code == code, wrong
