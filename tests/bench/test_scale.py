"""bench/scale: its arithmetic and tables, what it reads from /proc, and the whole of it, small."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bench import decisions, scales
from bench.consumption import Memory, cpu_s, find, memory_mib
from bench.idle import Idle
from bench.requests import Request, baselines

COMMAND = Path(__file__).parents[2] / "bench" / "scale"


def test_figures_and_tables() -> None:
    asked = [Request(1, 1.0, 0.2, 0.3, 1), Request(1, 3.0, 0.4, 0.5, 1), Request(1000, 2.0, 0.45, 2.5, 1)]
    base = {"nothing": [0.01, 0.02, 0.01], "python": [0.03]}
    turns = {"decide, at rest": 0.005, "decide, all": 0.09, "jobs (in a thread)": 2.0}
    found = scales.figures(asked, base, {"controller": Idle(100, 30.0, 1.5, Memory(80.0, 90.0))}, turns)
    assert found["targets_met"] == {"hook_worst_s": True, "calls_1000_nodes_s": False, "decide_at_rest_s": True, "loop_blocked_s": True}
    assert found["values"]["loop_blocked_s"] == 0.09, "what a thread does holds the loop up for no longer than it lets go"
    assert found["by_size"]["1"]["ratio_hook"] == pytest.approx(30.0)
    assert found["by_size"]["1"]["hook_s"] == {"median": pytest.approx(0.3), "worst": 0.4}
    assert json.loads(json.dumps(found)) == found
    text = io.StringIO()
    scales.show({**found, "setup": {"machine": "2 cores"}}, Console(file=text, width=200))
    for wanted in ("1000 node(s)", "0.45 / 0.45", "x 30", "calls_1000_nodes_s <= 2: 2.500, MISSED", "1.5", "machine: 2 cores"):
        assert wanted in text.getvalue()


def test_consumption_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "hf-marked-process"]) as process:
        try:
            ends = time.monotonic() + 10
            while find(["hf-marked-process"]) != [process.pid]:  # for an instant it is still a copy of this one
                assert time.monotonic() < ends
        finally:
            process.kill()
    before = cpu_s(os.getpid())
    sum(number * number for number in range(2_000_000))
    assert before < cpu_s(os.getpid()) < before + 30
    own = memory_mib(os.getpid())
    assert 1 < own.pss <= own.rss < 10_000


def test_baselines_are_started_as_slurmctld_starts_hooks(tmp_path: Path) -> None:
    found = baselines(tmp_path, Path(sys.executable), repeats=1)
    assert len(found) == 3
    assert all(0 < times[0] < 30 for times in found.values())


def test_turns_of_the_loop_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"NODES": 5, "JOBS": 8, "LISTED": 10}.items():
        monkeypatch.setattr(decisions, name, size)
    found = decisions.measure()
    assert "decide, at rest" in found
    assert all(0 < took_s < 5 for took_s in found.values())


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_whole_of_it_small(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    sizes = ["--most-nodes", "1", "--repeats", "1", "--idle-nodes", "2", "--idle", "2"]
    done = subprocess.run([COMMAND, *sizes, "--no-targets", "--output", output], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert [(one["nodes"], one["calls"]) for one in found["requests"]] == [(1, 1)]
    (one,) = found["requests"]
    assert 0.02 < one["hook_s"] < 10
    assert 0 < one["calls_s"] < 30
    assert set(found["idle"]) == {"controller", "slurmctld", "agent"}
    idle = found["idle"]
    assert all(0 <= one["cpu_percent"] < 100 and 1 < one["memory"]["pss"] < 500 for one in idle.values()), idle  # ticks are 10 ms
    assert idle["controller"]["cpu_percent"] > 0
