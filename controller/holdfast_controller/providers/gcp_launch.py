"""One launch: from bulkInsert to what has come of it.

Idempotency. The request id is made from the launch id, and Compute Engine answers a known one with the operation that it knows. That goes
for failed operations, too, so that after a refusal the next number is taken: an answer that is done and failed *already* is the memory of
an earlier try. Every try but the last has made nothing, and the names are the same in all of them; so when Compute Engine has forgotten the
request id, a second set cannot come to be beside the first: the names are taken, and what exists is returned.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.base import Fault, FaultKind, LaunchRequest, ProviderError
from holdfast_controller.providers.gcp_calls import ComputeCalls
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.gcp_errors import EXISTS, FEWER, VAGUE, fault_of, of_pool
from holdfast_controller.providers.gcp_operations import DONE, faults_in, finished, made_by, of_group
from holdfast_controller.providers.gcp_wire import Part, Place, bulk_resource, parts, place_of, request_id, seconds_of

TRIES_MAX = 16
"""Failed tries of one launch that are stepped over in one call."""
REMEMBERED = 10_000


@dataclass(slots=True)
class Outcome:
    """What the operations of a launch say."""

    made: int = 0
    exists: bool = False
    """Names were taken: an earlier call made them, and what that was is the list's to say."""
    ended: float | None = None
    """When the last operation ended, Unix seconds."""
    faults: list[Fault] = field(default_factory=list)


class Launcher:
    """Starts instances; knows which try of a launch was the last."""

    def __init__(self, calls: ComputeCalls, config: GcpConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._tries: OrderedDict[tuple[str, int], int] = OrderedDict()

    async def start(self, request: LaunchRequest) -> Outcome:
        """Start instances, in calls of at most a thousand; stops at the first that falls short. Faults are returned, none is raised."""
        place, outcome = place_of(self._config, request), Outcome()
        for part in parts(request):
            try:
                operation = await self._insert(request, place, part)
                done = await finished(self._calls, self._clock, self._config.project, operation, self._config.operation_timeout_s)
                await self._judge(request, part, done, outcome)
            except ProviderError as error:
                outcome.exists = outcome.exists or error.fault.code in EXISTS
                if error.fault.code not in EXISTS:
                    outcome.faults.append(of_pool(error.fault, request.pool.name))
            if outcome.faults:
                break
        outcome.faults = [each for fault in outcome.faults for each in _everywhere(fault, place)]
        return outcome

    async def _insert(self, request: LaunchRequest, place: Place, part: Part) -> Any:
        """Return the operation of the try that is under way, or of a new one."""
        key = (request.launch_id, part.number)
        first = self._tries.get(key, 0)
        resource = bulk_resource(self._config, request, place, part)
        for number in range(first, first + TRIES_MAX):
            operation = await self._bulk_insert(place, resource, request_id(request.launch_id, part, number))
            if operation.status != DONE or not operation.error.errors:
                self._tries[key] = number
                self._tries.move_to_end(key)
                while len(self._tries) > REMEMBERED:
                    self._tries.popitem(last=False)
                return operation
        self._tries[key] = first + TRIES_MAX
        raise ProviderError(Fault(FaultKind.TRANSIENT, "TooManyTries", f"{TRIES_MAX} tries of {key[0]} had failed before", retry_s=1))

    async def _bulk_insert(self, place: Place, resource: dict[str, Any], token: str) -> Any:
        common = {"project": self._config.project, "request_id": token, "bulk_insert_instance_resource_resource": resource}
        if place.zonal:
            return await self._calls.call("Instances", "bulk_insert_unary", zone=place.zones[0], **common)
        return await self._calls.call("RegionInstances", "bulk_insert_unary", region=place.region, **common)

    async def _judge(self, request: LaunchRequest, part: Part, done: Any, outcome: Outcome) -> None:
        """Add what an operation that is done has made, and why it made no more."""
        made, pool = made_by(done), request.pool.name
        faults = faults_in([done], pool)
        made = (0 if faults else part.count) if made is None else max(0, made)
        outcome.made += made
        outcome.ended = seconds_of(done.end_time)
        taken = [fault for fault in faults if fault.code in EXISTS]
        outcome.exists = outcome.exists or bool(taken)
        faults = [fault for fault in faults if fault not in taken]
        if made < part.count and not taken and all(fault.code in VAGUE for fault in faults):
            faults = await self._reasons(done, pool) or faults
            faults = faults or [fault_of(FEWER, f"{made} of {part.count} instances were made", pool=pool)]
        outcome.faults += faults

    async def _reasons(self, done: Any, pool: str) -> list[Fault]:
        """Return why single instances were not made; nothing where that cannot be learnt: it is only a better reason."""
        if not done.operation_group_id:
            return []
        try:
            return faults_in(await of_group(self._calls, done.operation_group_id), pool)
        except ProviderError:
            return []


def _everywhere(fault: Fault, place: Place) -> list[Fault]:
    """A refusal of a call that would have taken any of several pools is one of each."""
    if fault.kind is not FaultKind.CAPACITY:
        return [fault]
    return [replace(fault, pool=pool.name) for pool in place.pools]
