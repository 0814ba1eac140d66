"""CPU time and memory of a process, from /proc (proc(5))."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB. `pss` shares out what several processes have in common (libraries, the interpreter); `rss` counts it whole."""

    pss: float
    rss: float


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of the process and of its children that have ended (its scontrol and squeue). Raises OSError."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in after_name[11:15]) / TICKS_PER_S


def memory_mib(pid: int) -> Memory:
    """Return its memory now. Raises OSError."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.endswith("kB")}
    return Memory(kib["Pss"] / 1024, kib["Rss"] / 1024)


def find(words: Sequence[str]) -> list[int]:
    """Return the processes whose command line holds each of the words as an argument of its own."""
    return [pid for pid, arguments in _commands() if set(words) <= set(arguments)]


def _commands() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            except OSError:
                continue  # it has ended
