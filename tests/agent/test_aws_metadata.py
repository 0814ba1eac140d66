"""The thin poll against a server that misbehaves."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import Temporary
from holdfast_common.notice import NoticeKind
from holdfast_nodeagent.fakes import META, FakeMetadata, http_answer
from holdfast_nodeagent.notices.aws import AwsMetadata
from holdfast_nodeagent.notices.base import Seen, Unclear
from holdfast_nodeagent.notices.http import MAX_BODY_BYTES, MetadataHttp

SPOT = META + "spot/instance-action"


@pytest.fixture
async def source(metadata: FakeMetadata, clock: VirtualClock) -> AsyncIterator[AwsMetadata]:
    http = MetadataHttp(metadata.url, timeout_s=0.2)
    yield AwsMetadata(http, clock)
    http.close()


async def spot(source: AwsMetadata) -> object:
    return (await source.look())["spot/instance-action"]


async def test_identity(source: AwsMetadata) -> None:
    identity = await source.identity()
    assert (identity.instance_id, identity.zone, identity.instance_type, identity.market) == ("i-0abc", "us-east-1a", "g5.xlarge", "spot")
    assert (identity.address, identity.cluster, identity.launch_id, identity.launch_token) == ("127.0.0.1", "lab", "l-1", "secret")


async def test_an_instance_without_an_id_or_with_an_odd_one_is_not_guessed(source: AwsMetadata, metadata: FakeMetadata) -> None:
    metadata.values[META + "instance-id"] = b"<html>\nno"
    with pytest.raises(Temporary):
        await source.identity()
    del metadata.values[META + "instance-id"]
    with pytest.raises(Temporary):
        await source.identity()


async def test_404_is_no_notice_and_200_is_one(source: AwsMetadata, metadata: FakeMetadata) -> None:
    assert await source.look() == {
        "spot/instance-action": (),
        "events/recommendations/rebalance": (),
        "events/maintenance/scheduled": (),
    }
    metadata.notice("2020-04-24T17:11:44Z")
    (seen,) = (await source.look())["spot/instance-action"]  # type: ignore[misc]
    assert isinstance(seen, Seen)
    assert seen.kind is NoticeKind.PREEMPT


async def test_the_slow_sources_are_asked_now_and_then(source: AwsMetadata) -> None:
    looks = [await source.look() for _ in range(6)]
    assert [len(look) for look in looks] == [3, 1, 1, 1, 1, 3]


async def test_the_token_is_kept_renewed_before_its_end_and_after_a_401(
    source: AwsMetadata, metadata: FakeMetadata, clock: VirtualClock
) -> None:
    for _ in range(3):
        await source.look()
    assert metadata.tokens == 1
    await clock.advance(3600 - 14)
    await source.look()
    assert metadata.tokens == 2
    metadata.token_life.clear()
    assert await spot(source) == ()
    assert metadata.tokens == 3


@pytest.mark.parametrize(
    "raw",
    [
        http_answer(200, b'{"action": "termin'),
        http_answer(200, b"[]"),
        http_answer(500),
        http_answer(403),
        http_answer(302, b"", "Location: /elsewhere\r\n"),
        http_answer(200, b"x" * (MAX_BODY_BYTES + 1)),
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + json.dumps({"action": "stop", "time": "2020-04-24T17:11:44Z"}).encode(),
        b"garbage\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
    ],
    ids=["cut json", "no object", "500", "403", "redirect", "huge", "truncated", "no http", "nothing", "many headers"],
)
async def test_a_bad_answer_is_unclear(source: AwsMetadata, metadata: FakeMetadata, raw: bytes) -> None:
    metadata.raw[SPOT] = raw
    assert isinstance(await spot(source), Unclear)
    assert "GET /elsewhere" not in metadata.requests
    del metadata.raw[SPOT]
    assert await spot(source) == ()


async def test_a_server_that_sends_a_byte_now_and_then_is_cut_off(source: AwsMetadata, metadata: FakeMetadata) -> None:
    cut = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            cut.set()

    metadata.raw[SPOT] = drip
    assert "no whole answer within 0.2 s" in str(await spot(source))
    await cut.wait()
    del metadata.raw[SPOT]
    assert await spot(source) == ()


async def test_no_server(clock: VirtualClock) -> None:
    http = MetadataHttp("http://127.0.0.1:1", timeout_s=0.2)
    assert isinstance(await spot(AwsMetadata(http, clock)), Unclear)
    http.close()


async def test_a_proxy_in_the_environment_is_not_used(source: AwsMetadata, metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert await spot(source) == ()
