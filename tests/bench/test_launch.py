"""bench/launch: its arithmetic and tables, what it reads from which record, and the whole of it, small; and what a start may import."""

import io
import json
import pkgutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from holdfast_controller import cli
from rich.console import Console

from bench import launch_holdfast, launch_peer, launch_tables, launches
from bench.failover import gaps
from bench.launch_holdfast import marks
from bench.launch_peer import log_lines, phases_of
from bench.launch_types import SETTINGS, Launch
from bench.passes import Pass
from bench.tables_service import table_service

COMMAND = Path(__file__).parents[2] / "bench" / "launch"
T = 1000.0

CLOUDS = ("boto3", "botocore", "google.cloud", "google.auth", "azure", "msal", "grpc")
HEAVY = (*CLOUDS, "torch", "aiohttp", "pydantic")
COMMAND_GROUPS = ", ".join(f"holdfast_controller.cli.{module.name}" for module in pkgutil.iter_modules(cli.__path__))


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("holdfast.cli", (*HEAVY, "typer")),
        ("holdfast_controller.__main__", (*HEAVY, "typer")),
        ("holdfast_nodeagent.__main__", (*HEAVY, "typer")),
        (COMMAND_GROUPS, HEAVY),
        ("holdfast_controller.app", tuple(name for name in CLOUDS if name != "grpc")),
        ("holdfast_controller.config", tuple(name for name in CLOUDS if name != "grpc")),
    ],
)
def test_a_start_loads_no_library_that_it_does_not_use(modules: str, unwanted: tuple[str, ...]) -> None:
    code = f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = json.loads(done.stdout)
    assert set(modules.split(", ")) <= set(loaded)
    assert [name for name in unwanted if name in loaded] == []


def test_figures_and_tables() -> None:
    launched = [
        Launch(side, "fast", 1000, ids * share, 2 * ids * share, {"hook": 0.1, "launch calls": ids - 0.1}, throttled)
        for side, share in zip(launch_holdfast.SIDES, (1.0, 0.5), strict=True)
        for ids, throttled in ((1.0, 0), (9.0, 0), (2.0, 3))
    ]
    taken = zip(launch_peer.SIDES, ((11.0, 12.0), (3.0, 4.0)), strict=True)
    peers = [Launch(side, "fast", 1000, ids, addresses, {"start": ids}) for side, (ids, addresses) in taken]
    looks = [Pass(0.1, 0.01, 0.2, 0.05), Pass(0.3, 0.01, 0.3, 0.05), Pass(0.1, 0.01, 0.1, 0.05)]
    found = launches.figures([*launched, *peers], [0.01, 0.3, 0.02], looks, {"holdfast --help": [0.1, 0.5, 0.2]})
    assert found["values"] == {
        "ids_s": 2.0,
        "addresses_s": 4.0,
        "failover_worst_s": 0.3,
        "reconcile_cpu_s": pytest.approx(0.31),
        "start_s": 0.2,
    }
    assert [name for name, met in found["targets_met"].items() if not met] == ["failover_worst_s"]
    x, y = (found["by_setting"]["fast"][peer.side] for peer in peers)
    assert (x["ratio_ids"], x["ratio_addresses"], y["ratio_ids"]) == (5.5, 3.0, 3.0), "like with like"
    assert found["by_setting"]["fast"][next(iter(launch_holdfast.SIDES))]["throttled"] == 3
    assert json.loads(json.dumps(found)) == found
    text = io.StringIO()
    launch_tables.show({**found, "setup": {"machine": "2 cores"}}, Console(file=text, width=200))
    for wanted in ("5.5", "failover_worst_s <= 0.2: 0.300, MISSED", "machine: 2 cores", "holdfast --help"):
        assert wanted in text.getvalue()
    lines = [line for line in text.getvalue().splitlines() if line.startswith("wanted: 5 times")]
    assert [line.rpartition(": ")[2].split(",")[0] for line in lines] == ["met", "MISSED"]


def test_the_time_from_a_refusal_to_the_next_call() -> None:
    record = [
        {"event": "launch_request", "t": T},
        {"event": "refused", "t": T + 0.001},
        {"event": "market", "t": T + 0.002},
        {"event": "launch_request", "t": T + 0.101},
        {"event": "refused", "t": T + 0.102},
        {"event": "launch_request", "t": T + 0.152},
        {"event": "requested", "t": T + 0.153},
        {"event": "launch_request", "t": T + 9.0},
    ]
    assert gaps(record) == pytest.approx([0.1, 0.05]), "what comes after a launch that was granted is no fail-over"


