"""HTTP to a metadata service: bounded in time and size, no redirects, no proxies. http.client follows neither, so it is the right tool."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from holdfast_common.errors import Temporary

TIMEOUT_S = 2.0
MAX_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes


class MetadataHttp:
    """One thread and one connection per request: the service is on this host, or on the link."""

    def __init__(self, base_url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metadata")

    async def request(self, method: str, path: str, headers: Mapping[str, str]) -> Reply:
        """Return the answer to one request. Raises Temporary where it is slow (as a whole), cut short, too large, a redirect or no HTTP."""
        exchange = _Exchange(HTTPConnection(self._host, self._port, timeout=self._timeout_s), method, self._prefix + path, dict(headers))
        call = asyncio.get_running_loop().run_in_executor(self._thread, exchange)
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await call
        except TimeoutError:
            raise Temporary(f"{path}: no whole answer within {self._timeout_s:g} s") from None
        except (OSError, HTTPException, ValueError) as error:
            raise Temporary(f"{path}: {type(error).__name__}: {str(error)[:200]}") from None
        finally:
            exchange.cut()
        if 300 <= reply.status < 400:
            raise Temporary(f"{path}: answered {reply.status}, a redirect, which a metadata service never sends")
        if len(reply.body) > MAX_BODY_BYTES:
            raise Temporary(f"{path}: more than {MAX_BODY_BYTES} bytes")
        return reply

    def close(self) -> None:
        """Let the thread go once its request has ended."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Exchange:
    """One request and its answer, made in the thread; `cut` wakes the thread where it still waits."""

    def __init__(self, connection: HTTPConnection, method: str, path: str, headers: dict[str, str]) -> None:
        self._connection = connection
        self._method = method
        self._path = path
        self._headers = headers
        self._socket: socket.socket | None = None

    def __call__(self) -> Reply:
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            self._connection.request(self._method, self._path, headers=self._headers)
            response = self._connection.getresponse()
            body = response.read(MAX_BODY_BYTES + 1)
            if response.length and len(body) <= MAX_BODY_BYTES:
                raise HTTPException(f"cut short: {response.length} bytes are missing")
            return Reply(response.status, body)
        finally:
            self._connection.close()

    def cut(self) -> None:
        """End the exchange: a server that sends a byte now and then would hold the thread for ever."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
