"""The journal: one append-only table of events (commands among them) in SQLite. It is crash recovery, `explain`, and the cost ledger.

Written by one thread, one transaction per batch (group commit), WAL with synchronous=FULL: what `write` has returned from survives a power
cut. A file that is no journal, or is broken, is set aside and a new one begun: that costs history, never a machine or a job.
Retention: events older than `RETENTION_S` are dropped when a snapshot is taken.
"""

import asyncio
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from holdfast_common.errors import Permanent
from pydantic import TypeAdapter

from holdfast_controller import commands, events
from holdfast_controller.fleet import Fleet
from holdfast_controller.journal_reader import Entry, JournalReader
from holdfast_controller.records import CommandRecord, InstanceRecord, JobRecord, LaunchRecord, Node

SCHEMA_VERSION = 1
SNAPSHOT_EVERY = 5000
RETENTION_S = 90 * 86400.0
MOST_DROPPED = 20_000
"""Events that one snapshot looks at for their age: four times as many as come between two snapshots."""

log = structlog.get_logger()
T = TypeVar("T")

_EVENTS: dict[str, TypeAdapter[events.Event]] = {
    cls.__name__: TypeAdapter(cls)
    for cls in vars(events).values()
    if isinstance(cls, type) and issubclass(cls, events.Event) and cls not in {events.Event, events.CommandIssued}
}
_COMMANDS: dict[str, TypeAdapter[commands.Command]] = {
    cls.__name__: TypeAdapter(cls) for cls in vars(commands).values() if isinstance(cls, type) and issubclass(cls, commands.Command)
}


@dataclass(frozen=True)
class _Issued:
    at: float
    command_id: int
    command: dict[str, Any]


_ISSUED = TypeAdapter(_Issued)
_FLEET = TypeAdapter(Fleet)
_PARTS: dict[str, TypeAdapter[Any]] = {
    "nodes": TypeAdapter(dict[str, Node]),
    "instances": TypeAdapter(dict[str, InstanceRecord]),
    "launches": TypeAdapter(dict[str, LaunchRecord]),
    "jobs": TypeAdapter(dict[int, JobRecord]),
}
"""What a fleet has many of. pydantic lets no other thread run while it writes (0.2 s for 1,000 nodes and 2,000 jobs): few at a time."""
_AT_A_TIME = 50

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, v INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, refs TEXT NOT NULL,
  text TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (seq INTEGER PRIMARY KEY, fleet TEXT NOT NULL);
