"""HTTP to a metadata service: bounded in time and size, no redirects, no proxies. http.client follows neither, so it is the right tool."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from holdfast_common.errors import Temporary

TIMEOUT_S = 2.0
MAX_BODY_BYTES = 65_536
PLAIN_HTTP = re.compile(r"http://(\[[0-9A-Fa-f:]+\]|[^\s/?#@:]+)(:\d{1,5})?(/[^\s?#]*)?")
"""The address of a metadata service: no query, no credentials."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case."""


class MetadataHttp:
    """One thread and one connection per request: the service is on this host, or on the link. At most `threads` requests at a time."""

    def __init__(self, base_url: str, timeout_s: float = TIMEOUT_S, threads: int = 1) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="metadata")
        self._open: set[_Exchange] = set()
        self._closed = False

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        timeout_s: float | None = None,
        limit: int = MAX_BODY_BYTES,
    ) -> Reply:
        """Return the answer to one request. Raises Temporary where it is slow (as a whole), cut short, too large, a redirect or no HTTP.

        `timeout_s` counts from the call; the connection itself must be there within the usual time.
        """
        if self._closed:
            raise Temporary(f"{path}: not asked any more")
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        connection = HTTPConnection(self._host, self._port, timeout=min(self._timeout_s, wait_s))
        exchange = _Exchange(connection, method, self._prefix + path, dict(headers), body, wait_s, limit)
        self._open.add(exchange)
        call = asyncio.get_running_loop().run_in_executor(self._threads, exchange)
        try:
            async with asyncio.timeout(wait_s):
                reply = await call
        except TimeoutError:
            raise Temporary(f"{path}: no whole answer within {wait_s:g} s") from None
        except (OSError, HTTPException, ValueError) as error:
            raise Temporary(f"{path}: {type(error).__name__}: {str(error)[:200]}") from None
        finally:
            exchange.cut()
            self._open.discard(exchange)
        if 300 <= reply.status < 400:
            raise Temporary(f"{path}: answered {reply.status}, a redirect, which a metadata service never sends")
        if len(reply.body) > limit:
            raise Temporary(f"{path}: more than {limit} bytes")
        return reply

    def close(self) -> None:
        """Cut off what is under way, and let the threads go."""
        self._closed = True
        for exchange in self._open:
            exchange.cut()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Exchange:
    """One request and its answer, made in a thread; `cut` wakes the thread where it still waits."""

    def __init__(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
        wait_s: float,
        limit: int,
    ) -> None:
        self._connection = connection
        self._method = method
        self._path = path
        self._headers = headers
        self._body = body
        self._wait_s = wait_s
        self._limit = limit
        self._socket: socket.socket | None = None
        self._cut = False

    def __call__(self) -> Reply:
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            if self._cut:  # set before the socket was there to be shut down
                raise HTTPException("cut off")
            self._socket.settimeout(self._wait_s)
            self._connection.request(self._method, self._path, body=self._body, headers=self._headers)
            response = self._connection.getresponse()
            body = response.read(self._limit + 1)
            if response.length and len(body) <= self._limit:
                raise HTTPException(f"cut short: {response.length} bytes are missing")
            return Reply(response.status, body, {name.lower(): value for name, value in response.getheaders()})
        finally:
            self._connection.close()

    def cut(self) -> None:
        """End the exchange: a server that sends a byte now and then would hold the thread for ever."""
        self._cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
