"""Calls to Azure Resource Manager from asyncio: one bounded pool of threads per provider, one attempt and one time-out per call.

The SDK is imported at the first call, in a thread of the pool: it costs 0.4 s and belongs to an extra. Its pipeline is made of few
policies: nothing is tried again, no redirect is followed, no resource provider is registered on the side, and no link of an answer (the
next page, an operation) leads to another host than the configured one.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from holdfast_common.clock import Clock, SystemClock

from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_errors import MALFORMED, error_of, fault_of, timeout_error
from holdfast_controller.providers.base import Fault, FaultKind, ProviderError
from holdfast_controller.providers.buckets import Buckets, Rate

T = TypeVar("T")
Json = dict[str, Any]
MAX_PAGES = 1000
RATES = {"creating": Rate(200, 10), "deleting": Rate(200, 10), "reading": Rate(250, 25)}
"""Resource Manager's buckets of a subscription per region and kind of call, by Azure's documentation; one for all regions here."""
PUBLIC = "https://management.azure.com"


class Clients:
    """azure.mgmt.compute's client, made when it is first used."""

    def __init__(self, config: AzureConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._compute: Any = None
        self._closed = False

    @property
    def compute(self) -> Any:
        """The client; it may be shared by threads, and making it may not. Raises ProviderError once they are closed."""
        with self._lock:
            if self._compute is None and not self._closed:
                self._compute = _made(self._config)
            if self._closed:
                self.close()  # one that was made meanwhile
                raise closed_error(self._config.name)
            return self._compute

    def close(self) -> None:
        """Release the connections; without the lock, which an import may hold for seconds."""
        self._closed = True
        made, self._compute = self._compute, None
        if made is not None:
            made.close()


def _made(config: AzureConfig) -> Any:
    from azure.mgmt.compute import ComputeManagementClient

    endpoint = (config.endpoint_url or PUBLIC).rstrip("/")
    plain = endpoint.startswith("http://")
    credential = None if plain else _credential(config)
    return ComputeManagementClient(
        credential or _NoCredential(),
        config.subscription,
        base_url=endpoint,
        policies=_policies(endpoint, credential),
        connection_timeout=config.connect_timeout_s,
        read_timeout=config.read_timeout_s,
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

    def __init__(self, config: AzureConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(config.threads, thread_name_prefix=f"holdfast-{config.name}")
        self._clients = Clients(config)
        self._buckets = Buckets(RATES.get, clock or SystemClock())
        self._closed = False

    async def call(self, what: str, work: Callable[[Clients], T]) -> T:
        """Do one call, once, in a thread; raises ProviderError.

        A call that still waits for a thread when its time is over is never made; one that is under way may be carried out after all.
        """
        if self._closed:
            raise closed_error(self._config.name)
        kind = next((word for word in ("creating", "deleting") if what.startswith(word)), "reading")
        await self._buckets.draw(self._config.subscription, kind, patience_s=self._config.call_timeout_s)
        future = asyncio.wrap_future(self._threads.submit(self._run, work))
        try:
            return await asyncio.wait_for(future, self._config.call_timeout_s)
        except TimeoutError:
            raise timeout_error(what, self._config.call_timeout_s) from None
        except ProviderError as error:
            if error.fault.kind is FaultKind.THROTTLE:
                self._buckets.throttled(self._config.subscription, kind)
            raise

    async def get(self, what: str, address: str, **parameters: str) -> Json:
        """Return what is at an address: one of an answer's, or `{endpoint}/…`. Raises ProviderError."""

        def work(clients: Clients) -> Json:
            return sent(clients, "GET", address, parameters)

        return await self.call(what, work)

    async def pages(self, what: str, path: str, **parameters: str) -> list[Json]:
        """Return what all pages of a list hold, or raise ProviderError: a listing is whole or it is none."""
        found: list[Json] = []
        address, given = f"{{endpoint}}{path}", parameters
        for _ in range(MAX_PAGES):
            answer = await self.get(what, address, **given)
            items, following = answer.get("value"), answer.get("nextLink")
            if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
                raise ProviderError(fault_of(MALFORMED, f"{what}: the answer holds no list of objects"))
            found.extend(items)
            if not following:
                return found
            if following == address:
                break
            address, given = str(following), {}
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


def closed_error(provider: str) -> ProviderError:
    """Return the error of a call after the end."""
    return ProviderError(Fault(FaultKind.TRANSIENT, "Closed", f"{provider} has been closed"))


def sent(clients: Clients, method: str, address: str, parameters: Mapping[str, str], body: object = None) -> Json:
    """Return the object that a request through the client's pipeline is answered with, as plain JSON.

    The SDK's models of it would cost eight times the processor time of the whole call: half a second for a thousand machines.
    """
    from azure.core.rest import HttpRequest

    response = clients.compute.send_request(HttpRequest(method, address, params=dict(parameters), json=body))
    response.raise_for_status()
    answer = response.json()
    if not isinstance(answer, dict):
        raise TypeError("the answer is no object")
    return answer
