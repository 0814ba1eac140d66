"""What EC2 is about to take back: its list of marked spot requests, and, where there is a queue, its warnings as well.

The two say the same of the same instance, minutes before its end; either may be late or fail, so each is believed for what it names. The
list is the account's whole state and heals what a queue has lost; the queue brings the exact time, and knows of it when the list lags.
"""

from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.aws_calls import AwsCalls, answers_of
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_events import Warnings
from holdfast_controller.providers.aws_queue import drain, queue_calls
from holdfast_controller.providers.aws_wire import MARKED, reclaim_of
from holdfast_controller.providers.base import Fault, PartialAnswerError, ProviderError, Reclaim


class Reclaims:
    """The reclaims of one account, of instances of others as well: neither source can be asked for one cluster's."""

    def __init__(self, calls: AwsCalls, config: AwsConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._warnings = Warnings()
        self._queues = queue_calls(config) if config.queue_urls else None

    async def look(self) -> tuple[Reclaim, ...]:
        """Return what stands now. Raises PartialAnswerError where a region's list or a queue did not answer, ProviderError if none did."""
        asked = [*map(self._marked, self._config.regions), *map(self._drain, self._config.queue_urls)]
        fault: Fault | None = None
        answers: list[list[Reclaim]] = []
        try:
            answers, fault = await answers_of(asked)
        except ProviderError as error:
            fault = error.fault
        found: dict[str, Reclaim] = {}
        for said in (*(each for answer in answers for each in answer), *self._warnings.standing(self._clock.now())):
            known = found.setdefault(said.instance_id, said)
            if said.deadline < known.deadline:
                found[said.instance_id] = said
        reclaims = tuple(found.values())
        if fault is None:
            return reclaims
        raise PartialAnswerError(fault, reclaims=reclaims) if answers or reclaims else ProviderError(fault)

    def gone(self, instance_id: str) -> None:
        """The instance is no more."""
        self._warnings.end(instance_id)

    def close(self) -> None:
        """Ask no more."""
        if self._queues is not None:
            self._queues.close()

    async def _marked(self, region: str) -> list[Reclaim]:
        marked = [{"Name": "status-code", "Values": list(MARKED)}]
        said: list[dict[str, Any]] = await self._calls.pages(
            region, "describe_spot_instance_requests", "SpotInstanceRequests", Filters=marked
        )
        found = [reclaim for each in said if (reclaim := reclaim_of(each)) is not None]
        self._warnings.compare(region, {reclaim.instance_id for reclaim in found})
        return found

    async def _drain(self, region: str) -> list[Reclaim]:
        assert self._queues is not None
        await drain(self._queues, region, self._config.queue_urls[region], lambda body: self._warnings.take(body, self._clock.now()))
        return []
