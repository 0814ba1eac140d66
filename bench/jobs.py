"""Batch scripts whose first line notes when it ran, and what they have noted."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast_common.nodeset import expand

WORKER = Path(__file__).with_name("worker.py")

_FIRST = """\
#!/bin/bash
echo "${{SLURM_RESTART_COUNT:-0}} $(date +%s.%N) $SLURM_JOB_NODELIST" >>{starts}
"""
_RANK = 'RANK=0 WORLD_SIZE=1 HOLDFAST_CHECKPOINT_DIR={folder}/rank-"${{SLURM_PROCID:-0}}" exec {python} {worker}'
_ONE = _FIRST + _RANK + "\n"
_SEVERAL = _FIRST + "exec srun --ntasks-per-node=1 bash -c {rank}\n"


@dataclass(frozen=True, slots=True)
class Start:
    """One attempt's first line."""

    attempt: int
    at: float
    """Unix seconds."""
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the benchmark and the folder of its notes. Each rank is a run of its own: agreement between ranks needs PyTorch."""

    folder: Path
    nodes: int

    def write_script(self, python: Path) -> Path:
        """Write the batch script of a job that registers with Holdfast, and return its path. Raises OSError."""
        rank = _RANK.format(folder=shlex.quote(str(self.folder)), python=shlex.quote(str(python)), worker=shlex.quote(str(WORKER)))
        text = (_ONE if self.nodes == 1 else _SEVERAL).format(
            starts=shlex.quote(str(self._starts)),
            rank=shlex.quote(rank),
            folder=shlex.quote(str(self.folder)),
            python=shlex.quote(str(python)),
            worker=shlex.quote(str(WORKER)),
        )
        return self._write(text)

    def write_plain_script(self, body: str) -> Path:
        """Write the batch script of a job that knows nothing of Holdfast."""
        return self._write(_FIRST.format(starts=shlex.quote(str(self._starts))) + body + "\n")

    def starts(self) -> list[Start]:
        """Return the first lines so far."""
        try:
            lines = self._starts.read_text(encoding="ascii").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        words = [line.split() for line in lines if line.endswith("\n")]
        return [Start(int(attempt), float(at), tuple(expand(nodes))) for attempt, at, nodes in words]

    def events(self) -> list[list[dict[str, Any]]]:
        """Return each rank's own record (`holdfast.timeline`)."""
        found = []
        for path in sorted(self.folder.glob("rank-*/attempts.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            found.append([json.loads(line) for line in lines if line.endswith("\n")])
        return found

    def loading(self, attempt: int) -> dict[str, float] | None:
        """Return when the slowest rank's interpreter began, had the library, had resumed, and had done a step (Unix seconds)."""
        wanted = ("process_start", "library_imported", "resumed", "first_step_done")
        found: dict[str, float] = {}
        for rank in self.events():
            times = {event["event"]: float(event["t"]) for event in reversed(rank) if event["attempt"] == attempt}
            if any(name not in times for name in wanted):
                return None
            found = {name: max(found.get(name, 0.0), times[name]) for name in wanted}
        return found or None

    def training(self, attempt: int) -> bool:
        """Whether every rank has done a step in the attempt."""
        done = [any(event["event"] == "first_step_done" and event["attempt"] == attempt for event in rank) for rank in self.events()]
        return len(done) == self.nodes and all(done)

    @property
    def _starts(self) -> Path:
        return self.folder / "starts.txt"

    def _write(self, text: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.sh"
        path.write_text(text, encoding="utf-8")
        return path
