"""Fakes of what the health of a node is read from, for tests."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from holdfast_common.clock import Clock

from holdfast_nodeagent.processes import Process, Processes

T = TypeVar("T")


@dataclass
class FakeReader:
    """Stands for the NVML process: a test says its words to the watch itself."""

    stalls: int = 0
    restarts: int = 0
    runs: int = 0
    asked: int = 0
    """How often all was to be read at once."""

    async def run(self) -> None:
        """Read nothing, for ever."""
        self.runs += 1
        await asyncio.Event().wait()

    def read_now(self) -> None:
        """Count it."""
        self.asked += 1


@dataclass
class FakeLines:
    """A kernel log in memory."""

    clock: Clock
    records: list[tuple[int, float, str]] = field(default_factory=list)
    opened_after: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._news = asyncio.Event()

    def append(self, text: str) -> None:
        """Write a message."""
        self.records.append((len(self.records), self.clock.now(), text))
        self._news.set()

    def open(self, after_seq: int, on_caught_up: Callable[[], None]) -> "_OpenLines":
        """Open it as `KernelLog` does."""
        self.opened_after.append(after_seq)
        return _OpenLines(self, after_seq, on_caught_up)

    async def next(self, after_seq: int, on_caught_up: Callable[[], None]) -> tuple[int, float, str]:
        """Return the first message after one, once it is there."""
        while not (later := [record for record in self.records if record[0] > after_seq]):
            on_caught_up()
            self._news.clear()
            await self._news.wait()
        return later[0]


@dataclass
class _OpenLines:
    log: FakeLines
    after_seq: int
    on_caught_up: Callable[[], None]

    async def lines(self) -> AsyncGenerator[tuple[int, float, str]]:
        """Yield each message."""
        while True:
            record = await self.log.next(self.after_seq, self.on_caught_up)
            self.after_seq = record[0]
            yield record


@dataclass
class FakeCalls:
    """Makes calls at once, in this thread; those on a subject in `hanging` never return, those in `results` return that."""

    clock: Clock
    hanging: set[str] = field(default_factory=set)
    results: dict[str, Any] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    async def make(self, subject: str, call: Callable[[], T], limit_s: float) -> T:
        """Return what the call returns. Raises TimeoutError, once the limit is over, and OSError."""
        self.made.append(subject)
        if subject in self.hanging:
            await self.clock.sleep(limit_s)
            raise TimeoutError(subject)
        if subject in self.results:
            found: T = self.results[subject]
            return found
        return call()


class FakeProcesses(Processes):
    """A process table in memory: `table` by pid, `jobs` with a slurmstepd here (None: not clear), `owners` by pid."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[int, Process] = {}
        self.jobs: frozenset[int] | None = frozenset()
        self.owners: dict[int, int] = {}

    def get(self, pid: int) -> Process | None:
        """Return the process."""
        return self.table.get(pid)

    def step_jobs(self) -> frozenset[int] | None:
        """Return the jobs that are here."""
        return self.jobs

    def job_of(self, pid: int) -> int | None:
        """Return whose process it is."""
        return self.owners.get(pid)
