"""Live progress: a table that redraws itself on a terminal, plain lines elsewhere."""

import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from holdfast_sandbox.demo.live import LiveJob
from holdfast_sandbox.history.journal import read_journal

KEPT_LINES = 14
TOLD = frozenset(
    {"NoticeReceived", "Launch", "BindInstance", "RequeueJob", "StartJob", "PowerUpNode", "PowerDownNode", "ResumeFailed", "GiveUp"}
)
"""Kinds of the journal that are shown as they come."""


class Screen:
    """What the user sees while the demo runs; `journal` is read along once it is set."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._console = Console(file=self._stream, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None
        self._began = time.monotonic()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._table = _table([])
        self._seen: dict[str, str] = {}
        self._seq = 0
        self.journal: Path | None = None

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Tell one thing that has happened."""
        line = f"{time.monotonic() - self._began:6.1f} s  {text}"
        self._lines.append(line)
        if self._live is None:
            print(line, file=self._stream, flush=True)
        else:
            self._live.update(self._whole())

    def show(self, jobs: Iterable[LiveJob], statuses: Mapping[str, Mapping[str, Any]], following: Mapping[str, str]) -> None:
        """Show where everything stands, what the journal has that is new, and what is to befall which job next."""
        for text in self._news():
            self.say(f"    {text}")
        rows = [_row(job, statuses.get(job.name, {}), following.get(job.name, "")) for job in jobs]
        if self._live is not None:
            self._table = _table(rows)
            self._live.update(self._whole())
            return
        for name, state, nodes, phase, step, after in rows:
            told = " ".join(part for part in (state, f"on {nodes}" if nodes else "", phase) if part)
            if self._seen.get(name) != told:
                self._seen[name] = told
                self.say(f"{name}: {told}, step {step}" + (f"; next: {after}" if after else ""))

    def _whole(self) -> Group:
        return Group(self._table, Text(), *(Text(each, no_wrap=True, overflow="ellipsis") for each in self._lines))

    def _news(self) -> list[str]:
        if self.journal is None:
            return []
        with suppress(sqlite3.Error):  # not there yet, or busy: read at the next look
            entries = read_journal(self.journal, self._seq)
            self._seq = max([self._seq, *(entry.seq for entry in entries)])
            return [entry.text.partition(": ")[2] if "command" in entry.body else entry.text for entry in entries if entry.kind in TOLD]
        return []


def _row(job: LiveJob, status: Mapping[str, Any], following: str) -> tuple[str, ...]:
    """Name, Slurm's state, nodes, phase, step, what comes next."""
    if job.over:
        return job.name, job.state, "", "", f"{job.steps_done()}/{job.spec.steps}", ""
    phase = f"(attempt {status['attempt']}, {status.get('state', '')})" if job.nodes and "attempt" in status else ""
    return job.name, job.state, ", ".join(job.nodes), phase, f"{job.steps_done()}/{job.spec.steps}", following


def _table(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table("job", "Slurm", "nodes", "phase", "step", "next", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table
