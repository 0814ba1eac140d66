"""Calls to Compute Engine from asyncio: bounded pools of threads per provider, one attempt and one time-out per call.

`google.cloud.compute_v1` is imported at the first call, in a thread of the pool: it costs seconds and belongs to an extra. It is imported
as it stands: a stub in its place, with only what is used here below it, would save half of that once per process, and hand everybody else
in the process a package that is half empty.

Its own waiting (`ExtendedOperation.result`) asks the real endpoint whatever endpoint the client was given, so that only the methods that
return the bare operation are used here, and operations are asked for through clients of our own.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping
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
EMPTY_SCOPE = "NO_RESULTS_ON_PAGE"
"""The warning of a scope that has nothing to tell; any other means that it could not tell."""


class ComputeCalls:
    """Compute Engine in one project. Safe to use from one event loop."""

    def __init__(self, config: GcpConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix=f"holdfast-{config.name}")
        self._waiters = ThreadPoolExecutor(config.waiters, thread_name_prefix=f"holdfast-{config.name}-wait")
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
        return await self._submitted(self._threads, service, method, request, self._config.call_timeout_s)

    async def wait(self, service: str, within_s: float, **request: Any) -> Any:
        """Have Compute Engine wait for an operation, for two minutes at most, and return it as it is then; raises ProviderError."""
        return await self._submitted(self._waiters, service, "wait", request, within_s)

    async def _submitted(self, threads: ThreadPoolExecutor, service: str, method: str, request: Mapping[str, Any], within_s: float) -> Any:
        if self._closed:
            raise ProviderError(Fault(FaultKind.TRANSIENT, "Closed", f"{self._config.name} has been closed"))
        where = str(request.get("region") or request.get("zone") or "global")
        await self._buckets.draw(where, f"{service}.{method}", patience_s=within_s)
        silence_s = within_s if threads is self._waiters else self._config.request_timeout_s
        future = asyncio.wrap_future(threads.submit(self._run, service, method, request, silence_s))
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
        for threads in (self._threads, self._waiters):
            threads.shutdown(wait=False, cancel_futures=True)
        clients, self._clients = self._clients, {}  # without the lock, which an import may hold for seconds
        for client in clients.values():
            client.transport.close()

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
        return getattr(compute_v1, f"{service}Client")(credentials=self._credentials, client_options=options)

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


def silent(pages: Iterable[Any], regions: Iterable[str]) -> tuple[set[str], str]:
    """Return which of the regions an aggregated listing could not tell all of, and in Compute Engine's words why."""
    found: set[str] = set()
    why = ""
    known = set(regions)
    for page in pages:
        reached = {scope: said.warning for scope, said in page.items.items() if said.warning.code not in ("", EMPTY_SCOPE)}
        for scope in (*reached, *page.unreachables):
            region = region_of(last(scope)) if "zones/" in scope else last(scope)
            if region in known:
                found.add(region)
                said = reached[scope].message or reached[scope].code if scope in reached else "unreachable"
                why = why or f"{scope}: {said}"
    return found, why


def region_of(zone: str) -> str:
    """Return a zone's region: `us-central1-a` is in `us-central1`."""
    return zone.rpartition("-")[0]


def last(url: str) -> str:
    """Return the last part of a full or partial URL: the resource's own name."""
    return url.rpartition("/")[2]
