"""`holdfast health replay` as an admin sees it: no controller runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_controller.cli import health_replay
from holdfast_controller.cli.health import app
from typer.testing import CliRunner, Result

LOG = """\
-- Boot 4a5b6c --
2026-11-28T09:00:00+0000 spot-1 kernel: Linux version 6.1.0
2026-11-28T09:15:04+0000 spot-1 kernel: NVRM: Xid (PCI:0000:3b:00): 43, pid=411, name=python, Ch 00000010
2026-11-28T09:15:05+0000 spot-1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
2026-11-28T11:00:00+0000 spot-1 kernel: usb 1-1: new device
"""
DRY = """\
version = 1
[[event]]
name = "ours"
kind = "xid"
codes = [79]
action = "replace"
dry_run = true
advice = "ours"
next = "look"
"""


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.log"
    path.write_text(LOG)
    return path


def run(*arguments: object, text: str = "") -> Result:
    return CliRunner().invoke(app, ["replay", *(str(each) for each in arguments)], input=text)


def test_what_would_have_been_done_and_when(log: Path) -> None:
    done = run(log)
    assert done.exit_code == 0
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        "WHEN WHAT RULE GPU ACTION THE NODE SEEN",
        "2026-11-28 09:15:04 began xid-ignored PCI:0000:3b:00 note goes on XID 43",
        "2026-11-28 09:15:05 began xid-79 PCI:0000:3b:00 replace jobs save and leave; replaced at once XID 79",
        "2026-11-28 10:15:04 ended xid-ignored PCI:0000:3b:00 note jobs save and leave; replaced at once XID 43",
    ]
    assert done.stderr.startswith("2026-11-28 09:00:00 to 2026-11-28 11:00:00: 5 lines, 2 GPU events, 0 readings; rules ")


def test_json_has_all_of_it(log: Path) -> None:
    document = json.loads(run(log, "--json").stdout)
    assert {key: document[key] for key in ("lines", "events", "readings", "bad_lines", "faults", "cut")} == {
        "lines": 5,
        "events": 2,
        "readings": 0,
        "bad_lines": 0,
        "faults": [],
        "cut": False,
    }
    assert document["changes"][1] == {
        "at": 1795857305.0,
        "what": "began",
        "rule": "xid-79",
        "gpu": "PCI:0000:3b:00",
        "action": "replace",
        "dry_run": False,
        "strikes": 1,
        "job_ids": [],
        "text": "XID 79",
        "node": "replace",
    }


def test_other_rules_and_stdin(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(DRY)
    done = run("-", "--rules", rules, text=LOG)
    assert done.exit_code == 0
    assert [line.split()[4:] for line in done.stdout.splitlines()[1:]] == [
        ["PCI:0000:3b:00", "replace", "(dry", "run)", "well", "XID", "79"]
    ]


def test_nothing_found_is_said() -> None:
    done = run("-", text="[    1.000000] Linux version 6.1.0\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("Nothing would have been found. [1.000] to [1.000]: 1 lines")
    assert json.loads(run("-", "--json").stdout)["began_at"] is None


def test_lines_that_are_not_understood_are_named_and_strict_minds_them(log: Path) -> None:
    log.write_text(LOG + "what\n" + "x" * 200_000 + "\n[1.5] last\n")
    done = run(log)
    assert done.exit_code == 0
    assert done.stderr.splitlines()[1:] == [
        "line 6: has no time such as dmesg or journalctl -o short-iso write",
        "line 7: is longer than 65536 characters",
    ]
    assert "8 lines" in done.stderr.splitlines()[0]
    assert run(log, "--strict").exit_code == 1
    strict = run(log, "--strict", "--json")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout)["faults"][0]["line"] == 6


def test_what_cannot_be_used_ends_1_and_wrong_use_2(log: Path, tmp_path: Path) -> None:
    missing = run(tmp_path / "none")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "none cannot be read: No such file or directory" in missing.stderr
    faulty = tmp_path / "rules.toml"
    faulty.write_text(DRY.replace("replace", "reboot"))
    bad = run(log, "--rules", faulty, "--json")
    assert bad.exit_code == 1
    assert "event[0].action" in json.loads(bad.stdout)["error"]
    assert run().exit_code == 2
    assert run(tmp_path).exit_code == 1


def test_of_too_many_changes_the_first_are_shown(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(health_replay, "MOST_CHANGES", 2)
    done = run(log)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 3
    assert "more than 2 changes" in done.stderr
    document = json.loads(run(log, "--json").stdout)
    assert (document["cut"], len(document["changes"])) == (True, 2)


def test_what_a_program_writes_does_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"[1.5] NVRM: Xid (PCI:0000:3b:00): 43, pid=1, name=\x1b[2J\xff, x\n\x1b[31m\n")
    done = run(path)
    assert "\x1b" not in done.stdout + done.stderr


def test_it_is_a_command_of_holdfast(log: Path) -> None:
    holdfast = Path(sys.executable).parent / "holdfast"
    env = os.environ | {"TZ": "UTC", "HOLDFAST_SOCKET": "/nonexistent"}
    done = subprocess.run([holdfast, "health", "replay", log], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "xid-79" in done.stdout
