"""How the client runs Slurm's programs: bounds, time-outs, and which faults are which. The programs here are scripts of ours."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_common.errors import InputError, SlurmRefused, SlurmUnavailable
from holdfast_slurm import scontrol
from holdfast_slurm.parse import COLUMNS
from holdfast_slurm.scontrol import ScontrolClient

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return tmp_path


def install(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def make(directory: Path, timeout_s: float = 30.0) -> ScontrolClient:
    return ScontrolClient(directory, directory / "slurm.conf", timeout_s)


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", SlurmUnavailable),
        ("slurm_update error: Socket timed out on send/recv operation", SlurmUnavailable),
        ("slurm_load_node error: Zero Bytes were transmitted or received", SlurmUnavailable),
        ("slurm_update error: Slurm backup controller in standby mode", SlurmUnavailable),
        ("scontrol: error: If munged is up, restart with --num-threads=10", SlurmUnavailable),
        ("slurm_update error: Invalid node name specified", SlurmRefused),
        ("slurm_update error: Access/permission denied", SlurmRefused),
        ("", SlurmRefused),
    ],
)
async def test_faults(programs: Path, message: str, fault: type[Exception]) -> None:
    install(programs, "scontrol", f'echo "{message}" >&2; exit 1')
    with pytest.raises(fault):
        await make(programs).drain(["spot-1"], "holdfast: x")


async def test_a_missing_program_is_no_answer(programs: Path) -> None:
    with pytest.raises(SlurmUnavailable, match="cannot start"):
        await make(programs).jobs()
    assert not await make(programs).ping()


async def test_a_time_out_kills_the_whole_group(programs: Path) -> None:
    install(programs, "scontrol", f"sleep 60 & echo $! >{programs}/child; wait")
    child = programs / "child"
    for timeout_s in (0.3, 3.0, 12.0):  # on a busy machine the first may pass before there is a child
        with pytest.raises(SlurmUnavailable, match=rf"no answer within {timeout_s:g} s"):
            await make(programs, timeout_s).version()
        if child.exists() and child.read_text().strip():
            break
    await _gone(int(child.read_text()))


async def test_cancelling_kills_it_too(programs: Path) -> None:
    install(programs, "scontrol", f"sleep 60 & echo $! >{programs}/child; wait")
    task = asyncio.ensure_future(make(programs).version())
    await _until(lambda: (programs / "child").exists() and (programs / "child").read_text().strip() != "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _gone(int((programs / "child").read_text()))


async def test_cancelling_at_any_point_of_the_start_kills_it_too(programs: Path) -> None:
    install(programs, "scontrol", f"echo $$ >>{programs}/pids; sleep 60 & echo $! >>{programs}/pids; wait")
    for turns in range(1, 9):
        task = asyncio.ensure_future(make(programs).version())
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.03)  # noqa: ASYNC251  (the program gets ahead of this loop, as on a busy machine)
        task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await task
    for pid in (programs / "pids").read_text().split():
        await _gone(int(pid))


async def _until(check: Callable[[], bool]) -> None:
    for _ in range(3000):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 30 s")


async def _gone(pid: int) -> None:
    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    await _until(gone)


async def test_output_is_bounded(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scontrol, "MAX_OUTPUT_BYTES", 10_000)
    install(programs, "scontrol", "exec cat /dev/zero")
    with pytest.raises(SlurmUnavailable, match="more than 10000 bytes"):
        await make(programs).version()


async def test_a_flood_that_nobody_reads_any_more_is_ended(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time of the kill asyncio has paused the pipe, so its end is never read: waiting for that would be for ever."""
    kill = scontrol._kill

    async def late(process: asyncio.subprocess.Process) -> None:
        await asyncio.sleep(0.05)
        await kill(process)

    monkeypatch.setattr(scontrol, "MAX_OUTPUT_BYTES", 10_000)
    monkeypatch.setattr(scontrol, "_kill", late)
    install(programs, "scontrol", f"echo $$ >{programs}/child; exec cat /dev/zero")
    async with asyncio.timeout(20):
        with pytest.raises(SlurmUnavailable, match="more than 10000 bytes"):
            await make(programs).version()
    await _gone(int((programs / "child").read_text()))


async def test_an_answer_that_is_not_understood_is_none(programs: Path) -> None:
    install(programs, "squeue", "echo 'squeue: error: Invalid job format specification: Requeue' >&2; echo 12 RUNNING")
    install(programs, "scontrol", "echo 'NodeName=;x Arch=x86_64'")
    with pytest.raises(SlurmUnavailable, match=r"not understood.*Invalid job format"):
        await make(programs).jobs()
    with pytest.raises(SlurmUnavailable, match="not understood"):
        await make(programs).nodes()


async def test_only_the_jobs_with_a_long_node_list_are_asked_for_again(programs: Path) -> None:
    cells = {"NumNodes": "700", "State": "RUNNING", "ArrayTaskID": "N/A", "HetJobID": "N/A", "TimeUsed": "0:09"}
    long, short = ("".join((cells | {"JobID": job}).get(name, "0").ljust(width) for name, width in COLUMNS) for job in "78")
    names = ",".join(f"n{number}x{number}" for number in range(700))
    narrow, wide = scontrol.NODE_LIST_WIDTHS[:2]
    (programs / f"NodeList:{narrow}").write_text(f"{long}{names[:narrow]}\n{short}{'n1'.ljust(narrow)}\n")
    (programs / f"NodeList:{wide}").write_text(f"{long}{names.ljust(wide)}\n")
    answer = f'for word; do case $word in *NodeList:*) cat {programs}/"${{word##*,}}" ;; esac; done'
    install(programs, "squeue", f'echo "$*" >>{programs}/calls\n{answer}')
    assert [(job.job_id, len(job.nodes)) for job in await make(programs).jobs()] == [(8, 1), (7, 700)]
    assert [line.endswith(" -j 7") for line in (programs / "calls").read_text().splitlines()] == [False, True]


async def test_only_our_environment_reaches_it(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    install(programs, "scontrol", f'/usr/bin/env >{programs}/env; echo "SLURM_VERSION = 24.11.5"')
    assert await make(programs).version() == (24, 11)
    names = {line.split("=")[0] for line in (programs / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"SLURM_CONF", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "TZ", "LC_ALL"}
    assert f"SLURM_CONF={programs}/slurm.conf" in (programs / "env").read_text()


async def test_updates_go_in_batches_of_folded_names(programs: Path) -> None:
    install(programs, "scontrol", f'echo "$@" >>{programs}/calls')
    await make(programs).drain([f"spot-{number}" for number in range(1, 701)], "holdfast: x\ny; reboot")
    assert (programs / "calls").read_text().splitlines() == [
        "update nodename=spot-[1-500] state=DRAIN reason=holdfast: x y; reboot",
        "update nodename=spot-[501-700] state=DRAIN reason=holdfast: x y; reboot",
    ]


async def test_what_is_out_of_range_is_never_sent(programs: Path) -> None:
    install(programs, "scontrol", f"touch {programs}/called")
    client = make(programs)
    for call in (
        client.start_after("1", -1),
        client.update_job("1", nice=2**31),
        client.update_job("1", priority=-1),
        client.signal("1", "USR1 --full"),
        client.set_addresses({"spot-1": "10.0.0.1 state=down"}),
        client.drain(["@all"], "holdfast: x"),
    ):
        with pytest.raises(InputError):
            await call
    await client.update_job("1")
    assert "called" not in os.listdir(programs)