def test_our_phases_come_from_the_journal_and_the_cloud() -> None:
    rows = [
        {"kind": "NodesRequested", "at": T - 90, "seen": T - 90},
        {"kind": "NodesRequested", "at": T + 0.1, "seen": T + 0.2},
        {"kind": "Launch", "at": T + 0.2, "seen": T + 0.3},
        {"kind": "LaunchEnded", "at": T + 1.0, "seen": T + 1.1, "instances": []},
        {"kind": "AgentArrived", "at": T + 2.0, "seen": T + 2.0},
        {"kind": "BindInstance", "at": T + 2.0, "seen": T, "command_id": 5, "command": {"node": "n1"}},
        {"kind": "BindInstance", "at": T + 2.0, "seen": T, "command_id": 6, "command": {"node": "n1"}},
        {"kind": "CommandFinished", "at": T + 9.0, "seen": T, "command_id": 7, "outcome": "ok"},
        {"kind": "CommandFinished", "at": T + 2.5, "seen": T, "command_id": 5, "outcome": "failed"},
        {"kind": "CommandFinished", "at": T + 3.0, "seen": T, "command_id": 6, "outcome": "ok"},
    ]
    record = [{"event": "requested", "t": T + 0.5}, {"event": "requested", "t": T + 0.8}, {"event": "running", "t": T + 5}]
    assert {name: round(at - T, 3) for name, at in marks(rows, record, T).items()} == {
        "hook": 0.1,
        "deciding": 0.2,
        "launch calls": 0.8,
        "answer, price": 1.0,
        "journal": 1.1,
        "agents' arrival": 2.0,
        "addresses (scontrol)": 3.0,
    }


LOG = """\
2026-11-28 00:00:00,200 - 53 - [__main__:main] - INFO - ResumeProgram startup.
2026-11-28 00:00:00,300 - 53 - [__main__:_resume] - INFO - Current state of Slurm nodes to resume: []
2026-11-28 00:00:00,600 - 53 - [a.b:c] - INFO - Launching all-or-nothing instances for nodes (x2) []
2026-11-28 00:00:01,000 - 53 - [a.b:c] - INFO - Launched the following instances (x1) []
Traceback (most recent call last):
2026-11-28 00:00:01,500 - 53 - [a.b:c] - INFO - Launched the following instances (x1) []
2026-11-28 00:00:01,510 - 53 - [a.b:c] - INFO - Saving assigned hostnames in DynamoDB
2026-11-28 00:00:01,700 - 53 - [a.b:c] - INFO - Updating DNS records for None - None
2026-11-28 00:00:01,800 - 53 - [a.b:c] - INFO - Nodes are now configured with instances (x1) []
2026-11-28 00:00:01,900 - 53 - [a.b:c] - INFO - Updating DNS records for None - None
2026-11-28 00:00:02,000 - 53 - [a.b:c] - INFO - Nodes are now configured with instances (x1) []
"""


def test_the_peers_phases_come_from_its_log() -> None:
    lines = log_lines(LOG)
    phases = phases_of(lines, lines[0][0] - 0.2)
    wanted = {"start (Python, imports)": 0.2, "look at Slurm": 0.1, "boto3 clients": 0.3, "launch calls": 0.9}
    assert phases == pytest.approx({**wanted, "DynamoDB": 0.3, "addresses (scontrol)": 0.2})
    assert sum(phases.values()) == pytest.approx(2.0), "nothing is left out"
    with pytest.raises(ValueError, match="Launching all-or-nothing"):
        phases_of(lines[:3], T)


def test_the_table_service_takes_every_write() -> None:
    with table_service(0.0) as url:
        request = urllib.request.Request(url, b'{"RequestItems":{}}', {"X-Amz-Target": "DynamoDB_20120810.BatchWriteItem"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5) as answer:
            assert json.load(answer) == {"UnprocessedItems": {}}


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_whole_of_it_small(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    sizes = ["--nodes", "3", "--repeats", "1", "--settings", "2", "--refusals", "3", "--starts", "1", "--no-peer"]
    done = subprocess.run([COMMAND, *sizes, "--no-targets", "--output", output], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert [(one["side"], one["setting"], one["nodes"]) for one in found["launches"]] == [
        (side, one.name, 3) for one in SETTINGS[:2] for side in launch_holdfast.SIDES
    ]
    for one in found["launches"]:
        assert 0.02 < one["ids_s"] < one["addresses_s"] < 60
        assert sum(one["phases_s"].values()) == pytest.approx(one["addresses_s"], abs=0.2)
    assert all(one["phases_s"]["launch calls"] > 0.1 for one in found["launches"][2:]), "the latency that was set is there"
    assert found["failover_s"]["count"] == 3
    assert 0 < found["failover_s"]["worst"] < 10
    assert 0 < found["reconcile_cpu_s"]["own_s"] < 10
    assert {"machine", "load average", "Holdfast", "ParallelCluster", "EC2"} <= found["setup"].keys()
