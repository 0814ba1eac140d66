"""The journal: durable, replayed to the same fleet, skipped where it cannot be read, set aside where it is broken."""

import asyncio
import sqlite3

import pytest
from holdfast_common.errors import Permanent, Temporary
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView, NodeView
from holdfast_controller import commands as c
from holdfast_controller import events as e
from holdfast_controller import journal as journal_module
from holdfast_controller import journal_reader
from holdfast_controller.journal import Journal, decode, encode
from holdfast_controller.providers.base import Fault, FaultKind, Instance

NOTICE = Notice("x", NoticeKind.PREEMPT, 2.0, 1.0, "reclaim")
EVENTS = [
    e.NodesRequested(1.0, ("n1", "n2"), 7),
    e.NodeChanged(2.0, NodeView("n1", "ALLOCATED", frozenset({"CLOUD", "POWERING_UP"}), "why", "10.0.0.1", ("spot",), 1.5)),
    e.JobChanged(3.0, JobView(7, "7", "CONFIGURING", nodes=("n1", "n2"), comment="holdfast: signal=USR1")),
    e.CommandIssued(4.0, 1, c.Launch("launch:hf-1", "why", "hf-1", "aws/r/a/g/spot", ("n1", "n2"), 7)),
    e.LaunchEnded(5.0, "hf-1", "aws/r/a/g/spot", (Instance("i-1", "hf-1", "aws/r/a/g/spot", "running", tags={"a": "b"}),),
                  (Fault(FaultKind.CAPACITY, "ICE", "none"),), 1.5, 3.0),
    e.CommandFinished(6.0, 1, "launch:hf-1", "ok", "", 1.0, ("node:n1",)),
    e.NoticeReceived(7.0, "n1", NOTICE),
    e.CommandIssued(8.0, 2, c.PrepareJobs("prepare", "why", "n1", "i-1", (7,), NOTICE)),
]  # fmt: skip


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_survives_the_journal(event) -> None:
    kind, body = encode(event)
    assert decode(kind, body) == event


def test_every_kind_of_command_can_be_read_back() -> None:
    for cls in [cls for cls in vars(c).values() if isinstance(cls, type) and issubclass(cls, c.Command)]:
        issued = e.CommandIssued(1.0, 5, cls("key", "why"))
        assert decode(*encode(issued)) == issued


def test_what_it_does_not_know_is_skipped() -> None:
    assert decode("SomethingFromTheFuture", "{}") is None
    assert decode("NodeChanged", '{"at": "no time"}') is None
    assert decode("Launch", "not json") is None


async def opened(path):
    journal = Journal(path)
    return journal, await journal.open()


async def test_replay_gives_the_same_fleet(tmp_path) -> None:
    journal, fleet = await opened(tmp_path / "j")
    fleet.manage(frozenset({"n1", "n2"}))
    for event in EVENTS:
        fleet.apply(event)
    await journal.write(EVENTS)
    await journal.close()
    _, again = await opened(tmp_path / "j")
    assert again.epoch.startswith(fleet.epoch)
    assert again.epoch != fleet.epoch, "a journal that was rolled back uses no launch id twice"
    assert again.fresh, "no cloud has been listed yet"
    again.epoch = fleet.epoch
    assert again == fleet
    assert [issued.command.key for issued in again.open_issued()] == ["prepare"]


