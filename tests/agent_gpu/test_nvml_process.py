"""The real NVML process on the fake library: what it says, that it is missed when it hangs, and that it never outlives its agent."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast_nodeagent.gpu import process
from holdfast_sandbox.nvml import library as fake
from holdfast_sandbox.nvml.gpus import FakeGpus

# From conftest.py, which importlib mode does not let tests import.
Heard = Any
RunProbe = Any
Eventually = Callable[[Callable[[], object]], Awaitable[None]]

MAX_RSS_KIB = 18 * 1024
"""It has 13.5 MiB. The agent and it have 60 MiB (PSS) together."""


def children() -> set[int]:
    """Return the NVML processes that this one has started and not seen to end."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed if b"gpu.start" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_it_tells_all_that_there_is(run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually) -> None:
    gpus.processes(1, {4242: 1 << 30})
    await run_probe()
    await eventually(lambda: heard.processes and "nvlinks_down" in {name for name, _ in heard.samples})
    (inventory,) = heard.inventories
    assert [gpu.uuid for gpu in inventory.gpus] == [gpus.uuid(index) for index in range(8)]
    assert [gpu.pci for gpu in inventory.gpus] == [gpus.pci(index) for index in range(8)]
    assert {gpu.model for gpu in inventory.gpus} == {"NVIDIA H100 80GB HBM3"}
    assert {gpu.memory_bytes for gpu in inventory.gpus} == {80 << 30}
    assert not any(gpu.mig for gpu in inventory.gpus)
    assert inventory.driver == "570.124.06"
    assert heard.rounds[:3] == ["fast", "medium", "slow"]
    assert heard.processes[0][gpus.uuid(1)] == {4242: 1 << 30}
    assert all(0 < took_s < 5 for took_s in heard.took_s)
    assert abs(heard.samples["up", gpus.uuid(0)].at - time.time()) < 10


async def test_mig_is_told(run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually) -> None:
    gpus.install("a100-migx1")
    await run_probe()
    await eventually(lambda: heard.inventories)
    assert [gpu.mig for gpu in heard.inventories[0].gpus] == [True]


async def test_it_follows_what_changes(run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually) -> None:
    await run_probe()
    await eventually(lambda: heard.samples)
    gpus.lose(5)
    await eventually(lambda: heard.samples["up", gpus.uuid(5)].value == 0 and heard.samples["gpus_visible", ""].value == 7)


async def test_an_xid_is_told_at_once_and_followed_by_a_round(
    run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually
) -> None:
    await run_probe()
    await eventually(lambda: heard.samples)
    await asyncio.sleep(0.2)
    gpus.set("recovery_action", 2, gpu=6)
    gpus.xid(6, 79)
    gpus.event(6, 0x8000, 2)
    await eventually(lambda: heard.events and heard.samples["recovery_action", gpus.uuid(6)].value == 2)
    assert [(event.kind, event.code, event.gpu, event.source) for event in heard.events] == [("xid", 79, gpus.uuid(6), "nvml")]


async def test_an_xid_of_a_gpu_that_is_lost_with_it_still_names_the_gpu(
    run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually
) -> None:
    await run_probe()
    await eventually(lambda: heard.samples)
    gpus.hang(True, functions="nvmlEventSetWait_v2")
    gpus.xid(6, 79)
    gpus.lose(6)
    gpus.hang(False)
    await eventually(lambda: heard.events)
    assert heard.events[0].gpu == gpus.uuid(6)


async def test_all_tiers_are_read_when_asked(run_probe: RunProbe, heard: Heard, eventually: Eventually) -> None:
    probe = await run_probe()
    await eventually(lambda: "slow" in heard.rounds)
    before = heard.rounds.count("slow")
    probe.read_now()
    await eventually(lambda: heard.rounds.count("slow") > before)


async def test_a_call_that_hangs_is_missed_and_heals(run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually) -> None:
    probe = await run_probe()
    await eventually(lambda: heard.rounds.count("fast") >= 2)
    gpus.hang(True)
    began = time.monotonic()
    await eventually(lambda: 3 in heard.missed)
    assert time.monotonic() - began < 4.0  # three intervals of 0.4 s, and the load of the machine
    await eventually(lambda: len(children()) == 2)
    rounds = len(heard.rounds)
    await asyncio.sleep(1.0)
    assert len(children()) == 2  # the second hangs as well, and there is no third
    assert len(heard.rounds) == rounds
    gpus.hang(False)
    await eventually(lambda: heard.missed[-1] == 0 and len(children()) == 1 and probe.alive == 1)
    await eventually(lambda: len(heard.rounds) > rounds)


async def test_a_hang_of_one_call_alone_is_missed_too(run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually) -> None:
    await run_probe()
    await eventually(lambda: heard.rounds)
    gpus.hang(True, functions="nvmlDeviceGetComputeRunningProcesses_v3")
    await eventually(lambda: 3 in heard.missed)


async def test_one_that_is_killed_is_missed_once_and_replaced(run_probe: RunProbe, heard: Heard, eventually: Eventually) -> None:
    probe = await run_probe()
    await eventually(lambda: heard.rounds)
    (pid,) = children()
    os.kill(pid, signal.SIGSEGV)
    await eventually(lambda: heard.missed and heard.missed[-1] == 0)
    assert probe.restarts == 1
    assert len(heard.inventories) == 2