"""
_INSERT = "INSERT INTO events (v, at, kind, refs, text, body) VALUES (?, ?, ?, ?, ?, ?)"


def encode(event: events.Event) -> tuple[str, str]:
    """Return kind and JSON body."""
    if isinstance(event, events.CommandIssued):
        kind = type(event.command).__name__
        body = json.loads(_COMMANDS[kind].dump_json(event.command))
        return kind, json.dumps({"at": event.at, "command_id": event.command_id, "command": body})
    kind = type(event).__name__
    return kind, _EVENTS[kind].dump_json(event).decode()


def decode(kind: str, body: str) -> events.Event | None:
    """Return the event, or None where this version does not know its kind or cannot read it: reconcile makes it good."""
    try:
        if kind in _COMMANDS:
            issued = _ISSUED.validate_json(body)
            return events.CommandIssued(issued.at, issued.command_id, _COMMANDS[kind].validate_python(issued.command))
        return _EVENTS[kind].validate_json(body) if kind in _EVENTS else None
    except (ValueError, TypeError):
        return None


def dump_fleet(fleet: Fleet) -> str:
    """Return the fleet as JSON; commands are stored as the journal stores them. For a thread: the loop goes on meanwhile."""
    rest = _FLEET.dump_json(fleet, exclude={"commands", "held", "seen", "living", "steps", "stepped", *_PARTS}).decode()
    parts = ",".join(f'"{name}":{{{",".join(_pieces(adapter, getattr(fleet, name)))}}}' for name, adapter in _PARTS.items())
    rows = ((*encode(record.issued), record.state, record.done_at, record.retry_at, record.tries) for record in fleet.commands.values())
    return f'{{"fleet":{rest[:-1]},{parts}}},"commands":[{",".join(json.dumps(row) for row in rows)}]}}'


def _pieces(adapter: TypeAdapter[Any], records: dict[Any, Any]) -> Iterator[str]:
    items = list(records.items())
    for start in range(0, len(items), _AT_A_TIME):
        yield adapter.dump_json(dict(items[start : start + _AT_A_TIME])).decode()[1:-1]


def load_fleet(text: str) -> Fleet | None:
    """Return the fleet of a snapshot, or None where this version cannot read it: then the events are replayed instead."""
    try:
        raw = json.loads(text)
        fleet = _FLEET.validate_python(raw["fleet"])
        for kind, body, *state in raw["commands"]:
            issued = decode(kind, body)
            if isinstance(issued, events.CommandIssued):
                fleet.commands[issued.command.key] = CommandRecord(issued, *state)
        fleet.reindex()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        log.warning("a snapshot cannot be read: the events are replayed instead")
        return None
    return fleet


class Journal:
    """The file, the one thread that writes it, and the one that reads it for people."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = ThreadPoolExecutor(1, "journal")
        self._reader = JournalReader(path)
        self._since_snapshot = 0
        self._db: sqlite3.Connection | None = None

    async def open(self, nodes: frozenset[str] = frozenset()) -> Fleet:
        """Open or begin the file, and return the fleet as of its last event. `nodes` are those that the policy manages."""
        return await self._run(lambda: self._open(nodes))

    async def write(self, batch: Sequence[events.Event]) -> list[int]:
        """Append the events, durably; return their sequence numbers."""
        rows = [(SCHEMA_VERSION, event.at, *_row(event)) for event in batch]
        return await self._run(lambda: self._write(rows))

    async def snapshot_if_due(self, fleet: Fleet, seq: int, now: float) -> None:
        """Store the fleet as of `seq` every `SNAPSHOT_EVERY` events, and drop what is older than the retention."""
        if self._since_snapshot >= SNAPSHOT_EVERY:
            self._since_snapshot = 0
            # The reactor, which alone changes what the fleet holds, waits for it; a policy that is set meanwhile adds nodes or drops them.
            await self._run(lambda: self._snapshot(dump_fleet(fleet), seq, now))

    async def read(self, after_seq: int = 0, ref: str = "", newest: int = 0, limit: int = 1000) -> list[Entry]:
        """Return entries after a sequence number, or the `newest` N, in order; only those about `ref` (`node:NAME`) where given.

        Never in the writer's way. Raises Temporary where it takes too long, too many read at a time, or the file cannot be read.
        """
        return await self._reader.read(after_seq, ref, newest, limit)

    async def close(self) -> None:
        """Close the file."""
        await self._reader.close()
        await self._run(lambda: self._connection().close())
        self._pool.shutdown()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None, "open() comes first"
        return self._db

    def _open(self, nodes: frozenset[str]) -> Fleet:
        try:
            return self._load(nodes)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                # A full disk, a lock, a missing right: the file may be as good as ever.
                raise Permanent(f"the journal {self.path} cannot be opened: {error}") from error
            aside = self.path.with_name(f"{self.path.name}.broken-{secrets.token_hex(4)}")
            log.error(
                "the journal cannot be read: it is set aside and a new one begun", path=str(self.path), aside=str(aside), error=str(error)
            )
            for suffix in ("", "-wal", "-shm"):
                if Path(f"{self.path}{suffix}").exists():
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
            return self._load(nodes)

    def _load(self, nodes: frozenset[str]) -> Fleet:
        old = os.umask(0o077)
        try:
            self._db = db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        finally:
            os.umask(old)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.executescript(_TABLES)
        row = db.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()
        if row is None:
            epoch = secrets.token_hex(4)
            db.execute("INSERT INTO meta VALUES ('epoch', ?)", (epoch,))
            return Fleet(epoch=epoch, fresh=True)
        return self._replay(db, row[0], nodes)

    def _replay(self, db: sqlite3.Connection, epoch: str, nodes: frozenset[str]) -> Fleet:
        fleet, after = Fleet(epoch=epoch, fresh=True), 0  # until a CloudListed is replayed
        row = db.execute("SELECT seq, fleet FROM snapshots ORDER BY seq DESC LIMIT 1").fetchone()
        if row is not None:
            loaded = load_fleet(row[1])
            after, fleet = (row[0], loaded) if loaded is not None else (0, fleet)
        pending: list[events.Event] = []
        skipped = 0
        for version, kind, body in db.execute("SELECT v, kind, body FROM events WHERE seq > ? ORDER BY seq", (after,)):
            event = decode(kind, body) if version == SCHEMA_VERSION else None
            if event is not None:
                pending.append(event)
            skipped += event is None
        _know_nodes(fleet, pending, nodes)
        for event in pending:
            try:
                fleet.apply(event)
            except Exception as error:  # one bad row must not keep the controller from its jobs for ever
                skipped += 1
                log.warning(
                    "an event of the journal cannot be applied", kind=type(event).__name__, error=f"{type(error).__name__}: {error}"
                )
        if skipped:
            log.warning("events of the journal were skipped: the next looks make them good", count=skipped)
        self._since_snapshot = len(pending)
        # A journal that was rolled back must not use launch ids again.
        fleet.epoch = f"{epoch}{secrets.token_hex(2)}"
        fleet.cloud_listed, fleet.looked_at, fleet.steady_since = False, 0.0, 0.0
        for record in fleet.instances.values():
            record.connected = False
        return fleet

    def _write(self, rows: Sequence[tuple[object, ...]]) -> list[int]:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            seqs = [
                db.execute("INSERT INTO events (v, at, kind, refs, text, body) VALUES (?,?,?,?,?,?)", row).lastrowid or 0 for row in rows
            ]
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        self._since_snapshot += len(rows)
        return seqs

    def _snapshot(self, text: str, seq: int, now: float) -> None:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (seq, text))
        db.execute("DELETE FROM snapshots WHERE seq < ?", (seq,))
        # From the old end, and no more at a time than that: the whole journal is millions of rows, and the reactor waits.
        oldest = "SELECT seq FROM events WHERE seq <= ? ORDER BY seq LIMIT ?"
        db.execute(f"DELETE FROM events WHERE seq IN ({oldest}) AND at < ?", (seq, MOST_DROPPED, now - RETENTION_S))  # noqa: S608
        db.execute("COMMIT")


def _row(event: events.Event) -> tuple[str, str, str, str]:
    kind, body = encode(event)
    refs = event.refs()
    return kind, "|" + "|".join(refs) + "|" if refs else "", str(event), body


def _know_nodes(fleet: Fleet, pending: Iterable[events.Event], nodes: frozenset[str]) -> None:
    """Events speak of node names that the policy made known to the fleet at the time: know them, and `nodes`, before they are replayed."""
    names = {ref.removeprefix("node:") for event in pending for ref in event.refs() if ref.startswith("node:")}
    fleet.manage(frozenset(names) | frozenset(fleet.nodes) | nodes)
