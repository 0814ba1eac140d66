"""Google's dialect against a server that misbehaves: what is said, what is unclear, and how often it is asked."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from urllib.parse import parse_qs

import pytest
from holdfast_common.clock import SystemClock, VirtualClock, settle
from holdfast_common.errors import InputError, Temporary
from holdfast_common.notice import MAINTENANCE_LEAD_S, Notice, NoticeKind
from holdfast_nodeagent.fake_clouds import FLAVOR, FakeGoogle
from holdfast_nodeagent.fakes import http_answer
from holdfast_nodeagent.notices import gcp
from holdfast_nodeagent.notices.base import Answer, Seen, Unclear
from holdfast_nodeagent.notices.gcp import GcpMetadata, parse_maintenance_event, parse_notice_s, parse_preempted
from holdfast_nodeagent.notices.http import MAX_BODY_BYTES, MetadataHttp

NOW = 1_700_000_000.0

Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def google() -> AsyncIterator[FakeGoogle]:
    server = FakeGoogle()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def source(google: FakeGoogle, clock: VirtualClock) -> AsyncIterator[GcpMetadata]:
    made = GcpMetadata(MetadataHttp(google.url, timeout_s=0.3, threads=gcp.THREADS), clock)
    yield made
    made.close()


@pytest.fixture
async def live(google: FakeGoogle) -> AsyncIterator[GcpMetadata]:
    """In real time, against a server that holds its answers back."""
    google.waits = True
    made = GcpMetadata(MetadataHttp(google.url, threads=gcp.THREADS), SystemClock())
    yield made
    made.close()


def only(answers: Mapping[str, Answer], name: str) -> Seen:
    """The one notice of a value."""
    answer = answers[name]
    assert isinstance(answer, tuple)
    assert len(answer) == 1
    return answer[0]


async def both(source: GcpMetadata, clock: VirtualClock | None = None) -> dict[str, Answer]:
    """The first answer of each value."""
    found: dict[str, Answer] = {}
    while len(found) < 2:
        found.update(await look(source, clock) if clock else await source.look())
    return found


async def look(source: GcpMetadata, clock: VirtualClock) -> dict[str, Answer]:
    """One look in virtual time, however long it waits."""
    task = asyncio.ensure_future(source.look())
    while not task.done():
        await clock.advance(0.1)
        await asyncio.sleep(0.002)
    return dict(task.result())


def test_preempted_is_true_or_false_and_its_deadline_is_counted() -> None:
    assert parse_preempted("FALSE", NOW, 30) == ()
    (seen,) = parse_preempted("TRUE", NOW, 30)
    assert (seen.kind, seen.at, seen.counted) == (NoticeKind.PREEMPT, NOW + 30, True)


@pytest.mark.parametrize("text", ["", "true", "TRUE FALSE", "1", "None", "x" * 5000])
def test_what_is_neither_is_no_notice_and_not_its_absence(text: str) -> None:
    with pytest.raises(InputError):
        parse_preempted(text, NOW, 30)
    with pytest.raises(InputError):
        parse_maintenance_event(text, NOW, "a3-highgpu-8g")


def test_maintenance_asks_for_a_save_an_hour_ahead_and_for_leaving_near_the_end() -> None:
    (seen,) = parse_maintenance_event("TERMINATE_ON_HOST_MAINTENANCE", NOW, "a3-highgpu-8g")
    assert (seen.kind, seen.at) == (NoticeKind.MAINTENANCE, NOW + 3600)
    notice = Notice("n", seen.kind, seen.at, NOW)
    assert not notice.evacuates(NOW)
    assert notice.evacuates(NOW + 3600 - MAINTENANCE_LEAD_S)


def test_a_vm_without_gpus_of_its_type_is_told_a_minute_ahead_and_evacuated_at_once() -> None:
    for machine_type in ("n1-standard-8", "e2-small", ""):
        (seen,) = parse_maintenance_event("TERMINATE_ON_HOST_MAINTENANCE", NOW, machine_type)
        assert Notice("n", seen.kind, seen.at, NOW).evacuates(NOW)
    for machine_type in ("g2-standard-4", "a2-highgpu-1g", "a4x-highgpu-4g"):
        (seen,) = parse_maintenance_event("TERMINATE_ON_HOST_MAINTENANCE", NOW, machine_type)
        assert seen.at == NOW + 3600


def test_a_migration_never_evacuates() -> None:
    (seen,) = parse_maintenance_event("MIGRATE_ON_HOST_MAINTENANCE", NOW, "n1-standard-8")
    assert seen.kind is NoticeKind.ADVISE
    assert parse_maintenance_event("NONE", NOW, "n1-standard-8") == ()


def test_the_notice_item() -> None:
    assert (parse_notice_s("120"), parse_notice_s("0.5")) == (120.0, 0.5)
    for text in ("", "0", "-3", "1e3", "3601", "soon", "nan", "\uff11\uff12"):
        with pytest.raises(InputError):
            parse_notice_s(text)


async def test_identity(source: GcpMetadata, google: FakeGoogle) -> None:
    identity = await source.identity()
    assert (identity.provider, identity.instance_id, identity.zone) == ("gcp", "4242424242424242424", "us-central1-a")
    assert (identity.instance_type, identity.market, identity.address) == ("a3-highgpu-8g", "spot", "10.0.0.7")
    assert (identity.cluster, identity.launch_id, identity.launch_token) == ("lab", "l-1", "secret")
    assert source.window_s == 30.0
    google.values["scheduling/preemptible"] = b"FALSE"
    del google.values["attributes/user-data"]
    identity = await source.identity()
    assert (identity.market, identity.cluster) == ("on_demand", "")


async def test_user_data_may_be_as_long_as_google_allows(source: GcpMetadata, google: FakeGoogle) -> None:
    google.values["attributes/user-data"] += b"# x" * 80_000
    assert (await source.identity()).launch_id == "l-1"


@pytest.mark.parametrize("value", [b"", b"i-0abc", b"<html>", b"12 34", b"\xff\xfe", b"9" * 30])
async def test_an_odd_instance_id_is_not_believed(source: GcpMetadata, google: FakeGoogle, value: bytes) -> None:
    google.values["id"] = value
    with pytest.raises(Temporary):
        await source.identity()


async def test_the_window_is_what_the_launch_asked_for(source: GcpMetadata, google: FakeGoogle, clock: VirtualClock) -> None:
    google.values["attributes/holdfast-notice-s"] = b"90"
    google.values["preempted"] = b"TRUE"
    before = clock.now()
    seen = only(await both(source, clock), "preempted")
    assert source.window_s == 90.0
    assert before + 90 <= seen.at <= clock.now() + 90


async def test_a_window_that_is_no_number_or_hangs_is_the_soft_offs(source: GcpMetadata, google: FakeGoogle, clock: VirtualClock) -> None:
    google.values["attributes/holdfast-notice-s"] = b"long"
    google.raw["machine-type"] = http_answer(500, b"", FLAVOR)
    assert (await both(source, clock))["preempted"] == ()
    assert source.window_s == 30.0
    google.set("maintenance-event", b"TERMINATE_ON_HOST_MAINTENANCE")
    seen = only(await look(source, clock), "maintenance-event")
    assert seen.at <= clock.now() + 60  # of an unknown machine type


async def test_a_change_is_told_at_once_and_nothing_is_asked_meanwhile(
    live: GcpMetadata, google: FakeGoogle, eventually: Eventually
) -> None:
    assert await both(live) == {"preempted": (), "maintenance-event": ()}
    waiting = asyncio.ensure_future(live.look())
    await eventually(lambda: google.held == 2)
    asked = len(google.requests)
    await asyncio.sleep(0.3)
    assert len(google.requests) == asked
    began = time.monotonic()
    google.set("preempted", b"TRUE")
    answer = await waiting
    assert time.monotonic() - began < 0.2  # a poll a second would take half a second on average
    assert set(answer) == {"preempted"}
    assert only(answer, "preempted").kind is NoticeKind.PREEMPT
    query = parse_qs(google.asked("preempted")[-1].partition("?")[2])
    assert query == {"wait_for_change": ["true"], "last_etag": ["e-FALSE&"], "timeout_sec": [str(gcp.WAIT_S)]}


async def test_one_value_that_fails_does_not_hide_the_other(live: GcpMetadata, google: FakeGoogle) -> None:
    google.raw["maintenance-event"] = http_answer(503, b"", FLAVOR)
    await live.look()
    google.set("preempted", b"TRUE")
    for _ in range(4):
        answer = await live.look()
        if answer.get("preempted"):
            break
    assert answer["preempted"]


async def test_a_server_that_does_not_wait_is_not_asked_in_a_busy_loop(
    source: GcpMetadata, google: FakeGoogle, clock: VirtualClock
) -> None:
    await both(source, clock)
    asked = len(google.requests)
    waiting = asyncio.ensure_future(source.look())
    for _ in range(100):
        await clock.advance(0.1)
        await asyncio.sleep(0.002)
    assert not waiting.done()
    per_value = (len(google.requests) - asked) / 2
    assert 5 < per_value <= 10 / gcp.PAUSE_S + 1
    google.set("preempted", b"TRUE")
    while not waiting.done():
        await clock.advance(0.1)
        await asyncio.sleep(0.002)
    assert waiting.result()["preempted"]


async def test_without_etags_it_is_polled(source: GcpMetadata, google: FakeGoogle, clock: VirtualClock) -> None:
    google.etags = False
    await both(source, clock)
    google.set("preempted", b"TRUE")
    assert (await look(source, clock))["preempted"]
    assert not any("wait_for_change" in path for path in google.requests)


@pytest.mark.parametrize(
    "raw",
    [
        http_answer(200, b"FALSE"),
        http_answer(200, b"FALSE", "Metadata-Flavor: Other\r\n"),
        http_answer(200, b"MAYBE", FLAVOR),
        http_answer(200, b"", FLAVOR),
        http_answer(200, b"\xff\xfeT", FLAVOR),
        http_answer(200, b'{"preempted": true}', FLAVOR),
        http_answer(404, b"", FLAVOR),
        http_answer(500, b"", FLAVOR),
        http_answer(302, b"", FLAVOR + "Location: /elsewhere\r\n"),
        http_answer(200, b"x" * (MAX_BODY_BYTES + 1), FLAVOR),
        f"HTTP/1.1 200 OK\r\n{FLAVOR}Content-Length: 500\r\n\r\nFALSE".encode(),
        b"garbage\r\n\r\n",
        b"",
    ],
    ids=["no flavor", "wrong flavor", "odd", "empty", "no ascii", "json", "404", "500", "redirect", "huge", "cut", "no http", "nothing"],
)
async def test_a_bad_answer_is_unclear_and_then_all_is_well_again(
    source: GcpMetadata, google: FakeGoogle, clock: VirtualClock, raw: bytes
) -> None:
    google.raw["preempted"] = raw
    assert isinstance((await both(source, clock))["preempted"], Unclear)
    assert not any("elsewhere" in path for path in google.requests)
    del google.raw["preempted"]
    while "preempted" not in (answer := await look(source, clock)):
        pass
    assert answer["preempted"] == ()


async def test_a_fault_is_told_each_time_but_at_most_once_a_second(source: GcpMetadata, google: FakeGoogle, clock: VirtualClock) -> None:
    google.raw["preempted"] = http_answer(500, b"", FLAVOR)
    await both(source, clock)
    before, asked = clock.monotonic(), len(google.asked("preempted"))
    for _ in range(3):
        assert isinstance((await look(source, clock))["preempted"], Unclear)
    assert clock.monotonic() - before >= 2.5
    assert len(google.asked("preempted")) == asked + 3


async def test_a_server_that_drips_is_cut_off(source: GcpMetadata, google: FakeGoogle, clock: VirtualClock) -> None:
    cut = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{FLAVOR}Content-Length: 9999\r\n\r\n".encode())
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            cut.set()

    google.raw["preempted"] = drip
    assert "no whole answer within 0.3 s" in str((await both(source, clock))["preempted"])
    await cut.wait()


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_the_end_comes_at_once_although_an_answer_is_held_back(
    live: GcpMetadata, google: FakeGoogle, how: str, eventually: Eventually
) -> None:
    await both(live)
    waiting = asyncio.ensure_future(live.look())
    await eventually(lambda: google.held == 2)
    began = time.monotonic()
    if how == "cancel":
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    live.close()
    await settle()
    await eventually(lambda: not any(thread.name.startswith("metadata") for thread in threading.enumerate()))
    assert time.monotonic() - began < 2.0 < gcp.WAIT_S
    waiting.cancel()


async def test_no_server(clock: VirtualClock) -> None:
    source = GcpMetadata(MetadataHttp("http://127.0.0.1:1", threads=gcp.THREADS), clock)
    assert all(isinstance(answer, Unclear) for answer in (await both(source, clock)).values())
    source.close()
