"""Calls to Compute Engine from asyncio: bounded pools of threads, one attempt and one time-out per call.

Each method has a pool of its own in each region, so that one region that hangs starves no other, and a method that hangs there no other
method. Threads begin only when they are needed.

`google.cloud.compute_v1` is imported at the first call, in a thread of the pool: it costs seconds and belongs to an extra. It is imported
as it stands: a stub in its place, with only what is used here below it, would save half of that once per process, and hand everybody else
in the process a package that is half empty.

Its own waiting (`ExtendedOperation.result`) asks the real endpoint whatever endpoint the client was given, so that only the methods that
return the bare operation are used here, and operations are asked for through clients of our own.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast_common.clock import Clock, SystemClock

from holdfast_controller.providers.base import Fault, FaultKind, ProviderError
from holdfast_controller.providers.buckets import Buckets, Rate
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.gcp_errors import error_of, timeout_error

MAX_PAGES = 1000
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
RATE = Rate(100, 20)
"""Of each method, per region or zone: Compute Engine's default is 1,500 calls a minute, of a project, for most groups of methods."""
WAIT = "wait"
EMPTY_SCOPE = "NO_RESULTS_ON_PAGE"
"""The warning of a scope that has nothing to tell; any other means that it could not tell."""


class ComputeCalls:
    """Compute Engine in one project. Safe to use from one event loop."""

    def __init__(self, config: GcpConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._threads: dict[tuple[str, str], ThreadPoolExecutor] = {}
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._clients: dict[str, Any] = {}
        self._closed = False
        self._buckets = Buckets(lambda _: RATE, clock or SystemClock())

    async def call(self, service: str, method: str, **request: Any) -> Any:
        """Make one call, once, and return the bare protobuf message (of a listing: one page); raises ProviderError.

        `service` is the client's name without `Client`. A call that still waits for a thread when its time is over is never made; one that
        is under way may be carried out after all.
        """
        return await self._submitted(service, method, request, self._config.call_timeout_s)

    async def wait(self, service: str, within_s: float, **request: Any) -> Any:
        """Have Compute Engine wait for an operation, for two minutes at most, and return it as it is then; raises ProviderError."""
        return await self._submitted(service, WAIT, request, within_s)

    async def _submitted(self, service: str, method: str, request: Mapping[str, Any], within_s: float) -> Any:
        if self._closed:
            raise ProviderError(Fault(FaultKind.TRANSIENT, "Closed", f"{self._config.name} has been closed"))
        where = str(request.get("region") or request.get("zone") or "global")
        await self._buckets.draw(where, f"{service}.{method}", patience_s=within_s)
        silence_s = within_s if method == WAIT else self._config.request_timeout_s
        region = region_of(where) if "zone" in request else where
        future = asyncio.wrap_future(self._pool(region, method).submit(self._run, service, method, request, silence_s))
        try:
            return await asyncio.wait_for(future, within_s)
        except TimeoutError:
            raise timeout_error(f"{service}.{method}", within_s) from None
        except ProviderError as error:
            if error.fault.kind is FaultKind.THROTTLE:
                self._buckets.throttled(where, f"{service}.{method}")
            raise

    async def pages(self, service: str, method: str, **request: Any) -> list[Any]:
        """Return all pages, or raise ProviderError: a listing is whole or it is none."""
        found: list[Any] = []
        token = ""
        for _ in range(MAX_PAGES):
            more = {"page_token": token} if token else {}
            page = await self.call(service, method, project=self._config.project, max_results=self._config.page_size, **request, **more)
            found.append(page)
            if not page.next_page_token:
                return found
            if page.next_page_token == token:
                break
            token = page.next_page_token
        raise ProviderError(Fault(FaultKind.TRANSIENT, "EndlessListing", f"{service}.{method} does not end", retry_s=60))

    def close(self) -> None:
        """Drop what has not begun; threads end with the call that they are in."""
        self._closed = True
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)
        clients, self._clients = self._clients, {}  # without the lock, which an import may hold for seconds
        for client in clients.values():
            client.transport.close()

    def _pool(self, region: str, method: str) -> ThreadPoolExecutor:
        if (region, method) not in self._threads:
            most = self._config.waiters if method == WAIT else self._config.threads
            self._threads[region, method] = ThreadPoolExecutor(most, thread_name_prefix=f"holdfast-{self._config.name}-{region}-{method}")
        return self._threads[region, method]

    def _run(self, service: str, method: str, request: Mapping[str, Any], silence_s: float) -> Any:
        try:
            answer = getattr(self._client(service), method)(request=dict(request), retry=None, timeout=silence_s)
            page = next(answer.pages) if hasattr(answer, "pages") else answer
            return type(page).pb(page)
        except Exception as error:  # whatever the client and its transports raise
            raise error_of(error) from error

    def _client(self, service: str) -> Any:
        """Clients may be shared by threads; making them may not."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        from google.cloud import compute_v1

        if self._credentials is None:
            self._credentials = self._found_credentials()
        endpoint = self._config.endpoint_url
        options = {"api_endpoint": endpoint} if endpoint else {}
        client = getattr(compute_v1, f"{service}Client")(credentials=self._credentials, client_options=options)
        _bind(client.transport._session, environment=not (endpoint or "").startswith("http://"))
        return client

    def _found_credentials(self) -> Any:
        import google.auth
        from google.auth import credentials
        from google.oauth2 import service_account

        anonymous: Any = credentials.AnonymousCredentials
        account: Any = service_account.Credentials
        if (self._config.endpoint_url or "").startswith("http://"):
            return anonymous()
        if self._config.credentials_file is not None:
            return account.from_service_account_file(str(self._config.credentials_file), scopes=[SCOPE])
        return google.auth.default(scopes=[SCOPE])[0]


def _bind(session: Any, *, environment: bool) -> None:
    """Keep a client's requests where they are sent: Compute Engine redirects nothing, and whoever does would get what is meant for it.

    A private endpoint over http:// is asked directly; only to Google's goes what the environment says of proxies and certificates. The
    client has no option for either (google-cloud-compute 1.57: the transport makes its `requests` session itself).
    """
    session.max_redirects = 0
    session.trust_env = environment


def silent(pages: Sequence[Any], regions: Iterable[str], zones: Iterable[str] = ()) -> tuple[set[str], str]:
    """Return which of the regions an aggregated listing could not tell all of, and in Compute Engine's words why.

    A warning of a whole page may be about any region, so it silences all. Every zone has an entry, if only to say that it is empty; `zones`
    are those that must have one, as something is known to be there.
    """
    known, found, why = set(regions), set[str](), ""
    for scope, said in _unanswered(pages, zones):
        region = region_of(last(scope)) if "zones/" in scope else last(scope)
        if region in known or not scope:
            found |= {region} if scope else known
            why = why or f"{scope or 'all'}: {said}"
    return found, why


def _unanswered(pages: Sequence[Any], zones: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Scopes that could not tell, with the reason; the empty one stands for all."""
    for page in pages:
        if page.warning.code not in ("", EMPTY_SCOPE):
            yield "", page.warning.message or page.warning.code
        reached = {scope: said.warning for scope, said in page.items.items() if said.warning.code not in ("", EMPTY_SCOPE)}
        yield from ((scope, warning.message or warning.code) for scope, warning in reached.items())
        yield from ((scope, "unreachable") for scope in page.unreachables)
    told = {last(scope) for page in pages for scope in page.items}
    yield from ((f"zones/{zone}", "missing from the list") for zone in zones if zone not in told)


def region_of(zone: str) -> str:
    """Return a zone's region: `us-central1-a` is in `us-central1`."""
    return zone.rpartition("-")[0]


def last(url: str) -> str:
    """Return the last part of a full or partial URL: the resource's own name."""
    return url.rpartition("/")[2]
