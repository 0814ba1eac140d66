"""A request to a metadata service ends when it must, whatever the server does."""

import asyncio
import time
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import pytest
from holdfast_common.errors import Temporary
from holdfast_nodeagent.fakes import FakeMetadata, http_answer
from holdfast_nodeagent.notices.http import MetadataHttp, _Exchange

LONG_S = 20.0


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(LONG_S)


async def test_one_that_is_cut_before_it_is_connected_does_not_wait_for_an_answer(metadata: FakeMetadata) -> None:
    metadata.raw["/x"] = hang
    where = urlsplit(metadata.url)
    exchange = _Exchange(HTTPConnection(where.hostname or "", where.port), "GET", "/x", {}, None, LONG_S, 10)
    exchange.cut()
    began = time.monotonic()
    with pytest.raises(HTTPException, match="cut off"):
        await asyncio.to_thread(exchange)
    assert time.monotonic() - began < 1


async def test_closing_ends_a_long_wait_and_refuses_the_next(metadata: FakeMetadata) -> None:
    metadata.raw["/x"] = hang
    http = MetadataHttp(metadata.url)
    waiting = asyncio.ensure_future(http.request("GET", "/x", {}, timeout_s=LONG_S))
    while "GET /x" not in metadata.requests:  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.01)
    began = time.monotonic()
    http.close()
    with pytest.raises(Temporary):
        await waiting
    assert time.monotonic() - began < 1
    with pytest.raises(Temporary, match="not asked any more"):
        await http.request("GET", "/x", {})


async def test_two_threads_wait_side_by_side(metadata: FakeMetadata) -> None:
    metadata.raw["/x"] = hang
    metadata.raw["/y"] = http_answer(200, b"y", "ETag: e\r\n")
    http = MetadataHttp(metadata.url, threads=2)
    waiting = asyncio.ensure_future(http.request("GET", "/x", {}, timeout_s=LONG_S))
    reply = await http.request("GET", "/y", {})
    assert (reply.status, reply.body, reply.headers["etag"]) == (200, b"y", "e")
    waiting.cancel()
    http.close()


async def test_the_limit_and_the_time_are_the_callers(metadata: FakeMetadata) -> None:
    metadata.raw["/x"] = http_answer(200, b"12345")
    metadata.raw["/y"] = hang
    http = MetadataHttp(metadata.url)
    assert (await http.request("GET", "/x", {}, limit=5)).body == b"12345"
    with pytest.raises(Temporary, match="more than 4 bytes"):
        await http.request("GET", "/x", {}, limit=4)
    with pytest.raises(Temporary, match=r"within 0\.1 s"):
        await http.request("GET", "/y", {}, timeout_s=0.1)
    http.close()
