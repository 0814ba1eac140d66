"""`holdfast nodes` and `holdfast jobs` as a user sees them."""

import asyncio
import json
import os
import pty
import re
import subprocess
import time

import pytest
from holdfast_controller import events as e
from holdfast_protos.v1 import agent_pb2

pytestmark = pytest.mark.timeout(120)  # each test starts several processes, on what may be a busy machine

NODE_KEYS = {
    "name",
    "slurm_state",
    "phase",
    "instance_id",
    "pool",
    "market",
    "launched",
    "price_usd_h",
    "agent_connected",
    "job_ids",
    "notice_deadline",
    "reason",
}
JOB_KEYS = {
    "job_id",
    "key",
    "state",
    "partition",
    "user",
    "nodes",
    "attempt",
    "step",
    "saved_step",
    "phase",
    "interruptions",
    "reason",
}


async def test_nodes_as_a_plain_table_nothing_cut_off(stage) -> None:
    await stage.up("spot-1", "i-0123456789abcdef0")
    await stage.job(12, "RUNNING", "spot-1")
    await stage.notice("spot-1", time.time() + 600)
    done = await stage.cli("nodes", env={"COLUMNS": "20", "FORCE_COLOR": "1"})
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["NODE", "PHASE", "SLURM", "POOL", "USD/H", "LAUNCHED", "AGENT", "JOBS", "GOES", "AWAY", "WHY"]
    assert len(lines) == 4, "one line each"
    assert "\x1b" not in done.out
    fields = lines[1].split()
    assert fields[:5] == ["spot-1", "doomed", "ALLOCATED+CLOUD", "fake/r1/r1a/g1/spot", "3.50"]
    assert fields[6] == "(1m", "launched with its age"
    assert "in 9m " in lines[1]
    assert "spot-1 (i-0123456789abcdef0 in fake/r1/r1a/g1/spot) goes away in" in lines[1]
    assert lines[3].split()[:2] == ["spot-3", "unknown"]
    assert "just started" in done.err


async def test_nodes_as_json(stage) -> None:
    await stage.up("spot-1", "i-1")
    await stage.job(12, "RUNNING", "spot-1")
    document = (await stage.cli("nodes", "--json")).document
    assert [set(node) for node in document["nodes"]] == [NODE_KEYS] * 3
    first, _, third = document["nodes"]
    assert (first["job_ids"], first["price_usd_h"], first["notice_deadline"], first["agent_connected"]) == ([12], 3.5, None, True)
    assert first["launched"] == pytest.approx(time.time() - 100, abs=10)
    assert [third[key] for key in ("instance_id", "pool", "market", "launched", "price_usd_h")] == [None] * 5


async def test_nodes_are_picked_by_name_and_by_slurms_node_lists(stage) -> None:
    document = (await stage.cli("nodes", "spot-[2-3]", "--json")).document
    assert [node["name"] for node in document["nodes"]] == ["spot-2", "spot-3"]
    unknown = await stage.cli("nodes", "login-1")
    assert (unknown.code, unknown.err) == (1, "holdfast nodes: Holdfast does not manage node login-1\n")
    assert (await stage.cli("nodes", "spot-[")).code == 2


async def test_jobs_as_a_plain_table_and_as_json(stage) -> None:
    await stage.job(112, "PENDING", reason="Resources")
    await stage.job(12, "RUNNING", "spot-1", "spot-2", restarts=1)
    stage.hub.progress[12] = agent_pb2.JobStatus(attempt=1, step=40, saved_step=30)
    await stage.record(e.JobRequeued(stage.now, 12, 0))
    lines = (await stage.cli("jobs")).out.splitlines()
    assert lines[1].split()[:10] == ["12", "ann", "spot", "RUNNING", "running", "spot-1,spot-2", "1", "40", "30", "1"]
    assert lines[2].split()[:10] == ["112", "ann", "spot", "PENDING", "queued", "-", "0", "-", "-", "0"]
    document = (await stage.cli("jobs", "--json")).document
    assert [set(job) for job in document["jobs"]] == [JOB_KEYS] * 2
    assert (document["jobs"][0]["step"], document["jobs"][0]["saved_step"], document["jobs"][1]["step"]) == (40, 30, None)
    assert (await stage.cli("jobs", "13", "--json")).document == {"error": "Holdfast knows no job 13", "exit_code": 1}


async def test_what_others_wrote_gives_a_terminal_no_orders(stage) -> None:
    await stage.job(12, "PENDING", reason="\x1b]0;owned\x07[red]x")
    done = await stage.cli("jobs")
    assert "?]0;owned?[red]x" in done.out
    assert "no job" in (await stage.cli("jobs", "nosuch")).err


async def test_an_empty_list_says_so(stage) -> None:
    done = await stage.cli("jobs")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("No job of a managed partition is known.\n")
    assert (await stage.cli("jobs", "--json")).document == {"jobs": []}


async def on_a_terminal(stage, *arguments: str, columns: int, env: dict[str, str]) -> str:
    """Run the CLI with a terminal on stdout and return what it was sent."""
    ours, theirs = pty.openpty()
    try:
        environment = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40", **env}
        child = await stage.spawn(*arguments, stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
        os.close(theirs)
        theirs = -1
        said = b""

        def drain() -> None:
            nonlocal said
            try:
                while chunk := os.read(ours, 65536):
                    said += chunk
            except OSError:
                return  # the terminal's other end is closed

        await asyncio.to_thread(drain)
        assert await child.wait() == 0
        return said.decode()
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


async def test_a_terminal_gets_colours_and_a_narrow_one_folded_lines(stage) -> None:
    await stage.up("spot-1", "i-1")
    wide = await on_a_terminal(stage, "nodes", "spot-1", columns=250, env={})
    assert "\x1b[32mup" in wide
    assert "fake/r1/r1a/g1/spot" in wide
    narrow = await on_a_terminal(stage, "nodes", "spot-1", columns=60, env={"NO_COLOR": "1"})
    assert "\x1b[32m" not in narrow
    assert all(len(line) <= 60 for line in re.sub(r"\x1b\[[0-9;]*m", "", narrow).splitlines())
    assert "…" not in narrow, "folded, not cut off"


async def test_a_watch_shows_changes_outlasts_a_restart_and_ends_with_ctrl_c(stage, monkeypatch) -> None:
    await stage.node("spot-1", "IDLE", "CLOUD", "POWERED_DOWN")
    child = await stage.spawn("nodes", "spot-1", "--watch", "--json")
    assert child.stdout is not None

    async def phase() -> str:
        assert child.stdout is not None
        return str(json.loads(await child.stdout.readline())["nodes"][0]["phase"])

    assert await phase() == "off"
    await stage.record(e.NodesRequested(stage.now, ("spot-1",), 7))
    assert await phase() == "launching"
    await stage.stop()
    assert b"not reachable" in await child.stderr.readline()
    await stage.start()
    await stage.up("spot-1", "i-1")
    while (seen := await phase()) != "up":
        assert seen == "launching"
    assert await stage.interrupted(child) == 0
