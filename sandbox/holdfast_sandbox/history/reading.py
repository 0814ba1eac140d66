"""Reading what jobs, Slurm and the controller wrote, from where each of them wrote it."""

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast_sandbox.history.model import Start
from holdfast_sandbox.layout import Layout
from holdfast_sandbox.processes import command_line, with_environment

KEPT_OF_SLURM = ("JobState", "Reason", "ExitCode", "Restarts", "NodeList", "Partition", "StartTime", "EndTime", "Comment", "AdminComment")
LINGER_S = 2.0
_STEP = re.compile(r"^step (\d+) attempt (\d+)\b", re.MULTILINE)
_COMPLETION = re.compile(r"^JobId=(\d+) .*?JobState=(\S+)", re.MULTILINE)


def journal_path(layout: Layout) -> Path:
    """Where the controller keeps its journal."""
    return layout.controller_state / "journal.sqlite"


def read_starts(path: Path) -> list[Start]:
    """Return the complete lines of a starts.txt; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    words = [line.split() for line in lines if line.endswith("\n")]
    return [Start(float(t), int(attempt), node) for t, attempt, node in words]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return a JSON-lines file's objects; a last line that was cut off is left out. Raises OSError, ValueError."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def read_steps(output: str) -> list[tuple[int, int, int]]:
    """Return (attempt, first step, last step) of each unbroken run of `step N attempt A …` lines, in the order of printing."""
    runs: list[tuple[int, int, int]] = []
    for match in _STEP.finditer(output):
        step, attempt = int(match[1]), int(match[2])
        if runs and runs[-1][0] == attempt and runs[-1][2] == step - 1:
            runs[-1] = (attempt, runs[-1][1], step)
        else:
            runs.append((attempt, step, step))
    return runs


def read_completions(path: Path) -> dict[int, list[str]]:
    """Return the JobStates that Slurm's completion log has for each job, in order."""
    found: dict[int, list[str]] = {}
    with suppress(FileNotFoundError):
        for match in _COMPLETION.finditer(path.read_text(encoding="utf-8")):
            found.setdefault(int(match[1]), []).append(match[2])
    return found


def leftovers(root: Path) -> list[str]:
    """Return the command lines of processes of the sandbox that was in `root`: each has its directory in its environment."""
    return _told(with_environment("HOLDFAST_SANDBOX_DIR", str(root)))


def lasting_leftovers(root: Path) -> list[str]:
    """Return what of the sandbox is alive still; the kernel may need a moment to bury the last."""
    until = time.monotonic() + LINGER_S
    while (left := leftovers(root)) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def _told(pids: Iterable[int]) -> list[str]:
    return [f"{pid}: {' '.join(command_line(pid))[:200]}" for pid in pids if command_line(pid)]
