"""A small HTTP server for Prometheus: a thread for each request, a few at a time, GET only. It never ends what it serves."""

import asyncio
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

MOST_AT_ONCE = 8
REQUEST_S = 10.0
"""A caller that takes longer to ask, and to take the answer, is left."""
ANSWER_S = 5.0
"""A scrape waits no longer for the loop of what it asks."""

Page = Callable[[], tuple[str, bytes]]
"""Returns content type and body."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], T], limit_s: float) -> T:
    """Make a call in a loop, from another thread, and return what it gives. Raises TimeoutError where the loop hangs."""

    async def ask() -> T:
        return call()

    return asyncio.run_coroutine_threadsafe(ask(), loop).result(limit_s)


class MetricsServer:
    """Serves `pages` by their paths at `listen` (host:port; port 0: any) until closed. Raises OSError where it cannot."""

    def __init__(self, listen: str, pages: Mapping[str, Page], request_s: float = REQUEST_S) -> None:
        """`request_s`: for so long a caller may ask, and take the answer."""
        host, _, port = listen.rpartition(":")
        self._pages = dict(pages)
        server = _Server6 if ":" in host else _Server
        self._server: _Server = make_server(host.strip("[]"), int(port), self._answer, server, _Handler)
        self._server.request_s = request_s
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)

    def _answer(self, environ: Mapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
        page = self._pages.get(environ.get("PATH_INFO", ""))
        if environ.get("REQUEST_METHOD") != "GET":
            status, kind, body = "405 Method Not Allowed", "text/plain", b"only GET\n"
        elif page is None:
            status, kind, body = "404 Not Found", "text/plain", "".join(f"{path}\n" for path in self._pages).encode()
        else:
            status, kind, body = _made(page)
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]


def _made(page: Page) -> tuple[str, str, bytes]:
    try:
        kind, body = page()
    except Exception as error:  # a scrape that cannot be answered is one scrape, and Prometheus shows it
        log.warning("metrics: %s: %s", type(error).__name__, error)
        return "503 Service Unavailable", "text/plain", b"not now\n"
    return "200 OK", kind, body


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_s = REQUEST_S
    block_on_close = False
    request_queue_size = 64

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._until: dict[Any, float] = {}
        super().__init__(*args)

    def server_bind(self) -> None:
        """Bind, without the name server that http.server would ask."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or not at all where too many wait."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._until[request] = time.monotonic() + self.request_s
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._done(request)
            raise

    def service_actions(self) -> None:
        """Twice a second: leave those whose time is up. A time limit on each read alone would let one byte now and then hold a thread."""
        now = time.monotonic()
        for request in [request for request, until in list(self._until.items()) if now >= until]:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._done(request)

    def _done(self, request: Any) -> None:
        self._until.pop(request, None)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that is gone is nobody's fault."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no event."""
