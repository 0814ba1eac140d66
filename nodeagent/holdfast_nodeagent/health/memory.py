"""The node's memory, from /proc/meminfo and /proc/pressure/memory."""

import re
from pathlib import Path

from holdfast_common.health.model import Sample

_FULL = re.compile(r"^full .*\bavg60=(\d{1,3}(?:\.\d+)?)", re.MULTILINE)
_FIELD = re.compile(r"^(MemTotal|MemAvailable):\s+(\d{1,20}) kB$", re.MULTILINE)


def memory_samples(proc: Path, at: float) -> list[Sample]:
    """Read both. A kernel without PSI (before 4.20, or booted with psi=0) does not tell of pressure."""
    return [_available(proc, at), _pressure(proc, at)]


def _available(proc: Path, at: float) -> Sample:
    try:
        fields = {name: int(value) for name, value in _FIELD.findall((proc / "meminfo").read_text())}
        return Sample(at, "memory_available_ratio", fields["MemAvailable"] / fields["MemTotal"])
    except (OSError, KeyError, ZeroDivisionError) as error:
        return Sample(at, "memory_available_ratio", state="failed", detail=f"{type(error).__name__}: {error}"[:200])


def _pressure(proc: Path, at: float) -> Sample:
    try:
        found = _FULL.search((proc / "pressure" / "memory").read_text())
    except OSError:
        found = None
    if found is None:
        return Sample(at, "memory_pressure_ratio", state="unsupported", detail="no PSI")
    return Sample(at, "memory_pressure_ratio", float(found[1]) / 100)