async def test_a_snapshot_replaces_replay(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(journal_module, "SNAPSHOT_EVERY", 4)
    journal, fleet = await opened(tmp_path / "j")
    fleet.manage(frozenset({"n1", "n2"}))
    for event in EVENTS:
        fleet.apply(event)
    seqs = await journal.write(EVENTS)
    await journal.snapshot_if_due(fleet, seqs[-1], 100.0)
    await journal.close()
    with sqlite3.connect(tmp_path / "j") as db:
        db.execute("DELETE FROM events")
    _, again = await opened(tmp_path / "j")
    again.epoch = fleet.epoch
    assert again == fleet


async def test_a_snapshot_that_cannot_be_read_is_replayed_instead(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(journal_module, "SNAPSHOT_EVERY", 4)
    journal, fleet = await opened(tmp_path / "j")
    seqs = await journal.write(EVENTS)
    await journal.snapshot_if_due(fleet, seqs[-1], 10.0)
    await journal.close()
    with sqlite3.connect(tmp_path / "j") as db:
        db.execute("UPDATE snapshots SET fleet = '{\"fleet\": 5}'")
    _, again = await opened(tmp_path / "j")
    assert again.instances["i-1"].instance.pool == "aws/r/a/g/spot"


async def test_a_broken_file_is_set_aside(tmp_path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"no database" * 1000)
    journal, fleet = await opened(path)
    assert fleet.fresh
    await journal.write(EVENTS[:1])
    assert [file.name for file in tmp_path.iterdir() if ".broken-" in file.name] != []


async def test_only_what_concerns_a_node_is_read(tmp_path) -> None:
    journal, _ = await opened(tmp_path / "j")
    await journal.write(EVENTS)
    assert [entry.kind for entry in await journal.read(ref="node:n1", newest=2)] == ["NoticeReceived", "PrepareJobs"]
    assert [entry.kind for entry in await journal.read(ref="node:n")] == []
    assert len(await journal.read(after_seq=6)) == 2


async def test_a_disk_error_sets_no_journal_aside(tmp_path) -> None:
    journal, _ = await opened(tmp_path / "j")
    await journal.write(EVENTS)
    await journal.close()
    with sqlite3.connect(tmp_path / "j", isolation_level=None) as db:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Permanent, match="cannot be opened"):
            await Journal(tmp_path / "j").open()
    assert [file.name for file in tmp_path.iterdir() if ".broken-" in file.name] == []


async def test_until_a_cloud_was_listed_a_restart_stays_fresh(tmp_path) -> None:
    journal, _ = await opened(tmp_path / "j")
    await journal.close()
    journal, again = await opened(tmp_path / "j")
    assert again.fresh
    await journal.write([e.CloudListed(5.0)])
    await journal.close()
    assert not (await opened(tmp_path / "j"))[1].fresh


def many(path, count: int) -> None:
    with sqlite3.connect(path) as db:
        row = (1, 1.0, "NodesReleased", "|node:n1|", "", "{}")
        db.executemany("INSERT INTO events (v, at, kind, refs, text, body) VALUES (?, ?, ?, ?, ?, ?)", (row for _ in range(count)))


async def test_a_long_search_is_not_in_the_writers_way(tmp_path) -> None:
    journal, _ = await opened(tmp_path / "j")
    many(tmp_path / "j", 60_000)
    searches = [asyncio.ensure_future(journal.read(ref="node:nowhere")) for _ in range(20)]
    await asyncio.wait(searches, return_when=asyncio.FIRST_COMPLETED)
    await journal.write(EVENTS)
    assert sum(search.done() for search in searches) < 10, "the write waited for its turn behind the searches"
    assert await asyncio.gather(*searches) == [[]] * 20
    await journal.close()


async def test_a_search_that_takes_too_long_is_ended_and_says_so(tmp_path, monkeypatch) -> None:
    journal, _ = await opened(tmp_path / "j")
    many(tmp_path / "j", 10_000)
    assert await journal.read(limit=1)
    monkeypatch.setattr(journal._reader, "_limit_s", -1.0)
    with pytest.raises(Temporary, match="ended after"):
        await journal.read(ref="node:nowhere")
    monkeypatch.setattr(journal_reader, "MAX_WAITING", 0)
    with pytest.raises(Temporary, match="wait"):
        await journal.read()
    await journal.write(EVENTS)
    await journal.close()


async def test_a_journal_that_is_taken_away_can_not_be_read_and_says_so(tmp_path) -> None:
    journal, _ = await opened(tmp_path / "j")
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(Temporary, match="cannot be read now"):
        await journal.read()
    await journal.close()
