"""Calls to AWS from asyncio: bounded pools of threads per service and region, one attempt and one time-out per call.

A region that hangs holds its own threads only, and launches have theirs beside those for what is listed and ended. boto3 is imported at
the first call, in a thread of a pool: it costs 0.3 s and belongs to an extra.
"""

import asyncio
import threading
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from holdfast_common.clock import Clock, SystemClock

from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_errors import error_of, timeout_error
from holdfast_controller.providers.aws_rates import answered_instances, instances_of, rate_of, refused_whole
from holdfast_controller.providers.base import Fault, FaultKind, ProviderError
from holdfast_controller.providers.buckets import Buckets

T = TypeVar("T")
MAX_PAGES = 1000
_LAUNCHING = frozenset({"run_instances", "create_fleet", "create_launch_template", "describe_launch_template_versions"})


class AwsCalls:
    """One service of one account, in all regions. Safe to use from one event loop."""

    def __init__(
        self,
        config: AwsConfig,
        service: str = "ec2",
        *,
        threads: int | None = None,
        endpoints: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`threads`: of each pool, the settings' number unless given; `endpoints`: by region, before the settings' one."""
        self._config = config
        self._service = service
        self._endpoints = endpoints or {}
        self._size = threads or config.threads
        self._pools: dict[tuple[str, bool], ThreadPoolExecutor] = {}
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._closed = False
        # SQS has no such limits
        self._buckets = Buckets(rate_of(config.rates) if service == "ec2" else lambda _: None, clock or SystemClock())

    async def call(self, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call, once; raises ProviderError.

        A call that still waits for a thread when its time is over is never made; one that is under way may be carried out after all.
        For its tokens it waits as long as for its answer. Those of instances that were not touched are given back.
        """
        self._check_open()
        bucket, instances = instances_of(operation, parameters)
        tokens = {operation: 1.0} | ({bucket: float(instances)} if instances else {})
        await self._buckets.draw_all(region, tokens, patience_s=self._config.call_timeout_s)
        submitted = self._pool(region, operation).submit(self._run, region, operation, parameters)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(submitted), self._config.call_timeout_s)
        except TimeoutError:
            if submitted.cancelled():  # it has never been made
                self._buckets.give_back(region, bucket, instances)
            raise timeout_error(operation, self._config.call_timeout_s) from None
        except ProviderError as error:
            if error.fault.kind is FaultKind.THROTTLE:
                self._buckets.throttled(region, operation)
            if refused_whole(error.fault.kind):
                self._buckets.give_back(region, bucket, instances)
            raise
        self._buckets.give_back(region, bucket, instances, used=answered_instances(operation, answer))
        return answer

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderError(Fault(FaultKind.TRANSIENT, "Closed", f"{self._config.name} has been closed"))

    def _pool(self, region: str, operation: str) -> ThreadPoolExecutor:
        self._check_open()
        key = (region, operation in _LAUNCHING)
        if key not in self._pools:
            prefix = f"holdfast-{self._config.name}-{self._service}-{region}"
            self._pools[key] = ThreadPoolExecutor(self._size, thread_name_prefix=prefix)
        return self._pools[key]

    async def pages(self, region: str, operation: str, key: str, page_size: int | None = None, **parameters: Any) -> list[Any]:
        """Return what all pages hold under `key`, or raise ProviderError: a listing is whole or it is none."""
        found: list[Any] = []
        token: str | None = None
        for _ in range(MAX_PAGES):
            more = {"NextToken": token} if token else {}
            answer = await self.call(
                region, operation, MaxResults=min(page_size or self._config.page_size, self._config.page_size), **parameters, **more
            )
            found.extend(answer.get(key, []))
            following = answer.get("NextToken")
            if not following:
                return found
            if following == token:
                break
            token = following
        raise ProviderError(Fault(FaultKind.TRANSIENT, "EndlessListing", f"{operation} in {region} does not end", retry_s=60))

    def close(self) -> None:
        """Drop what has not begun; threads end with the call that they are in."""
        self._closed = True
        for threads in self._pools.values():
            threads.shutdown(wait=False, cancel_futures=True)
        clients, self._clients = self._clients, {}  # without the lock, which an import may hold for seconds
        for client in list(clients.values()):
            client.close()

    def _run(self, region: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client(region), operation)(**parameters)
        except Exception as error:  # whatever boto3 and its transports raise
            raise error_of(error) from error
        return answer

    def _client(self, region: str) -> Any:
        """Clients may be shared by threads; making them may not."""
        with self._lock:
            self._check_open()
            client = self._clients.get(region)
            if client is None:
                client = self._clients[region] = self._make(region)
            if self._closed:
                client.close()  # one that was made meanwhile
            self._check_open()
            return client

    def _make(self, region: str) -> Any:
        import boto3
        from botocore.config import Config

        given, secret = self._config, self._config.secret_access_key
        if self._session is None:
            self._session = boto3.session.Session(
                aws_access_key_id=given.access_key_id,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                profile_name=given.profile,
            )
        settings = Config(
            connect_timeout=given.connect_timeout_s,
            read_timeout=given.read_timeout_s,
            # EC2 sends capacity errors as HTTP 500, which boto3 would repeat; the caller owns time and tokens
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=2 * self._size,  # a region's two pools share a client
            user_agent_extra="holdfast",
        )
        endpoint = self._endpoints.get(region, given.endpoint_url)
        return self._session.client(self._service, region_name=region, endpoint_url=endpoint, config=settings)


async def answers_of(asked: Iterable[Awaitable[T]]) -> tuple[list[T], Fault | None]:
    """Ask regions side by side; return what was answered, and the first failure. Raises that if none answered."""
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in errors:
        if not isinstance(error, ProviderError) or len(errors) == len(outcomes):
            raise error
    answers = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    return answers, next((error.fault for error in errors if isinstance(error, ProviderError)), None)
