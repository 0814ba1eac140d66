"""Reading the journal for people, on a connection and a thread of its own: a long search must not delay what is to be written.

Bounded: a search is ended after `READ_S`, and at most `MAX_WAITING` wait for their turn.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from holdfast_common.errors import Temporary

READ_S = 10.0
MAX_WAITING = 256
T = TypeVar("T")
_STEPS = 20_000
"""SQLite's instructions between two looks at the clock: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal, for people and for `explain`."""

    seq: int
    at: float
    kind: str
    refs: tuple[str, ...]
    text: str
    body: str


class JournalReader:
    """The file, opened for reading only, when it is first asked for."""

    def __init__(self, path: Path, limit_s: float = READ_S) -> None:
        self._path = path
        self._limit_s = limit_s
        self._pool = ThreadPoolExecutor(1, "journal-reader")
        self._db: sqlite3.Connection | None = None
        self._waiting = 0

    async def read(self, after_seq: int, ref: str, newest: int, limit: int) -> list[Entry]:
        """Return entries as `Journal.read` does. Raises Temporary where too many wait, it takes too long, or the file cannot be read."""
        if self._waiting >= MAX_WAITING:
            raise Temporary(f"{self._waiting} others wait to read the journal")
        self._waiting += 1
        try:
            return await self._run(lambda: self._read(after_seq, ref, newest, limit))
        except sqlite3.Error as error:
            slow = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
            said = f"the search was ended after {self._limit_s:g} s" if slow else str(error)
            raise Temporary(f"the journal cannot be read now: {said}") from error
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._close)
        self._pool.shutdown()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _read(self, after_seq: int, ref: str, newest: int, limit: int) -> list[Entry]:
        query, arguments = "SELECT seq, at, kind, refs, text, body FROM events WHERE seq > ?", [after_seq]
        values: list[object] = list(arguments)
        if ref:
            query += " AND instr(refs, ?) > 0"
            values.append(f"|{ref}|")
        query += " ORDER BY seq DESC LIMIT ?" if newest else " ORDER BY seq LIMIT ?"
        values.append(newest or limit)
        if self._db is None:
            self._db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        end = time.monotonic() + self._limit_s
        self._db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        entries = [_entry(row) for row in self._db.execute(query, values).fetchall()]
        return entries[::-1] if newest else entries


def _entry(row: tuple[Any, ...]) -> Entry:
    """Return a row as an entry; a foreign hand may have written anything into it."""
    seq, at, kind, refs, text, body = row
    known = tuple(part for part in str(refs).split("|") if part)
    return Entry(seq, at if isinstance(at, float) else 0.0, str(kind), known, str(text), str(body))
