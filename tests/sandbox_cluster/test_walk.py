"""The whole walk as a user calls it: one short one over three clouds, and what is said of calls that make no sense."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from holdfast_sandbox.history.reading import leftovers


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from holdfast_sandbox.cli import app; app(prog_name='sandbox')", "run", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=110, check=False)


def kinds(told: dict[str, Any]) -> list[str]:
    """What happened, in order, without how far the job was in between."""
    return [event["what"] for event in told["events"] if event["what"] != "progress"]


@pytest.mark.slurm
@pytest.mark.timeout(120)
def test_refused_in_one_cloud_reclaimed_in_the_next_done_in_the_third() -> None:
    before = set(Path("/tmp").glob("holdfast-walk-*"))
    done = call("--cloud", "all", "--trace", "v100", "--steps", "180", "--json")
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    told = json.loads(done.stdout)
    assert told["passed"] is True
    assert [zone["provider"] for zone in told["market"]["zones"]] == ["aws", "gcp", "azure"]
    assert {event["zone"] for event in told["events"] if event["what"] == "refused"} >= {"aws us-west-2b"}
    first, second, *_ = told["attempts"]
    last = told["attempts"][-1]
    assert (first["zones"], first["ended_by"]) == (["gcp us-central1-a"], "notice")
    assert last["ended_by"] == "finished"
    assert second["zones"] != first["zones"]
    assert first["reached"] == second["resumed"] > 0
    assert (last["reached"], told["lost_steps"], told["job"]["step"]) == (180, 0, 180)
    assert 0 < told["spot_usd"] < told["on_demand_usd"]
    seen = kinds(told)
    story = ["submitted", "requested", "refused", "bought", "running", "notice", "saved", "requeued"]
    at = [seen.index(what) for what in story]
    assert at == sorted(at)
    assert seen.count("running") == len(told["attempts"])
    assert seen[-1] == "ended"
    left = set(Path("/tmp").glob("holdfast-walk-*")) - before
    assert [each for path in left for each in leftovers(path / "sb")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the walk's options"),
        (("--zones", "3", "--", "squeue"), "exclude each other"),
        (("--json", "squeue"), "exclude each other"),
        (("--dir", "/tmp/x", "--zones", "3"), "a sandbox of its own"),
        (("--zones", "3", "--trace", "/nowhere.json"), "No such file"),
        (("--zones", "10", "--trace", "v100"), "9 zones"),
        (("--cloud", "all", "--zones", "2"), "zones must be 3"),
        (("--nodes", "2", "--job-nodes", "2"), "job_nodes must be 1 to half"),
        (("--cloud", "cumulus"), "cumulus"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_wrong_usage_is_said_with_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout


def test_a_commands_own_options_are_left_to_it(tmp_path: Path) -> None:
    done = call("--dir", str(tmp_path), "squeue", "--zones", "3")
    assert done.returncode == 1
    assert "there is no sandbox" in done.stderr
