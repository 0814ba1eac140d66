"""A job while it runs: which attempt, where, and what it says of itself."""

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast_sandbox.demo.scenario import JobSpec
from holdfast_sandbox.history.model import Start
from holdfast_sandbox.history.reading import read_starts
from holdfast_sandbox.instances import Instances

LONGEST_STATUS = 65536
TAIL = 4096


@dataclass(frozen=True, slots=True)
class Report:
    """What an attempt says of itself in its status.json, and where its batch script runs."""

    attempt: int
    node: str
    status: dict[str, Any]
    age_s: float
    """Since it was written, at the latest: a change of state is written at once, progress about once a second."""


@dataclass(slots=True)
class LiveJob:
    """One submitted job; `folder` holds its checkpoints, `output` what it prints."""

    spec: JobSpec
    name: str
    job_id: int
    folder: Path
    output: Path
    out: Path
    """Its final state."""
    state: str = "PENDING"
    nodes: tuple[str, ...] = ()
    reclaimed: int = 0
    """How many machines it has lost."""
    _status_paths: dict[int, Path] = field(default_factory=dict)

    def starts(self) -> list[Start]:
        """Its batch script's starts so far."""
        return read_starts(self.folder / "starts.txt")

    def report(self, instances: Instances) -> Report | None:
        """What its newest attempt says of itself; None where it says nothing (yet, or any more)."""
        starts = self.starts()
        if not starts:
            return None
        last = starts[-1]
        if last.attempt not in self._status_paths:
            with suppress(LookupError):
                directory = instances.directory(last.node)
                self._status_paths[last.attempt] = directory / "run" / "jobs" / f"{self.job_id}.{last.attempt}" / "job" / "status.json"
        with suppress(KeyError, OSError, ValueError):
            path = self._status_paths[last.attempt]
            written = path.stat().st_mtime
            status = json.loads(path.read_bytes()[:LONGEST_STATUS])
            if isinstance(status, dict) and status.get("attempt") == last.attempt:
                return Report(last.attempt, last.node, status, time.time() - written)
        return None

    def steps_done(self) -> int:
        """How many steps its output names as done."""
        with suppress(OSError), self.output.open("rb") as file:
            file.seek(max(0, self.output.stat().st_size - TAIL))
            steps = re.findall(rb"^step (\d+) ", file.read(), re.MULTILINE)
            return int(steps[-1]) + 1 if steps else 0
        return 0

    @property
    def over(self) -> bool:
        """Whether Slurm has ended it, well or not."""
        return self.state not in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"}
