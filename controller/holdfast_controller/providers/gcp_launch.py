"""One launch: from bulkInsert to what has come of it.

Idempotency. The request id is made from the launch id, and Compute Engine answers a known one with the operation that it knows. That goes
for failed operations, too, so that after a refusal the next number is taken: an answer that is done and failed *already*, and began before
it was asked for, is the memory of an earlier try. Only one that has made nothing is stepped over: names are unique in a zone, and a call
that may choose another zone would make a second set. Where Compute Engine has forgotten the request id, and the zone is the same, the
names are taken, and what exists is returned.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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
LISTED_WITHIN_S = 60.0
"""After an operation's end its instances are listed; what is missing then has ended."""
INSERT_TIME_S = 0.001
"""Insert times are cut to so much."""


Key = TypeVar("Key")
Value = TypeVar("Value")


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
        self._begun: OrderedDict[str, float] = OrderedDict()

    async def start(self, request: LaunchRequest) -> Outcome:
        """Start instances, in calls of at most a thousand; stops at the first that falls short. Faults are returned, none is raised."""
        place, outcome = place_of(self._config, request), Outcome()
        again = request.launch_id in self._begun
        _remember(self._begun, request.launch_id, self._clock.now())
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
        if _made_nothing(outcome, again=again):
            self._begun.pop(request.launch_id, None)
        outcome.faults = [each for fault in outcome.faults for each in _everywhere(fault, place)]
        return outcome

    def may_be_under_way(self, launch_id: str) -> bool:
        """Whether a call of this process may have made instances that are not listed yet."""
        begun = self._begun.get(launch_id)
        return begun is not None and self._clock.now() < begun + self._config.operation_timeout_s + LISTED_WITHIN_S

    async def _insert(self, request: LaunchRequest, place: Place, part: Part) -> Any:
        """Return the operation of the try that is under way, or of a new one; where there is neither, the last of those that failed."""
        key = (request.launch_id, part.number)
        first = self._tries.get(key, 0)
        resource = bulk_resource(self._config, request, place, part)
        for number in range(first, first + TRIES_MAX):
            asked = self._clock.now()
            operation = await self._bulk_insert(place, resource, request_id(request.launch_id, part, number))
            if not _failed_before(operation, asked, place):
                break
        _remember(self._tries, key, number)
        return operation

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


def _failed_before(operation: Any, asked: float, place: Place) -> bool:
    """Whether the answer is the memory of an earlier try, and that has made nothing.

    Where it does not say how many it has made, another try is safe in the same zone alone.
    """
    codes = {said.code for said in operation.error.errors}
    if operation.status != DONE or not codes or codes & EXISTS:
        return False
    made, began = made_by(operation), seconds_of(operation.insert_time)
    nothing = place.zonal if made is None else made <= 0
    return nothing and (began is None or began < asked - INSERT_TIME_S)


def _made_nothing(outcome: Outcome, *, again: bool) -> bool:
    """Whether a launch has surely made nothing so far; a throttled repetition says nothing of the first call."""
    unsure = {FaultKind.TRANSIENT, FaultKind.THROTTLE} if again else {FaultKind.TRANSIENT}
    return not outcome.made and not outcome.exists and not any(fault.kind in unsure for fault in outcome.faults)


def _remember(memory: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _everywhere(fault: Fault, place: Place) -> list[Fault]:
    """A refusal of a call that would have taken any of several pools is one of each."""
    if fault.kind is not FaultKind.CAPACITY:
        return [fault]
    return [replace(fault, pool=pool.name) for pool in place.pools]
