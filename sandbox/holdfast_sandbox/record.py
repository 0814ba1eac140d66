"""The cloud's own account of what happened: one JSON object a line, appended, never rewritten."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


class Record:
    """Appends events to `cloud.jsonl`; each line is handed to the kernel at once, so that kill -9 loses none."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self._now = now
        self._file: IO[str] = path.open("a", buffering=1)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event with the present time as `t` (Unix seconds)."""
        self._file.write(json.dumps({"t": self._now(), "event": event, **fields}, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_record(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a record (a last line that is still being written is left out)."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
