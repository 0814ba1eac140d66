"""Calls to Azure Resource Manager from asyncio: one bounded pool of threads per provider, one attempt and one time-out per call.

The SDKs are imported at the first call, in a thread of the pool: they cost 0.6 s and belong to an extra. Their pipeline is made of few
policies: nothing is tried again, no redirect is followed, no resource provider is registered on the side, and no link of an answer (the
next page, an operation) leads to another host than the configured one.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_errors import MALFORMED, error_of, fault_of, timeout_error
from holdfast_controller.providers.base import Fault, FaultKind, ProviderError

T = TypeVar("T")
MAX_PAGES = 1000
PUBLIC = "https://management.azure.com"


class Clients:
    """The two SDK clients of a provider; each is made when it is first used."""

    def __init__(self, config: AzureConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}

    @property
    def compute(self) -> Any:
        """azure.mgmt.compute's client."""
        return self._get("compute")

    @property
    def network(self) -> Any:
        """azure.mgmt.network's client."""
        return self._get("network")

    def close(self) -> None:
        """Release the connections."""
        with self._lock:
            for client in self._made.values():
                client.close()
            self._made.clear()

    def _get(self, kind: str) -> Any:
        """Clients may be shared by threads; making them may not."""
        with self._lock:
            if kind not in self._made:
                self._made[kind] = self._make(kind)
            return self._made[kind]

    def _make(self, kind: str) -> Any:
        if kind == "compute":
            from azure.mgmt.compute import ComputeManagementClient

            make: Any = ComputeManagementClient
        else:
            from azure.mgmt.network import NetworkManagementClient

            make = NetworkManagementClient
        given = self._config
        endpoint = (given.endpoint_url or PUBLIC).rstrip("/")
        plain = endpoint.startswith("http://")
        credential = None if plain else _credential(given)
        return make(
            credential or _NoCredential(),
            given.subscription,
            base_url=endpoint,
            policies=_policies(endpoint, credential),
            connection_timeout=given.connect_timeout_s,
            read_timeout=given.read_timeout_s,
            use_env_settings=not plain,  # no proxy of the environment may come between us and the sandbox
        )


class _NoCredential:
    """What a client is given over plain http; nobody asks it for a token."""

    def get_token(self, *_: str, **__: Any) -> Any:
        raise ProviderError(Fault(FaultKind.AUTH, "PlainHttp", "no credential is sent over plain http"))


def _credential(config: AzureConfig) -> Any:
    from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

    if config.client_id is not None:
        return ManagedIdentityCredential(client_id=config.client_id)
    return DefaultAzureCredential()


def _policies(endpoint: str, credential: Any) -> list[Any]:
    from azure.core.pipeline.policies import ContentDecodePolicy, HeadersPolicy, RequestIdPolicy, SansIOHTTPPolicy, UserAgentPolicy
    from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

    class SameHost(SansIOHTTPPolicy[Any, Any]):
        """Lets requests to the endpoint pass, and no others."""

        def on_request(self, request: Any) -> None:
            asked, ours = urlsplit(request.http_request.url), urlsplit(endpoint)
            if (asked.scheme, asked.netloc) != (ours.scheme, ours.netloc):
                raise ProviderError(fault_of(MALFORMED, f"an answer of {ours.netloc} leads to {asked.netloc[:100]}"))

    sandbox = HeadersPolicy({"Authorization": "Bearer holdfast-sandbox"})
    secure = ARMChallengeAuthenticationPolicy(credential, f"{endpoint}/.default") if credential else sandbox
    agent = UserAgentPolicy(user_agent="holdfast")
    return [SameHost(), RequestIdPolicy(), HeadersPolicy(), agent, ContentDecodePolicy(), secure]


class ArmCalls:
    """One subscription. Safe to use from one event loop."""

    def __init__(self, config: AzureConfig) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix=f"holdfast-{config.name}")
        self._clients = Clients(config)
        self._closed = False

    async def call(self, what: str, work: Callable[[Clients], T]) -> T:
        """Do one call, once, in a thread; raises ProviderError.

        A call that still waits for a thread when its time is over is never made; one that is under way may be carried out after all.
        """
        if self._closed:
            raise ProviderError(Fault(FaultKind.TRANSIENT, "Closed", f"{self._config.name} has been closed"))
        future = asyncio.wrap_future(self._threads.submit(self._run, work))
        try:
            return await asyncio.wait_for(future, self._config.call_timeout_s)
        except TimeoutError:
            raise timeout_error(what, self._config.call_timeout_s) from None

    async def pages(self, what: str, listing: Callable[[Clients], Any]) -> list[dict[str, Any]]:
        """Return what all pages hold, or raise ProviderError: a listing is whole or it is none. `listing` returns the SDK's ItemPaged."""
        found: list[dict[str, Any]] = []
        token: str | None = None
        for _ in range(MAX_PAGES):
            items, following = await self.call(what, _page(listing, token))
            found.extend(items)
            if not following:
                return found
            if following == token:
                break
            token = following
        raise ProviderError(Fault(FaultKind.TRANSIENT, "EndlessListing", f"{what} does not end", retry_s=60))

    def close(self) -> None:
        """Drop what has not begun; threads end with the call that they are in."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._clients.close()

    def _run(self, work: Callable[[Clients], T]) -> T:
        try:
            return work(self._clients)
        except Exception as error:  # whatever the SDK, its models and its transports raise
            raise error_of(error) from error


def _page(listing: Callable[[Clients], Any], token: str | None) -> Callable[[Clients], tuple[list[dict[str, Any]], str | None]]:
    def work(clients: Clients) -> tuple[list[dict[str, Any]], str | None]:
        pages = listing(clients).by_page(token)
        items = [each.as_dict() for each in next(pages)]
        return items, pages.continuation_token

    return work
