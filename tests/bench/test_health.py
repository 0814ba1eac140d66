"""bench/health: its arithmetic and tables, what it reads from /proc, the plain exporter, and the whole of it, small."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from holdfast_sandbox.nvml.gpus import FakeGpus
from holdfast_sandbox.nvml.library import build, environment
from rich.console import Console

from bench import healths
from bench.health_idle import BARE, PLAIN, WATCHING, Cost, scrape, series
from bench.health_memory import GroupMemory, family, group_cpu_s, group_memory
from bench.health_rounds import Reaction
from bench.health_tables import show

COMMAND = Path(__file__).parents[2] / "bench" / "health"


def cost(cpu_percent: float = 0.3, alone: float = 40.0, scrapes: tuple[float, ...] = (3.0, 9.0)) -> Cost:
    return Cost(60.0, cpu_percent, GroupMemory(alone, alone, 70.0, 25.0, 2), scrapes, 100)


def figures(costs: dict[str, Cost], took_s: float = 16.6) -> dict[str, object]:
    hooks = {healths.HOOK: [2.0, 49.0], "/bin/true": [1.0, 1.0]}
    return healths.figures(costs, [("lose", 5.2), ("hang", took_s)], [Reaction(0.4, 0.2), Reaction(0.9, 0.3)], hooks)


def test_figures_and_tables() -> None:
    found = figures({WATCHING: cost(), BARE: cost(0.2, 30.0, ()), PLAIN: cost()})
    assert all(found["targets_met"].values())
    assert json.loads(json.dumps(found)) == found
    text = io.StringIO()
    show({**found, "setup": {"machine": "2 cores"}}, Console(file=text, width=160))
    for wanted in (BARE, "0.90", "hung NVML → verdict, s", "49.00", "machine: 2 cores", "met"):
        assert wanted in text.getvalue()
    assert "MISSED" not in text.getvalue()


def test_each_target_can_be_missed() -> None:
    costs = {WATCHING: cost(0.8, 61.0, (21.0,)), BARE: cost(0.2)}
    missed = {name for name, met in figures(costs, took_s=18.0)["targets_met"].items() if not met}
    assert missed == {"agent_cpu_percent", "watching_cpu_percent", "agent_pss_mib", "scrape_ms", "verdict_heartbeats"}


def test_a_family_and_what_it_takes() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; x = bytes(range(256)) * 40960; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            ends = time.monotonic() + 10
            while len(family(process.pid)) < 2 or group_memory(family(process.pid)).private < 10:
                assert time.monotonic() < ends
                time.sleep(0.05)
            pids = family(process.pid)
            together, parts = group_memory(pids), [group_memory([pid]) for pid in pids]
            assert together.processes == 2
            assert max(part.alone for part in parts) < together.alone < sum(part.alone for part in parts), "they share the interpreter"
            assert together.private <= together.pss <= together.alone + 1 < together.rss + 1
            assert group_cpu_s(pids) > 0
        finally:
            for pid in reversed(family(process.pid)):
                os.kill(pid, 9)


def test_the_plain_exporter_reads_the_same_gpus(tmp_path: Path) -> None:
    FakeGpus(tmp_path / "state").install("h100x8")
    env = os.environ | dict(environment(build(tmp_path / "nvml"), tmp_path / "state"))
    program = [sys.executable, "-m", "bench.health_plain", str(tmp_path / "port")]
    with subprocess.Popen(program, env=env, cwd=COMMAND.parents[1]) as process:
        try:
            ends = time.monotonic() + 20
            while not (tmp_path / "port").exists() or not (tmp_path / "port").read_text():
                assert time.monotonic() < ends
                assert process.poll() is None
                time.sleep(0.05)
            text = scrape(f"http://127.0.0.1:{(tmp_path / 'port').read_text()}/metrics")
        finally:
            process.kill()
    assert 'plain_temperature{gpu="7"' in text
    assert series(text) > 8 * 25


def test_the_hook_is_timed_beside_programs_that_do_nothing(tmp_path: Path) -> None:
    found = healths.hook_ms(tmp_path, 2)
    assert {name: len(times) for name, times in found.items()} == {healths.HOOK: 2, "/bin/true": 2, "sh": 2}


@pytest.mark.slurm
@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_whole_of_it_small(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [COMMAND, "--quick", "--no-targets", "--output", output], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert set(found["costs"]) == {WATCHING, BARE, PLAIN}
    assert found["costs"][WATCHING]["memory"]["processes"] == 2
    assert 0 < found["values"]["told_s"] < 30
