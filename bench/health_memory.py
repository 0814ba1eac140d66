"""CPU time and memory of a process with all its descendants."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.consumption import cpu_s

_PAGE = 4096
_PRESENT, _FRAME = 1 << 63, (1 << 55) - 1


@dataclass(frozen=True, slots=True)
class GroupMemory:
    """MiB, all processes together. What `pss` is depends on who else maps the same libraries; `alone` does not."""

    alone: float
    """Distinct pages: their PSS on a machine where nobody else has these libraries mapped."""
    pss: float
    rss: float
    private: float
    processes: int


def family(pid: int) -> list[int]:
    """Return a process and its descendants, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def group_cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU seconds of all, their ended children included. Raises OSError."""
    return sum(cpu_s(pid) for pid in pids)


def group_memory(pids: Sequence[int]) -> GroupMemory:
    """Return what they have now. Needs root for `alone` (the kernel hides frames from others). Raises OSError."""
    totals = {"Pss": 0, "Rss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in totals:
                totals[name] += int(rest.split()[0])
    frames = {frame for pid in pids for frame in _frames(pid)}
    private = totals["Private_Clean"] + totals["Private_Dirty"]
    return GroupMemory(len(frames) * _PAGE / 2**20, totals["Pss"] / 1024, totals["Rss"] / 1024, private / 1024, len(pids))


def _frames(pid: int) -> Iterator[int]:
    """Yield the physical pages that a process has mapped (Documentation/admin-guide/mm/pagemap.rst)."""
    with Path(f"/proc/{pid}/maps").open(encoding="utf-8") as maps, Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        for line in maps:
            first, last = (int(address, 16) for address in line.split()[0].split("-"))
            if first >= 1 << 63:
                continue  # the kernel's own page for system calls
            pagemap.seek(first // _PAGE * 8)
            entries = pagemap.read((last - first) // _PAGE * 8)
            yield from (entry & _FRAME for (entry,) in struct.iter_unpack("<Q", entries) if entry & _PRESENT)
