"""`dcgmi diag`: what its output means, and a program that misbehaves."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from holdfast_common.clock import SystemClock
from holdfast_common.health.model import Action
from holdfast_nodeagent.health.dcgm import Failure, NotTestedError, failures
from holdfast_nodeagent.health.deep_check import DeepCheck


def four(*results: dict[str, Any], name: str = "memory", **more: Any) -> dict[str, Any]:
    """As DCGM 4.2.3 writes it."""
    test = {"name": name, "results": list(results), "test_summary": {"status": "Pass"}}
    return {
        "DCGM Diagnostic": {"test_categories": [{"category": "Hardware", "tests": [test]}], **more},
        "entity_groups": [{"entities": [{"device_id": "2330", "entity_id": 0}], "entity_group": "GPU", "entity_group_id": 1}],
        "metadata": {"Driver Version Detected": "570.86.15", "version": "4.2.3"},
    }


def result(gpu: int, status: str, *warnings: dict[str, Any]) -> dict[str, Any]:
    said = {"entity_group": "GPU", "entity_group_id": 1, "entity_id": gpu, "status": status}
    return {**said, "warnings": list(warnings)} if warnings else said


def warning(text: str, severity: int) -> dict[str, Any]:
    return {"error_category": 8, "error_id": 29, "error_severity": severity, "warning": text}


def three(*results: dict[str, Any]) -> dict[str, Any]:
    """As DCGM 3 writes it."""
    tests = [{"name": "Denylist", "results": [{"gpu_ids": "0,1", "status": "PASS"}]}, {"name": "PCIe", "results": list(results)}]
    return {"DCGM GPU Diagnostic": {"test_categories": [{"category": "Integration", "tests": tests}], "version": "3.3.1"}}


def read(document: object) -> tuple[Failure, ...]:
    return failures(json.dumps(document).encode())


def test_a_healthy_machine_of_either_version() -> None:
    assert read(four(result(0, "Pass"), result(1, "Skip"))) == ()
    assert read(three({"gpu_ids": "0,1", "status": "PASS", "info": "GPU to Host bandwidth"})) == ()
    assert read(three({"gpu_id": "0", "status": "WARN", "warnings": "slow"})) == ()  # a warning is no failure


def test_a_failure_names_test_gpu_and_reason() -> None:
    bad = warning("GPU 3 has uncorrectable\nmemory errors", 2)
    assert read(four(result(0, "Pass"), result(3, "Fail", bad))) == (
        Failure("memory", "GPU 3", "GPU 3 has uncorrectable memory errors", mild=False),
    )
    assert read(three({"gpu_ids": "1", "status": "FAIL", "warnings": ["too slow", {"error_id": 3, "warning": "x8"}]})) == (
        Failure("PCIe", "GPU 1", "too slow; x8", mild=False),
    )
    assert str(read(three({"status": "Fail"}))[0]) == "PCIe on the node"


def test_a_setting_is_no_broken_gpu() -> None:
    """DCGM 4 fails its software test for every GPU whose persistence mode is off, as severity 5, CONFIG."""
    off = warning("Persistence mode for GPU 0 is disabled.", 5)
    assert [failure.mild for failure in read(four(result(0, "Fail", off), name="software"))] == [True]
    assert [failure.mild for failure in read(four(result(0, "Fail", off, warning("DBE", 2))))] == [False]
    assert [failure.mild for failure in read(four(result(0, "Fail", {"warning": "no severity is said"})))] == [False]


def test_a_summary_counts_where_it_alone_says_so() -> None:
    document = four()
    document["DCGM Diagnostic"]["test_categories"][0]["tests"][0]["test_summary"] = {"status": "Fail", "warnings": [warning("NVML", 2)]}
    assert read(document) == (Failure("memory", "the node", "NVML", mild=False),)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (b"Error: unable to connect", "not understood"),
        (b"{}", "no diagnostic"),
        (b'{"DCGM Diagnostic": {"test_categories": 3}}', "not understood"),
        (json.dumps(four(runtime_error="a diagnostic is running already")).encode(), "running already"),
        (b'{"DCGM Diagnostic": {"version": "4.2.3"}}', "no test was run"),
        (b'{"DCGM Diagnostic": {"test_categories": [{"tests": [{"name": "a", "results": [{"status": "Skip"}]}]}]}}', "no test was run"),
    ],
)
def test_what_tells_of_no_test_is_no_verdict(output: bytes, why: str) -> None:
    with pytest.raises(NotTestedError, match=why):
        failures(output)


def program(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "dcgmi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def check(path: Path, limit_s: float = 10.0) -> DeepCheck:
    return DeepCheck(SystemClock(), path, dict.fromkeys((1, 2, 3, 4), limit_s))


async def test_it_is_run_at_its_level_and_judged(tmp_path: Path) -> None:
    text = json.dumps(four(result(3, "Fail", warning("DBE", 2)), result(0, "Fail", warning("persistence", 5))))
    path = program(tmp_path, f'echo "$*" > {tmp_path}/said; echo noise >&2; cat <<E\n{text}\nE\nexit 226')
    said, (finding,) = await check(path).run(3)
    assert (tmp_path / "said").read_text() == "diag -r 3 --json\n"
    assert (finding.rule, finding.action, finding.gpu) == ("deep_check", Action.REPLACE, "")
    assert said == finding.text == "memory on GPU 3: DBE"


async def test_a_pass_and_a_mild_failure(tmp_path: Path) -> None:
    passed = program(tmp_path, f"echo '{json.dumps(four(result(0, 'Pass')))}'")
    assert await check(passed).run(1) == ("passed", ())
    mild = program(tmp_path, f"echo '{json.dumps(four(result(0, 'Fail', warning('persistence', 5))))}'")
    said, (finding,) = await check(mild).run(1)
    assert (said, finding.action, finding.text) == ("passed", Action.NOTE, "memory on GPU 0: persistence")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Error: unable to establish a connection' >&2; exit 1", "unable to establish a connection"),
        ("exit 0", "it says nothing"),
        ("exec yes", "writes more than"),
        ("head -c 5000000 /dev/zero", "writes more than"),
        ("sleep 60", "has not ended within 0.3 s"),
    ],
)
async def test_what_cannot_be_run_is_a_note(tmp_path: Path, script: str, why: str) -> None:
    began = time.monotonic()
    said, (finding,) = await check(program(tmp_path, script), 0.3).run(2)
    assert finding.action is Action.NOTE
    assert said == finding.text
    assert said.startswith("not run: ")
    assert why in said
    assert time.monotonic() - began < 5


async def test_one_that_is_not_there_is_a_note(tmp_path: Path) -> None:
    said, (finding,) = await check(tmp_path / "none").run(1)
    assert said == f"not run: {tmp_path / 'none'} cannot be run: No such file or directory"
    assert finding.action is Action.NOTE


async def test_it_leaves_with_its_children_when_the_node_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    path = program(tmp_path, f"(echo begun; exec sleep 60) > {tmp_path}/alive & wait")
    running = asyncio.ensure_future(check(path, 60).run(4))
    with await asyncio.to_thread((tmp_path / "alive").open) as alive:
        assert await asyncio.to_thread(alive.readline) == "begun\n"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await asyncio.to_thread(alive.read) == ""  # the last writer, its child, has ended
