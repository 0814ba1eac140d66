"""Reading the controller's journal beside it, while it is being written."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from holdfast_sandbox.history.model import JournalEntry


def read_journal(path: Path, after_seq: int = 0) -> list[JournalEntry]:
    """Return the entries after a sequence number. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
        rows = database.execute("SELECT seq, at, kind, text, body FROM events WHERE seq > ? ORDER BY seq", (after_seq,)).fetchall()
    return [JournalEntry(seq=seq, at=at, kind=kind, text=text, body=json.loads(body)) for seq, at, kind, text, body in rows]
