"""What earlier attempts of a run saw, read back from their timeline (`attempts.jsonl`): how they ended, and how long saves took."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TAIL_BYTES = 1024 * 1024
"""So much of the file's end is read: some thousand saves."""
MOST_SAVES = 20
_TRAINED = frozenset({"first_step_done", "save_ended", "parked"})


@dataclass(frozen=True)
class Losses:
    """How attempts that had trained were lost: with their last step saved in time, or without (no notice, or too little of it)."""

    saved: int = 0
    missed: int = 0


NONE = Losses()


@dataclass(frozen=True)
class Save:
    """A save that succeeded: all ranks' bytes, and seconds until it was published."""

    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class History:
    """What is known of earlier attempts; `saves` oldest first."""

    losses: Losses = NONE
    saves: tuple[Save, ...] = ()


@dataclass
class _Attempt:
    trained: bool = False
    done: bool = False
    parked: bool = False
    saves: list[Save] = field(default_factory=list)

    def take(self, line: dict[str, Any]) -> None:
        event = line.get("event")
        self.trained = self.trained or event in _TRAINED
        if event == "done":
            self.done = True
        elif event == "parked":
            lost = line.get("steps_lost", 0)
            self.parked = not (isinstance(lost, int) and lost > 0)
        elif event == "unparked":
            self.parked = False
        elif event == "save_ended" and line.get("ok") is True and line.get("partial") is not True:
            size, seconds = line.get("bytes"), line.get("seconds")
            if isinstance(size, int) and isinstance(seconds, int | float) and size >= 0 and 0 <= seconds < 1e9:
                self.saves.append(Save(size, float(seconds)))


def parse(lines: Iterable[bytes], job_id: str, attempt: int) -> History:
    """Read a timeline's lines; those of the present attempt tell nothing of how it ends. Lines that are none are passed over."""
    attempts: dict[tuple[str, int], _Attempt] = {}
    for text in lines:
        line = _line(text)
        if line is not None:
            attempts.setdefault((line["job_id"], line["attempt"]), _Attempt()).take(line)
    saves = [save for each in attempts.values() for save in each.saves]
    attempts.pop((job_id, attempt), None)
    lost = [each for each in attempts.values() if each.trained and not each.done]
    parked = sum(each.parked for each in lost)
    return History(Losses(parked, len(lost) - parked), tuple(saves[-MOST_SAVES:]))


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("job_id"), str) or type(line.get("attempt")) is not int:
        return None
    return line


def read(path: Path, job_id: str, attempt: int) -> History:
    """Read the end of the timeline at `path`; nothing is known where it is absent or cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).split(b"\n")
    except OSError:
        return History()
    return parse(lines[1:] if size > TAIL_BYTES else lines, job_id, attempt)
