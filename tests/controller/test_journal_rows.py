"""A journal into which something else has written: what cannot be used is skipped, and the controller starts."""

import json
import sqlite3

import pytest
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import events as e
from holdfast_controller.fleet import Fleet
from holdfast_controller.journal import Journal

GOOD = e.NoticeReceived(7.0, "n1", Notice("x", NoticeKind.PREEMPT, 2.0, 1.0, "reclaim"))
BAD = [
    (1, 1.0, "SomethingFromTheFuture", "", "", "{}"),
    (1, 1.0, "NodeChanged", "", "", "{"),
    (1, 1.0, "NodeChanged", "", "", b"\xff\x00"),
    (1, 1.0, "Launch", "", "", "[]"),
    (1, 1.0, "Launch", "", "", "null"),
    (1, 1.0, "Launch", "", "", json.dumps({"at": "soon", "command_id": 1, "command": {}})),
    (1, 1.0, "Launch", "", "", json.dumps({"at": 1.0, "command_id": "x", "command": []})),
    (1, 1.0, "Launch", "", "", "[" * 3000 + "]" * 3000),
    (1, "soon", "CloudListed", 5, "", "{}"),
    (1, 1.0, b"\x00", b"|node:n1|", b"", b""),
    (2, 1.0, "NoticeReceived", "|node:n2|", "", json.dumps({"at": 1.0, "node": "n2", "notice": None, "source": "agent"})),
]


async def test_rows_that_cannot_be_used_are_skipped_and_read_by_people_all_the_same(tmp_path) -> None:
    journal = Journal(tmp_path / "j")
    await journal.open()
    await journal.write([GOOD])
    await journal.close()
    with sqlite3.connect(tmp_path / "j") as db:
        db.executemany("INSERT INTO events (v, at, kind, refs, text, body) VALUES (?, ?, ?, ?, ?, ?)", BAD)
        db.execute("INSERT INTO snapshots VALUES (0, ?)", ("[" * 3000,))
    journal = Journal(tmp_path / "j")
    fleet = await journal.open(frozenset({"n1", "n2"}))
    assert fleet.nodes["n1"].notices.keys() == {"x"}
    assert len(await journal.read()) == 1 + len(BAD)
    await journal.write([GOOD])
    await journal.close()


async def test_an_event_that_the_fleet_cannot_take_keeps_nobody_from_starting(tmp_path, monkeypatch) -> None:
    journal = Journal(tmp_path / "j")
    await journal.open()
    await journal.write([e.CloudListed(1.0), GOOD])
    await journal.close()
    apply = Fleet.apply

    def choke(self: Fleet, event: e.Event) -> Fleet:
        if isinstance(event, e.CloudListed):
            raise KeyError("a fault of ours, or a foreign row")
        return apply(self, event)

    monkeypatch.setattr(Fleet, "apply", choke)
    fleet = await Journal(tmp_path / "j").open(frozenset({"n1"}))
    assert fleet.nodes["n1"].notices.keys() == {"x"}


async def test_a_table_of_another_shape_is_told_and_left_alone(tmp_path) -> None:
    with sqlite3.connect(tmp_path / "j") as db:
        db.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, something TEXT)")
        db.execute("CREATE TABLE meta (key TEXT, value TEXT)")
        db.execute("INSERT INTO meta VALUES ('epoch', 'abc')")
    with pytest.raises(Exception, match="cannot be opened: no such column"):
        await Journal(tmp_path / "j").open()
    assert (tmp_path / "j").exists(), "it may be good for a newer version"
