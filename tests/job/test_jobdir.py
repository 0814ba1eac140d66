import json
import os
from pathlib import Path
from typing import Any

import pytest
from holdfast import process
from holdfast.errors import HoldfastError, ProtocolError
from holdfast.jobdir import Context, ContextFile, JobDirectory, NoticeFile, parse_context, parse_notice
from holdfast.process import Place
from hypothesis import given
from hypothesis import strategies as st

GOOD: dict[str, Any] = {
    "v": 1,
    "id": "n1",
    "kind": "preempt",
    "deadline": 1_800_000_120.5,
    "received": 1_800_000_000,
    "reason": "spot reclaim",
    "action": "save",
}


def test_a_notice_is_read() -> None:
    notice = parse_notice(json.dumps({**GOOD, "later": "keys are ignored"}).encode())
    assert (notice.id, notice.kind, notice.deadline, notice.action) == ("n1", "preempt", 1_800_000_120.5, "save")
    assert parse_notice(json.dumps({**GOOD, "deadline": None}).encode()).ends == 1_800_000_600


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"id": 7},
        {"id": ""},
        {"id": "x" * 201},
        {"kind": None},
        {"deadline": "soon"},
        {"deadline": True},
        {"deadline": float("inf")},
        {"received": None},
        {"reason": ["a"]},
        {"action": "reboot"},
    ],
)
def test_a_wrong_type_makes_a_notice_void(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        parse_notice(json.dumps(GOOD | change).encode())


@given(st.one_of(st.binary(max_size=200), st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())))
def test_rubbish_is_void_and_nothing_worse(data: bytes) -> None:
    for parse in (parse_notice, parse_context):
        with pytest.raises(ProtocolError):
            parse(data)


def spoil_large(path: Path) -> None:
    path.write_bytes(json.dumps({**GOOD, "pad": "x" * 70_000}).encode())


def spoil_symlink(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(json.dumps(GOOD).encode())
    path.symlink_to(path.with_name("elsewhere"))


SPOILED = {
    "larger than": spoil_large,
    "cannot be opened": spoil_symlink,
    "not a regular file": os.mkfifo,
    "not JSON": lambda path: path.write_bytes(b"[" * 60_000),
    "action is neither": lambda path: path.write_bytes(json.dumps(GOOD | {"action": "x"}).encode()),
}


@pytest.mark.parametrize("told", SPOILED)
def test_a_malformed_notice_is_reported_once_and_ignored(told: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    path = tmp_path / "notice.json"
    file = NoticeFile(path, warnings.append)
    assert file.poll() is None
    SPOILED[told](path)
    assert file.poll() is None
    assert file.poll() is None
    assert len(warnings) == 1
    assert told in warnings[0]
    path.unlink()
    path.write_bytes(json.dumps(GOOD).encode())
    assert file.poll() == parse_notice(json.dumps(GOOD).encode())


def test_a_malformed_notice_does_not_undo_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "notice.json"
    path.write_bytes(json.dumps(GOOD).encode())
    file = NoticeFile(path, lambda _text: None)
    good = file.poll()
    path.write_bytes(b"{")
    assert file.poll() == good


def test_a_notice_stands_until_its_file_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "node" / "notice.json"
    path.parent.mkdir()
    path.write_bytes(json.dumps(GOOD).encode())
    file = NoticeFile(path, lambda _text: None)
    good = file.poll()
    path.unlink()
    assert file.poll() is None, "so the agent withdraws it"
    path.write_bytes(json.dumps(GOOD).encode())
    assert file.poll() == good
    path.parent.rename(tmp_path / "gone")
    assert file.poll() == good, "Epilog has set the attempt's directory aside: the job is being ended"


def test_a_job_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert JobDirectory.find({"HOLDFAST_JOB_DIR": str(tmp_path / "none")}, warnings.append) is None
    assert "going on without notices" in warnings[0]
    assert JobDirectory.find({}, warnings.append) is None
    assert len(warnings) == 1


def test_the_context_is_read() -> None:
    content = {"v": 1, "job_id": 7, "attempt": 2, "node": "spot-1", "window_s": 120}
    assert parse_context(json.dumps(content).encode()).job_id == "7"


PROLOG: dict[str, Any] = {"v": 1, "job_id": 7, "attempt": 1, "node": "spot-3"}
KNOWN = {"nodes": ["spot-3", "spot-4"], "market": "spot", "window_s": 120, "age_s": 12.5, "hazard_per_h": 0.08}


def test_what_the_agent_adds_to_the_context_is_read_and_may_be_missing() -> None:
    full = parse_context(json.dumps({**PROLOG, **KNOWN, "provider": "aws"}).encode())
    assert full == Context("7", 1, "spot-3", ("spot-3", "spot-4"), "spot", 120.0, 12.5, 0.08)
    bare = Context("7", 1, "spot-3")
    assert parse_context(json.dumps(PROLOG).encode()) == bare
    assert parse_context(json.dumps({**PROLOG, **dict.fromkeys(KNOWN)}).encode()) == bare


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": "spot-3"},
        {"nodes": [3]},
        {"nodes": ["n"] * 4097},
        {"market": 1},
        {"market": ""},
        {"window_s": "120"},
        {"window_s": -1},
        {"age_s": True},
        {"hazard_per_h": -0.1},
        {"hazard_per_h": float("nan")},
        {"hazard_per_h": 1e7},
    ],
)
def test_a_wrong_type_makes_a_context_void(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=r"context\.json"):
        parse_context(json.dumps({**PROLOG, **KNOWN, **change}).encode())


def test_a_context_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    warnings: list[str] = []
    path = tmp_path / "context.json"
    file = ContextFile(path, warnings.append)

    def write(text: str) -> None:
        path.with_name("new").write_text(text)
        path.with_name("new").rename(path)

    def hazard() -> float | None:
        context = file.poll()
        assert context is not None
        return context.hazard_per_h

    assert file.poll() is None
    write(json.dumps(PROLOG))
    assert hazard() is None
    write(json.dumps({**PROLOG, "hazard_per_h": 0.2}))
    assert hazard() == 0.2
    write(json.dumps({**PROLOG, "hazard_per_h": "high"}))
    assert (hazard(), hazard()) == (0.2, 0.2)
    assert len(warnings) == 1, "what is void is told once, and changes nothing"
    path.unlink()
    assert hazard() == 0.2


STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Place(3, 4)),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "9"}, Place(1, 2)),
        ({**STEP, "SLURM_NTASKS": "2"}, Place(1, 2)),
        ({**STEP, "SLURM_NTASKS": "2", "RANK": "0", "WORLD_SIZE": "1"}, Place(0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, Place(0, 1)),
    ],
)
def test_the_place_among_the_ranks(environ: dict[str, str], place: Place) -> None:
    assert process.place(environ) == place


@pytest.mark.parametrize("environ", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "x"}])
def test_a_place_that_cannot_be_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(HoldfastError):
        process.place(environ)


def test_the_start_of_the_process_is_the_kernels() -> None:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    boot = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    kernels = boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    assert abs(process.started() - kernels) < 2
