"""What the hook in the command's Python processes tells: a file of lines in a folder of ours, which all of them append to."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.wrap.guard import EVENTS

_MOST_BYTES = 1 << 20


@dataclass
class Seen:
    """All that was told so far."""

    pythons: int = 0
    saves: int = 0
    last_saved: str = ""
    folders: set[str] = field(default_factory=set)
    """Where files were saved."""
    under_way: set[tuple[int, str]] = field(default_factory=set)
    save_s: float | None = None
    handlers: dict[int, tuple[str, int]] = field(default_factory=dict)
    """By pid: the framework, and the signal for which it has set its handler."""


class Events:
    """The folder, and how far its file has been read. Whatever is no well-formed line is passed over. Raises OSError."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-run-"))
        self._file = self.folder / EVENTS
        self._file.touch(mode=0o600)
        self._offset = 0
        self.seen = Seen()

    def read(self) -> Seen:
        """Take in what is new."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_MOST_BYTES)
        except OSError:
            return self.seen
        whole = data.rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        if not whole and len(data) == _MOST_BYTES:
            self._offset += len(data)
        for line in whole.split(b"\n"):
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
        return self.seen

    def _take(self, event: dict[str, Any]) -> None:
        seen, kind, pid = self.seen, event["event"], int(event["pid"])
        if kind == "python":
            seen.pythons += 1
        elif kind == "save_began":
            seen.under_way.add((pid, event["path"]))
        elif kind in ("saved", "save_failed"):
            seen.under_way.discard((pid, event["path"]))
            if kind == "saved":
                seen.saves += 1
                seen.last_saved, seen.save_s = str(event["path"]), float(event["seconds"])
                seen.folders.add(os.path.dirname(event["path"]))
        elif kind == "handler":
            seen.handlers[pid] = (str(event["framework"])[:50], int(event["signal"]))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
