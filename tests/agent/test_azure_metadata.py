"""Azure's dialect against a server that misbehaves: which events count, which may start, and how often it is asked."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from holdfast_common.clock import SystemClock, VirtualClock
from holdfast_common.errors import InputError, Temporary
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent.fake_clouds import AT, AT_TEXT, VM_ID, FakeAzure, event, instance, text
from holdfast_nodeagent.fakes import http_answer
from holdfast_nodeagent.notices import azure
from holdfast_nodeagent.notices.azure import EVENTS, INSTANCE, SOURCE, AzureMetadata, parse_document, parse_instance
from holdfast_nodeagent.notices.base import Answer, Change, Seen, Unclear, follow
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_nodeagent.notices.reading import rfc1123_date

NOW = 1_650_000_000.0

Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def server() -> AsyncIterator[FakeAzure]:
    made = FakeAzure()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def source(server: FakeAzure, clock: VirtualClock) -> AsyncIterator[AzureMetadata]:
    made = AzureMetadata(MetadataHttp(server.url, timeout_s=0.3), MetadataHttp(server.url, timeout_s=0.3), clock)
    yield made
    made.close()


@pytest.fixture
def look(source: AzureMetadata, clock: VirtualClock) -> Callable[[], Awaitable[Answer]]:
    """One look in virtual time."""

    async def once() -> Answer:
        task = asyncio.ensure_future(source.look())
        while not task.done():
            await clock.advance(0.1)
            await asyncio.sleep(0.002)
        return task.result()[SOURCE]

    return once


Look = Callable[[], Awaitable[Answer]]


def seen_of(body: bytes, name: str = "vm1", now: float = NOW) -> tuple[Seen, ...]:
    answer = parse_document(body, name, now).answer
    assert isinstance(answer, tuple)
    return answer


# The pure part


@pytest.mark.parametrize(
    ("kind", "notice", "leaves_early", "leaves_late"),
    [
        ("Preempt", NoticeKind.PREEMPT, True, True),
        ("Terminate", NoticeKind.DRAIN, True, True),
        ("Reboot", NoticeKind.MAINTENANCE, False, True),
        ("Redeploy", NoticeKind.MAINTENANCE, False, True),
        ("Freeze", NoticeKind.ADVISE, False, False),
        ("Levitate", NoticeKind.ADVISE, False, False),
    ],
)
def test_what_each_event_asks_for(kind: str, notice: NoticeKind, leaves_early: bool, leaves_late: bool) -> None:
    (seen,) = seen_of(text(event(kind)))
    assert (seen.kind, seen.at, seen.counted) == (notice, AT, False)
    told = Notice("n", seen.kind, seen.at, NOW)
    assert told.evacuates(AT - 900) is leaves_early
    assert told.evacuates(AT - 100) is leaves_late


def test_only_our_own_vm_counts() -> None:
    assert seen_of(text(event(Resources=["vm2", "vm10"]))) == ()
    assert len(seen_of(text(event(Resources=["vm2", "VM1"])))) == 1
    assert seen_of(text(event(Resources=[]))) == ()


def test_an_event_that_has_begun_is_due_now_and_stays_so() -> None:
    scheduled = follow({}, SOURCE, seen_of(text(event("Reboot")), now=AT - 60), AT - 60, VM_ID)
    begun = text(event("Reboot", EventStatus="Started", NotBefore=""))
    early = follow(scheduled.active, SOURCE, seen_of(begun, now=AT - 30), AT - 30, VM_ID)
    assert [notice.deadline for notice in early.appeared] == [AT - 30]
    assert early.cancelled == scheduled.appeared
    later = follow(early.active, SOURCE, seen_of(begun, now=AT + 500), AT + 500, VM_ID)
    assert later == Change(early.active)


@pytest.mark.parametrize(
    "bad",
    [
        3,
        event(EventId=7),
        event(EventId="a b"),
        event(EventType=None),
        event(EventStatus="Perhaps"),
        event(Resources="vm1"),
        event(Resources=["vm1", 3]),
        event(NotBefore=""),
        event(NotBefore="11 Apr 2022 22:16:58 GMT"),
        event(NotBefore="Tue, 11 Apr 2022 22:16:58 GMT"),
        event(NotBefore="Mon, 11 Apr 2022 22:16:58 +0000"),
        event(NotBefore="2022-04-11T22:16:58Z"),
        event(NotBefore="Mon, 11 Apr 2022 25:16:58 GMT"),
        event(NotBefore=1649715418),
        event("Preempt\nnow"),
    ],
)
def test_a_malformed_event_hides_no_other_and_withdraws_none(bad: Any) -> None:
    standing = follow({}, SOURCE, seen_of(text(event("Reboot"))), NOW, VM_ID)
    document = parse_document(text(bad, event("Preempt", NotBefore="Mon, 11 Apr 2022 22:10:00 GMT")), "vm1", NOW)
    assert isinstance(document.answer, Unclear)
    change = follow(standing.active, SOURCE, document.answer, NOW, VM_ID)
    assert [notice.kind for notice in change.appeared] == [NoticeKind.PREEMPT]
    assert change.cancelled == ()
    assert [notice.kind for notice in change.active[SOURCE]] == [NoticeKind.MAINTENANCE, NoticeKind.PREEMPT]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 50_000,
        text(incarnation="2"),
        text(incarnation=None),
        text(incarnation=True),
        b'{"DocumentIncarnation": 2}',
        b'{"DocumentIncarnation": 2, "Events": {}}',
    ],
)
def test_what_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_document(body, "vm1", NOW)


BIG_SET = [f"nodes-abcdefghijk_{number:06d}" for number in range(1000)]


def reclaim(ours: int, **more: Any) -> list[dict[str, Any]]:
    """Return what a reclaim of a whole region tells a scale set of 1,000: an event for each VM, ours at that place."""
    ids = [f"A123BC45-1234-5678-AB90-{number:012d}" for number in range(1000)]
    events = [event(EventId=ids[number], Resources=[name], **more) for number, name in enumerate(BIG_SET)]
    events[ours]["Resources"] = ["vm1"]
    return events


@pytest.mark.parametrize("ours", [0, 99, 100, 999])
def test_the_reclaim_of_a_whole_region_hides_our_own_event_nowhere(ours: int) -> None:
    (seen,) = seen_of(text(*reclaim(ours)))
    assert (seen.kind, seen.at) == (NoticeKind.PREEMPT, AT)


def test_an_event_for_more_vms_than_a_set_may_have_is_ours_all_the_same() -> None:
    (seen,) = seen_of(text(event("Reboot", Resources=[*BIG_SET, *BIG_SET, "vm1"])))
    assert seen.kind is NoticeKind.MAINTENANCE


@pytest.mark.parametrize("odd", [{"Resources": ["vm2", 3]}, {"EventType": None}, {"EventId": 7}, {"NotBefore": "soon"}])
def test_what_is_odd_about_another_vms_event_does_not_concern_us(odd: dict[str, Any]) -> None:
    assert seen_of(text(event(**{"Resources": ["vm2"], **odd}))) == ()


def test_strange_entries_are_many_and_hide_our_event_nowhere() -> None:
    began = time.monotonic()
    document = parse_document(text(*[3] * 1_000_000, event()), "vm1", NOW)
    assert time.monotonic() - began < 5
    assert isinstance(document.answer, Unclear)
    assert [seen.kind for seen in document.answer.seen] == [NoticeKind.PREEMPT]
    assert len(document.faults) == 1


def test_of_more_events_of_our_own_than_can_be_a_preempt_is_kept() -> None:
    reboots = [event("Reboot", EventId=f"E-{number}") for number in range(2 * azure.MAX_OURS)]
    document = parse_document(text(*reboots, event()), "vm1", NOW)
    assert isinstance(document.answer, Unclear)
    assert len(document.events) == azure.MAX_OURS
    assert document.events[0].seen.kind is NoticeKind.PREEMPT


def test_dates_are_read_as_they_are_written_and_no_other_way() -> None:
    assert rfc1123_date(AT_TEXT) == AT
    for odd in (
        f"{AT_TEXT} ",
        AT_TEXT.lower(),
        "Mon, 11 Apr 22 22:16:58 GMT",
        "Mon, 11 April 2022 22:16:58 GMT",
        "Thu, 01 Jan 1960 00:00:00 GMT",
    ):
        with pytest.raises(InputError):
            rfc1123_date(odd)


def test_identity() -> None:
    identity, name = parse_instance(json.dumps(instance()).encode())
    assert (name, identity.provider, identity.instance_id, identity.zone) == ("vm1", "azure", VM_ID, "eastus-1")
    assert (identity.instance_type, identity.market, identity.address) == ("Standard_ND96isr_H100_v5", "spot", "10.0.0.7")
    assert (identity.cluster, identity.launch_id, identity.launch_token) == ("lab", "l-1", "secret")


def test_a_vm_without_zone_network_or_user_data() -> None:
    about = instance(zone="", priority="Regular", userData="no base64!")
    del about["network"]
    identity, _ = parse_instance(json.dumps(about).encode())
    assert (identity.zone, identity.market, identity.address, identity.launch_id) == ("eastus", "on_demand", "", "")


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"compute": []}',
        json.dumps(instance(vmId="vm-1")).encode(),
        json.dumps(instance(vmId=None)).encode(),
        json.dumps(instance(name="")).encode(),
        json.dumps(instance(name="a b")).encode(),
        json.dumps(instance(vmSize=["x"])).encode(),
        json.dumps({**instance(), "network": {"interface": [{"ipv4": {"ipAddress": ["10.0.0.7"]}}]}}).encode(),
    ],
)
def test_an_odd_instance_document_is_not_believed(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_instance(body)


# The thin poll


async def test_the_reclaim_of_a_whole_region_is_heard_of(source: AzureMetadata, server: FakeAzure, look: Look) -> None:
    server.announce(*reclaim(500, Description="x" * 1000), incarnation=2)
    assert 1_000_000 < len(server.values[EVENTS]) < azure.MAX_DOCUMENT_BYTES
    answer = await look()
    assert isinstance(answer, tuple)
    assert [seen.kind for seen in answer] == [NoticeKind.PREEMPT]


async def test_it_is_asked_once_a_second_from_boot(source: AzureMetadata, server: FakeAzure, clock: VirtualClock, look: Look) -> None:
    began = clock.monotonic()
    assert [await look() for _ in range(4)] == [(), (), (), ()]
    assert server.asked() == 4
    assert 2.9 <= clock.monotonic() - began <= 4


async def test_a_slow_first_answer_holds_up_nothing_else_and_is_waited_for(server: FakeAzure, eventually: Eventually) -> None:
    source = AzureMetadata(MetadataHttp(server.url, timeout_s=0.2), MetadataHttp(server.url, timeout_s=0.2), SystemClock())
    release = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(http_answer(200, text(event(), incarnation=1)))

    server.raw[EVENTS] = slow
    looking = asyncio.ensure_future(source.look())
    assert (await source.identity()).instance_id == VM_ID
    await asyncio.sleep(0.5)  # longer than any other answer may take
    assert not looking.done()
    assert server.asked() == 1
    release.set()
    answer = (await looking)[SOURCE]
    assert isinstance(answer, tuple)
    assert answer[0].kind is NoticeKind.PREEMPT
    release.clear()  # once it has answered, it must do so in the usual time
    assert "no whole answer within 0.2 s" in str((await source.look())[SOURCE])
    source.close()


async def test_who_we_are_is_asked_and_the_events_service_woken_side_by_side(
    source: AzureMetadata, server: FakeAzure, eventually: Eventually
) -> None:
    await source.identity()
    await eventually(lambda: server.asked() == 1)


async def test_without_a_name_no_event_can_be_judged(source: AzureMetadata, server: FakeAzure, look: Look) -> None:
    server.announce(event(), incarnation=2)
    server.raw[INSTANCE] = http_answer(500)
    assert isinstance(await look(), Unclear)
    del server.raw[INSTANCE]
    answer = await look()
    assert isinstance(answer, tuple)
    assert len(answer) == 1


async def test_a_document_that_has_not_changed_is_not_read_again(source: AzureMetadata, server: FakeAzure, look: Look) -> None:
    server.announce(event(), incarnation=2)
    first = await look()
    server.announce(event(NotBefore="soon"), incarnation=2)
    assert await look() == first
    server.announce(incarnation=3)
    assert await look() == ()


async def test_a_document_with_a_fault_is_read_again(source: AzureMetadata, server: FakeAzure, look: Look) -> None:
    server.announce(event(NotBefore="soon"), incarnation=2)
    assert isinstance(await look(), Unclear)
    server.announce(event(), incarnation=2)
    assert isinstance(await look(), tuple)


async def test_an_event_may_start_once_the_node_is_empty_and_is_approved_once(source: AzureMetadata, server: FakeAzure, look: Look) -> None:
    empty = False
    source.is_empty = lambda: empty
    server.announce(event("Reboot"), event("Redeploy"), incarnation=2)
    await look()
    assert server.posted == []
    empty = True
    server.post_status = 500
    await look()
    server.post_status = 200
    await look()
    await look()
    assert server.posted == [["E-Reboot", "E-Redeploy"]] * 2


@pytest.mark.parametrize(
    "not_ours_to_approve",
    [
        event("Preempt"),
        event("Reboot", Resources=["vm1", "vm2"]),
        event("Reboot", Resources=["vm2"]),
        event("Reboot", EventStatus="Started", NotBefore=""),
        event("Levitate"),
    ],
    ids=["preempt", "another vm too", "another vm", "begun", "unknown"],
)
async def test_what_is_never_approved(source: AzureMetadata, server: FakeAzure, look: Look, not_ours_to_approve: Any) -> None:
    source.is_empty = lambda: True
    server.announce(not_ours_to_approve, incarnation=2)
    await look()
    await look()
    assert server.posted == []


async def test_nothing_is_approved_unless_somebody_says_that_the_node_is_empty(
    source: AzureMetadata, server: FakeAzure, look: Look
) -> None:
    server.announce(event("Reboot"), incarnation=2)
    await look()
    assert server.posted == []


@pytest.mark.parametrize(
    "raw",
    [
        http_answer(200, b'{"DocumentIncarnation": 7, "Even'),
        http_answer(200, b"\xff\xfe"),
        http_answer(400),
        http_answer(404),
        http_answer(429),
        http_answer(500),
        http_answer(302, b"", "Location: /elsewhere\r\n"),
        http_answer(200, text() + b" " * azure.MAX_DOCUMENT_BYTES),
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + text(),
        b"garbage\r\n\r\n",
        b"",
    ],
    ids=["cut json", "no utf-8", "400", "404", "429", "500", "redirect", "huge", "truncated", "no http", "nothing"],
)
async def test_a_bad_answer_is_unclear(source: AzureMetadata, server: FakeAzure, look: Look, raw: bytes) -> None:
    server.raw[EVENTS] = raw
    assert isinstance(await look(), Unclear)
    assert "GET /elsewhere" not in server.requests
    del server.raw[EVENTS]
    assert await look() == ()


async def test_a_bad_instance_document_is_asked_for_again(source: AzureMetadata, server: FakeAzure) -> None:
    for raw in (http_answer(200, b"{}"), http_answer(404), http_answer(200, b"\xff")):
        server.raw[INSTANCE] = raw
        with pytest.raises(Temporary):
            await source.identity()
    del server.raw[INSTANCE]
    assert (await source.identity()).market == "spot"


async def test_the_end_comes_at_once_although_the_first_answer_is_minutes_away(server: FakeAzure) -> None:
    async def hang(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(azure.FIRST_TIMEOUT_S)

    source = AzureMetadata(MetadataHttp(server.url), MetadataHttp(server.url), SystemClock())
    server.raw[EVENTS] = hang
    looking = asyncio.ensure_future(source.look())
    while not server.asked():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.01)
    began = time.monotonic()
    looking.cancel()
    source.close()
    await asyncio.gather(looking, return_exceptions=True)
    assert time.monotonic() - began < 1
