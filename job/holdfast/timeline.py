"""Each attempt's own record of what happened when: one JSON object per line.

Where: `job/timeline.rank<r>.jsonl` in the job directory (every rank, at most 64 KiB, gone with the attempt), and
`attempts.jsonl` in the checkpoint directory (rank 0, durable, one file over all attempts).

Keys of each line: v (1), event, t (Unix seconds), job_id, attempt, rank, node, pid. Events and their own keys, in the order
in which they come:

- process_start: the kernel started the interpreter
- library_imported: `import holdfast` ran
- torch_loaded: PyTorch was loaded, at the latest (`holdfast.mark("torch_loaded")` after the import makes it exact)
- checkpoint_unusable: checkpoint, file, reason; one line for each that is passed over on the way to the one that is used
- resumed: step, checkpoint (name, or null for a fresh start), seconds (verifying and loading)
- first_step, first_step_done: step (its body began, its body ended)
- notice_seen: id, kind, action, deadline, received; t is when the rank saw it. attempts.jsonl has rank 0's, and that of the
  rank whose notice the ranks followed (its rank and node); the first of them counts
- save_began: step, why (`notice`, `due`, `asked`, `final`), expected_s
- save_ended: step, why, ok, seconds, error (or null), and of one that succeeded bytes, checkpoint, partial, blocked_s (for which
  training stood still; it goes on while the rest is written)
- parked: step, notice_id, saved_step, steps_lost; no save comes before it where that very step was saved already
- unparked: step, notice_id (the reclaim was cancelled)
- done: step; or left: step, where the loop was left before its end (by break, or by an exception)

and whatever a script marks itself with `holdfast.mark(event, **keys)`.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.files import LIMIT_BYTES, append_line
from holdfast.process import IMPORTED, started

NAME = "attempts.jsonl"
_early: list[tuple[str, float, dict[str, Any]]] = [("library_imported", IMPORTED, {})]


def mark_early(event: str, t: float, keys: dict[str, Any]) -> None:
    """Keep an event from before there is a Run; the next Run writes it."""
    _early.append((event, t, keys))


def early() -> list[tuple[str, float, dict[str, Any]]]:
    """The events so far, taken: a second Run of the process does not write them again."""
    taken = [("process_start", started(), {}), *_early] if _early else []
    _early.clear()
    return taken


class Timeline:
    """Keeps events until `open` says where they go, then writes them. Trouble is told once and never stops training."""

    def __init__(self, clock: Clock, warn: Callable[[str], None]) -> None:
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] | None = [{"event": event, "t": t, **keys} for event, t, keys in early()]
        self._identity: dict[str, Any] = {}
        self._local: Path | None = None
        self._local_bytes = 0
        self._durable: Path | None = None
        self._failed = False

    def open(self, local: Path | None, durable: Path | None, **identity: Any) -> None:
        """From now on write to these files (None: not there), each line with `identity`; first what has waited."""
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
            self._identity, self._local, self._durable = identity, local, durable
            for line in waiting:
                self._write(line)

    def waits(self, event: str) -> bool:
        """Whether such an event is among those kept so far."""
        return any(line["event"] == event for line in self._waiting or [])

    def event(self, event: str, *, t: float | None = None, **keys: Any) -> None:
        """Record an event; `t` defaults to now. Keys of the identity may be overridden (an event of another rank)."""
        line = {"event": event, "t": self._clock.wall() if t is None else t, **keys}
        with self._lock:
            if self._waiting is None:
                self._write(line)
            else:
                self._waiting.append(line)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps({"v": 1, **self._identity, **line}, default=str)
        try:
            if self._local is not None and self._local_bytes + len(text) < LIMIT_BYTES:
                self._local_bytes += len(text) + 1
                append_line(self._local, text, durable=False)
            if self._durable is not None:
                append_line(self._durable, text, durable=True)
        except OSError as fault:
            if not self._failed:
                self._warn(f"cannot write the timeline: {fault}")
            self._failed = True
