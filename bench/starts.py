"""How long commands take that do nothing but start, as installed: nobody may wait for a cloud's library that is not used."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("holdfast-controller", "--version"),
    ("holdfast", "--help"),
    ("holdfast", "nodes", "--help"),
    ("holdfast-agent", "--version"),
)


def measure(repeats: int) -> dict[str, list[float]]:
    """Return seconds by command line, after one start each that fills the bytecode cache. Raises OSError, CalledProcessError."""
    found: dict[str, list[float]] = {}
    for words in COMMANDS:
        argv = [str(Path(sys.executable).parent / words[0]), *words[1:]]
        _run_s(argv)
        found[" ".join(words)] = [_run_s(argv) for _ in range(repeats)]
    return found


def _run_s(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)
    return time.perf_counter() - began
