"""What holds for every command: exit codes, a sentence instead of a traceback, help, a quick start, words."""

import asyncio
import json
import os
import re
import socket as sockets
import sys
import time

import pytest
from holdfast_controller.cli import text

pytestmark = pytest.mark.timeout(120)  # each test starts several processes, on what may be a busy machine
COMMANDS = [("nodes",), ("events", "--follow"), ("explain", "job", "12"), ("policy", "show"), ("interrupt", "n1"), ("health", "node", "n1")]
AS_NOBODY = """
import contextlib, io, os, sys
from holdfast.cli import main
with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
    main(["nodes", "--socket", "/nonexistent"])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main())
"""
"""The interpreter's own files may be out of nobody's reach: a first run reads them before the rights are given up."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_an_absent_controller_is_exit_code_3_with_what_to_check(stage, command) -> None:
    path = str(stage.directory / "absent.sock")
    done = await stage.cli(*command, "--json", "--socket", path)
    assert done.code == 3
    assert path in done.err
    assert "is holdfast-controller running" in done.err
    assert json.loads(done.out) == {"error": done.err.strip().partition(": ")[2], "exit_code": 3}


async def test_why_the_controller_is_not_reachable(stage) -> None:
    plain = stage.directory / "plain"
    plain.touch()
    assert "is not a socket" in (await stage.cli("nodes", "--socket", str(plain))).err
    dead = stage.directory / "dead"
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(dead))
    found = await stage.cli("nodes", "--socket", str(dead))
    assert (found.code, "nobody answers; is holdfast-controller running" in found.err) == (3, True)


async def test_one_who_may_not_open_the_socket_is_told_which_group_may(stage) -> None:
    os.chown(stage.socket, 0, 10)
    stage.socket.chmod(0o660)
    done = await stage.cli("nodes", program=AS_NOBODY, cwd="/")
    assert done.code == 3
    assert re.search(r"only root and members of the group \w+ may open it", done.err)
    stage.directory.chmod(0o700)
    done = await stage.cli("nodes", program=AS_NOBODY, cwd="/")
    assert (done.code, f"you may not enter {stage.directory}" in done.err) == (3, True)


@pytest.mark.parametrize(
    "command",
    [
        ("nodes",),
        ("jobs",),
        ("events",),
        ("explain", "job"),
        ("explain", "node"),
        ("interrupt",),
        *(("health", name) for name in ("nodes", "node", "check", "resolve", "rules")),
    ],
    ids=" ".join,
)
async def test_help_has_examples_and_exit_codes(stage, command) -> None:
    done = await stage.cli(*command, "--help")
    assert done.code == 0
    assert re.search(rf"Examples?:\n +holdfast {' '.join(command)}", done.out)
    assert "3 controller not reachable" in " ".join(done.out.split())
    assert all(len(line) <= 100 for line in done.out.splitlines())


async def test_usage_errors_are_exit_code_2(stage) -> None:
    for wrong in (("nodes", "--nosuch"), ("explain",), ("explain", "job"), ("interrupt",), ("policy", "nosuch"), ("events", "--last", "x")):
        assert (await stage.cli(*wrong)).code == 2, wrong


async def test_the_modules_of_the_cli_bring_in_neither_the_controller_nor_grpc_nor_rich() -> None:
    names = "nodes jobs events explain policy interrupt health"
    program = (
        "import sys\n"
        + "".join(f"import holdfast_controller.cli.{name}\n" for name in names.split())
        + "heavy = {'grpc', 'rich', 'pydantic', 'sqlite3', 'google', 'structlog'} & set(sys.modules)\n"
        + "own = sorted(name for name in sys.modules if name.startswith('holdfast_controller.') and '.cli' not in name)\n"
        + "print(sorted(heavy), own)\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert out.decode() == "[] []\n"


async def test_an_error_that_nobody_expected_is_a_sentence_too(stage) -> None:
    stage.policies.text = "no TOML"
    done = await stage.cli("policy", "show", "--json")
    assert done.code == 1
    assert done.document["error"].startswith("TOMLDecodeError: ")


async def test_a_socket_whose_path_no_socket_can_have_is_a_usage_error(stage) -> None:
    long = await stage.cli("nodes", "--socket", "/" + "x" * 300)
    assert (long.code, long.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0s"), (0.9, "0s"), (59.9, "59s"), (60, "1m 0s"), (125, "2m 5s"), (3599, "59m 59s"), (11045, "3h 4m"), (183600, "2d 3h")],
)
def test_ages(seconds, said) -> None:
    assert text.age(seconds) == said


def test_moments(monkeypatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = 1_700_000_000.0  # 22:13:20 UTC
    assert text.moment(now - 125, now) == "22:11:15 (2m 5s)"
    assert text.moment(now + 65, now) == "22:14:25 (in 1m 5s)"
    assert text.moment(now - 86400, now) == "2023-11-13 22:13:20 (1d 0h)"
    assert text.moment(0.0, now) == ""


def test_words() -> None:
    assert text.words("RequeueJob") == "requeue job"
    assert text.words("NoticeReceived") == "notice received"
    assert text.clean("a\x1b[31m\nb\u202e é") == "a?[31m?b? é"
