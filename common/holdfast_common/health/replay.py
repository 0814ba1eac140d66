"""What rules would have found in a recording, and when: the agent's own judge, with the recording's time. Pure."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from holdfast_common.health.judge import Judge
from holdfast_common.health.kernel import parse_line
from holdfast_common.health.model import Action, Finding, GpuEvent, Sample, worst
from holdfast_common.health.recording import Entry, Places, Said, Tenancy, parse_entry, whole
from holdfast_common.health.rules import Rules

MOST_BAD = 100
"""So many bad lines are named; all are counted."""
MOST_JOBS = 4096
"""So many jobs are known at a time; the oldest is forgotten."""
_PCI = re.compile(r"(?:PCI:)?(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-9a-f])?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Change:
    """A finding began, changed (its action, strikes or jobs) or ended."""

    at: float
    what: Literal["began", "changed", "ended"]
    finding: Finding
    node: Action | None
    """What all findings together ask for from then on; None: nothing."""


class Replay:
    """Replays one recording of one node."""

    def __init__(self, rules: Rules) -> None:
        self._judge = Judge(rules)
        self._pci: dict[str, str] = {}
        self._jobs: dict[int, Tenancy] = {}
        self._shown: dict[str, Finding] = {}
        self._due: float | None = None
        self.lines = self.events = self.readings = self.bad = 0
        self.bad_lines: deque[tuple[int, str]] = deque(maxlen=MOST_BAD)
        """Line number and fault of the last ones."""
        self.began_at: float | None = None
        self.now = 0.0
        """The newest time of the recording."""

    def run(self, lines: Iterable[str]) -> Iterator[Change]:
        """Yield the changes in their order. A line that is not understood is counted, and the rest goes on."""
        unlooked = False
        for number, line in whole(self._counted(lines)):
            try:
                entry = parse_entry(line)
            except ValueError as error:
                self.bad += 1
                self.bad_lines.append((number, str(error)))
                continue
            if entry is None:
                continue
            if entry.at > self.now:
                if unlooked:
                    yield from self._look(self.now)
                yield from self._pass(entry.at)
            unlooked = self._take(entry) or (unlooked and entry.at <= self.now)
            self.now = max(self.now, entry.at)
            self.began_at = entry.at if self.began_at is None else self.began_at
        yield from self._look(self.now)

    def _counted(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self.lines += 1
            yield line

    def _take(self, entry: Entry) -> bool:
        """Take an entry in; return whether findings may have changed."""
        if isinstance(entry, Sample):
            self.readings += 1
            self._judge.take(replace(entry, gpu=self._uuid(entry.gpu)))
        elif isinstance(entry, Tenancy):
            self._jobs.pop(entry.job_id, None)
            if entry.pids or entry.gpus:
                self._jobs[entry.job_id] = replace(entry, gpus=frozenset(self._uuid(gpu) for gpu in entry.gpus))
            if len(self._jobs) > MOST_JOBS:
                del self._jobs[next(iter(self._jobs))]
            return False
        elif isinstance(entry, Places):
            self._pci = {_address(pci): uuid for uuid, pci in entry.pci.items()}
            return False
        else:
            return self._hear(entry)
        return True

    def _hear(self, said: Said) -> bool:
        event = parse_line(said.text, said.at)
        if event is None:
            return False
        self.events += 1
        gpu = self._uuid(event.gpu)
        self._judge.hear(replace(event, gpu=gpu, job_id=self._blamed(event, gpu)))
        return True

    def _blamed(self, event: GpuEvent, gpu: str) -> int:
        """Return the job of the process that the driver names, else the only one on the GPU; 0: not known. As the agent does."""
        owners = [job.job_id for job in self._jobs.values() if event.pid in job.pids]
        tenants = [job.job_id for job in self._jobs.values() if gpu in job.gpus]
        return owners[-1] if owners else tenants[0] if len(tenants) == 1 else 0

    def _uuid(self, gpu: str) -> str:
        address = _address(gpu)
        return self._pci.get(address, address)

    def _pass(self, until: float) -> Iterator[Change]:
        """Look at each time before `until` at which something may be over by itself."""
        while self._due is not None and self._due < until:
            yield from self._look(self._due)

    def _look(self, at: float) -> Iterator[Change]:
        found = self._judge.findings(at)
        verdict = worst(found)
        node = verdict.action if verdict is not None else None
        holds = {finding.key: finding for finding in found}
        for key, old in self._shown.items():
            if key not in holds:
                yield Change(at, "ended", old, node)
        for key, finding in holds.items():
            known = self._shown.get(key)
            if known is None:
                yield Change(at, "began", finding, node)
            elif (known.action, known.strikes, known.job_ids) != (finding.action, finding.strikes, finding.job_ids):
                yield Change(at, "changed", finding, node)
        self._shown = holds
        self._due = self._judge.next_due(at)


def _address(gpu: str) -> str:
    """Return `PCI:0000:3b:00` for a PCI address in any form, anything else as it is."""
    match = _PCI.fullmatch(gpu)
    return f"PCI:{int(match[1] or '0', 16):04x}:{match[2].lower()}:{match[3].lower()}" if match else gpu
