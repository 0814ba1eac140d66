"""What the job tells its node: `job/rank.<r>.json` and, by rank 0, `job/status.json`.

A change of state is written at once, progress about once a second. Trouble with these files never stops training.
"""

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.files import replace

PROGRESS_EVERY_S = 1.0
_METRICS = 32


class Report:
    """One JSON file that is replaced as a whole. `path` None: nothing is written (no job directory)."""

    def __init__(self, path: Path | None, clock: Clock, warn: Callable[[str], None], **content: Any) -> None:
        self._path = path
        self._clock = clock
        self._warn = warn
        self._content: dict[str, Any] = {"v": 1, **content}
        self._lock = threading.Lock()
        self._written_at = -math.inf
        self._failed = False

    def now(self, **changes: Any) -> None:
        """Take the changes and write them at once."""
        with self._lock:
            self._content |= changes
            self._write()

    def due(self, now: float) -> bool:
        """Whether a second has passed, by the monotonic clock's time `now`, since it was written."""
        return now - self._written_at >= PROGRESS_EVERY_S

    def _write(self) -> None:
        self._written_at = self._clock.monotonic()
        if self._path is None:
            return
        try:
            replace(self._path, json.dumps(self._content, allow_nan=False).encode())
        except (OSError, ValueError) as fault:
            if not self._failed:
                self._warn(f"cannot write {self._path}: {fault}")
            self._failed = True
        else:
            self._failed = False


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The first 32 metrics that are finite numbers (or 1-element tensors), by name.

    Reading a tensor waits for its GPU, so this is called for what is written, about once a second, not for each step.
    """
    found: dict[str, float] = {}
    for name, value in list(metrics.items())[:_METRICS]:
        try:
            number = float(value.detach() if hasattr(value, "detach") else value)  # of a tensor with gradient, float() alone warns
        except (TypeError, ValueError, RuntimeError):
            continue
        if math.isfinite(number):
            found[str(name)[:64]] = number
    return found
