"""What EC2 is about to take back: its list of marked spot requests, and, where there is a queue, its warnings as well.

The two say the same of the same instance, minutes before its end; either may be late or fail, so each is believed for what it names. The
list is the account's whole state and heals what a queue has lost; the queue brings the exact time, and knows of it when the list lags.
So the list alone decides whether an answer is whole: a queue that cannot be read is an admin's matter, and stops no withdrawal.
"""

import asyncio
import logging
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.aws_calls import AwsCalls, answers_of
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_events import Warnings
from holdfast_controller.providers.aws_queue import drain, queue_calls
from holdfast_controller.providers.aws_wire import MARKED, reclaim_of
from holdfast_controller.providers.base import Fault, PartialAnswerError, ProviderError, Reclaim

IDLE_DRAIN_S = 60.0
"""How often the queues are read while nobody asks for reclaims; else the first look would find hours of them, and take the oldest."""
_log = logging.getLogger(__name__)


class Reclaims:
    """The reclaims of one account, of instances of others as well: neither source can be asked for one cluster's."""

    def __init__(self, calls: AwsCalls, config: AwsConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._warnings = Warnings()
        self._queues = queue_calls(config) if config.queue_urls else None
        self._silent: dict[str, str] = {}
        self._drained_at = clock.monotonic()
        self._idle: asyncio.Task[None] | None = None

    async def look(self) -> tuple[Reclaim, ...]:
        """Return what stands now. Raises PartialAnswerError where a region's list did not answer, ProviderError if nothing is known."""
        (answers, fault), _ = await asyncio.gather(self._lists(), self._drain_all())
        found: dict[str, Reclaim] = {}
        for said in (*(each for answer in answers for each in answer), *self._warnings.standing(self._clock.now())):
            known = found.setdefault(said.instance_id, said)
            if said.deadline < known.deadline:
                found[said.instance_id] = said
        reclaims = tuple(found.values())
        if fault is None:
            return reclaims
        raise PartialAnswerError(fault, reclaims=reclaims) if answers or reclaims else ProviderError(fault)

    def idle(self) -> None:
        """Read the queues beside, where nobody has for a while."""
        if self._queues is None or self._clock.monotonic() - self._drained_at < IDLE_DRAIN_S or self._idle is not None:
            return
        self._idle = asyncio.get_running_loop().create_task(self._drain_all())
        self._idle.add_done_callback(self._idle_over)

    def gone(self, instance_id: str) -> None:
        """The instance is no more."""
        self._warnings.end(instance_id)

    def close(self) -> None:
        """Ask no more."""
        if self._idle is not None:
            self._idle.cancel()
        if self._queues is not None:
            self._queues.close()

    def _idle_over(self, _: asyncio.Task[None]) -> None:
        self._idle = None

    async def _lists(self) -> tuple[list[list[Reclaim]], Fault | None]:
        try:
            return await answers_of(self._marked(region) for region in self._config.regions)
        except ProviderError as error:
            return [], error.fault

    async def _marked(self, region: str) -> list[Reclaim]:
        marked = [{"Name": "status-code", "Values": list(MARKED)}]
        said: list[dict[str, Any]] = await self._calls.pages(
            region, "describe_spot_instance_requests", "SpotInstanceRequests", Filters=marked
        )
        found = [reclaim for each in said if (reclaim := reclaim_of(each)) is not None]
        self._warnings.compare(region, {reclaim.instance_id for reclaim in found})
        return found

    async def _drain_all(self) -> None:
        self._drained_at = self._clock.monotonic()
        if self._queues is not None:
            await asyncio.gather(*(self._drain(self._queues, region, url) for region, url in self._config.queue_urls.items()))

    async def _drain(self, queues: AwsCalls, region: str, url: str) -> None:
        """Read a queue; say it once where that fails, until it fails in another way or is read again."""
        try:
            await drain(queues, region, url, lambda body: self._warnings.take(body, self._clock.now()))
        except ProviderError as error:
            if self._silent.get(region) != error.fault.code:
                self._silent[region] = error.fault.code
                _log.warning("%s: the queue of EC2's events cannot be read; reclaims come from EC2's list alone: %s", region, error)
            return
        if self._silent.pop(region, None) is not None:
            _log.warning("%s: the queue of EC2's events is read again", region)