async def test_a_machine_without_the_library(run_probe: RunProbe, heard: Heard, tmp_path: Path, eventually: Eventually) -> None:
    await run_probe(str(tmp_path / "libnvidia-ml.so.1"))
    await eventually(lambda: heard.unavailable and not children())
    assert "cannot open shared object file" in heard.unavailable[0]
    assert heard.missed == []


async def test_the_library_as_the_loader_finds_it(
    run_probe: RunProbe, heard: Heard, library: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    await run_probe("")
    await eventually(lambda: heard.inventories)
    assert len(heard.inventories[0].gpus) == 8


async def test_a_driver_that_is_not_loaded(run_probe: RunProbe, heard: Heard, gpus: FakeGpus, eventually: Eventually) -> None:
    gpus.unload_driver()
    await run_probe()
    await eventually(lambda: heard.unavailable)
    assert heard.unavailable == ["Driver Not Loaded"]


def rss_kib(pid: int) -> int:
    rollup = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(rollup["Rss"].split()[0])


async def test_it_takes_little_memory(run_probe: RunProbe, heard: Heard, eventually: Eventually) -> None:
    await run_probe()
    await eventually(lambda: heard.rounds.count("slow") >= 2)
    (pid,) = children()
    assert rss_kib(pid) < MAX_RSS_KIB


@pytest.fixture
def start(gpus: FakeGpus, library: Path, tmp_path: Path) -> Callable[[], subprocess.Popen[bytes]]:
    """Start the process as the probe does, on pipes of the test's."""

    def run() -> subprocess.Popen[bytes]:
        variables = process.environment(os.environ) | {fake.CALLS_VARIABLE: str(tmp_path / "calls")}
        command = process.command(str(library), [0.1, 0.1, 0.1])
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables)

    return run


def read_round(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    while b'"processes"' not in child.stdout.readline():
        assert child.poll() is None


FAULTY = "from holdfast_nodeagent.gpu import rounds; rounds.Gpus.round = lambda *_: 1 / 0; "


def test_a_fault_of_ours_is_said_and_no_hang(library: Path, gpus: FakeGpus) -> None:
    command = [part.replace("from holdfast", f"{FAULTY}from holdfast") for part in process.command(str(library), [0.1, 0.1, 0.1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)) as child:
        assert child.wait() == 0  # by itself, and in order
        assert child.stdout is not None
        assert child.stderr is not None
        said = [json.loads(line) for line in child.stdout]
        assert said[-1] == {"kind": "unavailable", "reason": "fault in the NVML process: ZeroDivisionError: division by zero"}
        assert b"ZeroDivisionError" in child.stderr.read()


@pytest.mark.parametrize("how", ["end of input", "SIGTERM", "both"])
def test_told_to_leave_it_shuts_nvml_down(start: Callable[[], subprocess.Popen[bytes]], tmp_path: Path, how: str) -> None:
    with start() as child:
        read_round(child)
        assert child.stdin is not None
        if how != "SIGTERM":
            child.stdin.close()
        if how != "end of input":
            child.terminate()
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read()
        assert child.wait() == 0
        assert child.stderr.read() == b""  # the fake aborts where NVML is shut down with a call under way
    assert fake.calls_made(tmp_path / "calls")["nvmlShutdown"] == 1


def test_with_a_call_under_way_it_waits_for_its_end(start: Callable[[], subprocess.Popen[bytes]], gpus: FakeGpus, tmp_path: Path) -> None:
    with start() as child:
        read_round(child)
        gpus.hang(True)
        time.sleep(0.3)
        child.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.5)
        assert fake.calls_made(tmp_path / "calls")["nvmlShutdown"] == 0
        gpus.hang(False)
        assert child.stdout is not None
        child.stdout.read()
        assert child.wait() == 0
    assert fake.calls_made(tmp_path / "calls")["nvmlShutdown"] == 1


def test_it_leaves_where_nvml_hangs_from_the_start(start: Callable[[], subprocess.Popen[bytes]], gpus: FakeGpus, tmp_path: Path) -> None:
    gpus.hang(True, functions="nvmlInitWithFlags")
    with start() as child:
        while not fake.calls_made(tmp_path / "calls"):
            time.sleep(0.01)
        child.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        gpus.hang(False)
        assert child.wait() == 0


def test_it_ends_with_its_agent(gpus: FakeGpus, library: Path) -> None:
    """The agent is killed; a process that still holds the child's input open must not keep it alive."""
    command = process.command(str(library), [0.1, 0.1, 0.1])
    agent = (
        f"import subprocess, time; child = subprocess.Popen({command!r}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)\n"
        "holder = subprocess.Popen(['sleep', '20'], pass_fds=[child.stdin.fileno()])\n"
        "print(child.pid, holder.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, holder = map(int, parent.stdout.readline().split())
        while b"libnvidia-ml" not in Path(f"/proc/{pid}/maps").read_bytes():
            time.sleep(0.01)
        parent.kill()
    try:
        while alive(pid):
            time.sleep(0.01)
    finally:
        os.kill(holder, signal.SIGKILL)


def test_nothing_is_asked_that_blocks(start: Callable[[], subprocess.Popen[bytes]], tmp_path: Path) -> None:
    with start() as child:
        read_round(child)
        child.terminate()
        assert child.stdout is not None
        child.stdout.read()
    calls = fake.calls_made(tmp_path / "calls")
    assert calls["nvmlDeviceGetTemperatureV"] >= 8
    assert calls["nvmlDeviceGetPcieThroughput"] == 0
    assert calls["nvmlInitWithFlags"] == 1
