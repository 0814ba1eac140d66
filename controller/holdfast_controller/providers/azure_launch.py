"""A launch as one flexible scale set: asked for, followed until Azure knows what it has, and cleaned of what it could not make.

Azure finds out in the course of the operation whether it has the machines. Their end of boot is not waited for: a machine whose power
state is running has its host. What could not be made stays as a resource in state Failed until someone deletes it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_errors import EXISTS, FEWER, SPENT_LAUNCH, TIMEOUT, fault_of, of_pool, said_fault
from holdfast_controller.providers.azure_machines import Seen, seen_of
from holdfast_controller.providers.azure_memory import Memory
from holdfast_controller.providers.azure_resources import BATCH_MAX, Resources
from holdfast_controller.providers.azure_wire import (
    TAG_REQUEST,
    all_tags,
    fingerprint,
    set_body,
    set_name,
    strings,
    table,
)
from holdfast_controller.providers.base import Fault, FaultKind, LaunchRequest, LaunchResult, ProviderError

BEING_DELETED_RETRY_S = 10.0
POLL_GROWTH, POLL_MOST = 1.5, 5.0
"""Each wait is so much longer than the one before, up to so many times the first."""
_FAILED = {"failed", "canceled"}


class Launcher:
    """Launches of one provider."""

    def __init__(self, config: AzureConfig, arm: Resources, memory: Memory, clock: Clock) -> None:
        self._config = config
        self._arm = arm
        self._memory = memory
        self._clock = clock

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        """Start machines, or say why not; the name of the set, worked out from the launch id, is what makes it idempotent."""
        name = set_name(self._config.cluster, request.launch_id)
        try:
            operation = await self._arm.create_set(name, set_body(self._config, request, name))
        except ProviderError as error:
            if error.fault.code == EXISTS:
                return await self._again(request, name)
            return _result(request, (), of_pool(error.fault, request.pool.name))
        return await self._followed(request, name, operation, first=True)

    async def _again(self, request: LaunchRequest, name: str) -> LaunchResult:
        """Return what became of a launch that was asked for before."""
        try:
            said = await self._arm.get_set(name)
        except ProviderError as error:
            return _result(request, (), _unsure(error.fault))
        if said is None or _state(said) == "deleting":
            gone = Fault(
                FaultKind.TRANSIENT, "BeingDeleted", "what was left of this launch is being deleted", retry_s=BEING_DELETED_RETRY_S
            )
            return _result(request, (), gone)
        if strings(table(said, "tags")).get(TAG_REQUEST) != fingerprint(request):
            return await self._other(request, name, strings(table(said, "tags")))
        return await self._followed(request, name, "", first=False)

    async def _other(self, request: LaunchRequest, name: str, tags: Mapping[str, str]) -> LaunchResult:
        """Return what lives of a launch that was asked for in other words, such as before our settings changed."""
        try:
            machines = await self._machines(request, name, tags)
        except ProviderError as error:
            return _result(request, (), _unsure(error.fault))
        message = f"another request had launch id {request.launch_id}"
        return _result(request, machines, Fault(FaultKind.CONFIG, "LaunchIdMismatch", message, pool=request.pool.name))

    async def _followed(self, request: LaunchRequest, name: str, operation: str, *, first: bool) -> LaunchResult:
        """Look until Azure has the machines or has given up, or our time is over."""
        machines: list[Seen] = []
        pause_s = self._config.poll_s
        end = self._clock.monotonic() + self._config.launch_timeout_s
        try:
            while True:
                state, why = await self._standing(name, operation, request.pool.name)
                machines = await self._machines(request, name, all_tags(self._config, request))
                placed = [each for each in machines if each.placed]
                if len(placed) >= request.count:
                    return _result(request, placed)
                if state in _FAILED:
                    return await self._fallen_short(request, name, machines, why, first=first)
                booting = any(each.provisioning == "creating" for each in machines)
                if state == "succeeded" and not booting and await self._ended_meanwhile(name, machines):
                    message = f"{len(machines)} of {request.count} instances are left of this launch"
                    return _result(request, machines, fault_of(SPENT_LAUNCH, message))
                if self._clock.monotonic() >= end:
                    message = f"{len(placed)} of {request.count} instances after {self._config.launch_timeout_s:g} s; Azure is still at it"
                    return _result(request, machines, fault_of(TIMEOUT, message))
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * POLL_GROWTH, self._config.poll_s * POLL_MOST)
        except ProviderError as error:
            return _result(request, machines, _unsure(error.fault))

    async def _standing(self, name: str, operation: str, pool: str) -> tuple[str, Fault | None]:
        """Return how the launch stands, in lower case, and Azure's word for why it failed."""
        if operation:
            said = await self._arm.operation(operation)
            state = str(said.get("status", "")).lower()
            return state, said_fault(said.get("error"), pool=pool) if state in _FAILED else None
        found = await self._arm.get_set(name)
        if found is None:
            raise ProviderError(_being_deleted())
        return _state(found), None

    async def _machines(self, request: LaunchRequest, name: str, tags: Mapping[str, str]) -> list[Seen]:
        """Return the machines of a set, by their own word and not by the filter's alone."""
        said = await self._arm.machines_of(name)
        seen = (seen_of(each, self._config.name, tags=tags, launch_id=request.launch_id) for each in said)
        machines = [self._memory.recalled(each) for each in seen if each is not None and each.set_name == name]
        self._memory.note((each for each in machines if not each.litter), self._clock.now())
        return machines

    async def _ended_meanwhile(self, name: str, machines: Sequence[Seen]) -> bool:
        """Whether the list lacks nothing: the set itself has no more. A list may lag behind a set that is complete."""
        said = await self._arm.get_set(name)
        capacity = table(said, "sku").get("capacity") if said is not None else 0
        return not isinstance(capacity, int) or capacity <= len(machines)

    async def _fallen_short(
        self, request: LaunchRequest, name: str, machines: Sequence[Seen], why: Fault | None, *, first: bool
    ) -> LaunchResult:
        """Keep what there is if that will do; delete the rest. Only whoever made the set may delete machines that run: they are new.

        Whoever comes later deletes nothing but what looks as if it had never been made, and takes the others for alive.
        """
        alive = [each for each in machines if each.placed or (not first and not each.litter)]
        litter = [each for each in machines if each not in alive]
        why = why or _told_by(litter, request) or fault_of(FEWER, f"{len(alive)} of {request.count} instances", pool=request.pool.name)
        enough = len(alive) >= request.minimum
        try:
            if enough or (alive and not first):
                await self._delete(name, litter)
            elif first or litter:
                await self._release(name, machines)
                alive = []
            else:
                why = fault_of(SPENT_LAUNCH, "no instance is left of this launch")
        except ProviderError:
            # the caller terminates what is below the minimum; the sweep takes what never ran
            return _result(request, alive, why)
        return _result(request, alive, why)

    async def _release(self, name: str, machines: Sequence[Seen]) -> None:
        """Delete a set; where machines of it ran, wait a little for their end, so that whoever looks finds none of them."""
        await self._arm.delete_set(name)
        self._memory.asked(machines)
        ran = any(each.placed for each in machines)
        end = self._clock.monotonic() + self._config.release_wait_s
        while ran and self._clock.monotonic() < end and await self._arm.get_set(name) is not None:
            await self._clock.sleep(self._config.poll_s)

    async def _delete(self, name: str, machines: Sequence[Seen]) -> None:
        for at in range(0, len(machines), BATCH_MAX):
            await self._arm.delete_machines(name, [each.name for each in machines[at : at + BATCH_MAX]])
        self._memory.asked(machines)


def _state(said: Mapping[str, Any]) -> str:
    return str(table(said, "properties").get("provisioningState", "")).lower()


def _being_deleted() -> Fault:
    return Fault(FaultKind.TRANSIENT, "BeingDeleted", "what was left of this launch is being deleted", retry_s=BEING_DELETED_RETRY_S)


def _told_by(litter: Sequence[Seen], request: LaunchRequest) -> Fault | None:
    """Return why machines could not be made, as the first of them that knows says."""
    reasons = (each.instance.state_reason.partition(": ") for each in litter if each.instance.state_reason)
    return next((fault_of(code, message, pool=request.pool.name) for code, _, message in reasons), None)


def _unsure(fault: Fault) -> Fault:
    """Return the fault of a look at a launch that was accepted: whatever it was, the launch may do well, and is to be looked at again."""
    retry_s = fault.retry_s if fault.retry_s is not None else BEING_DELETED_RETRY_S
    return Fault(FaultKind.TRANSIENT, fault.code, f"the launch was accepted, and then: {fault.message}"[:2000], retry_s=retry_s)


def _result(request: LaunchRequest, machines: Sequence[Seen], *faults: Fault) -> LaunchResult:
    return LaunchResult(request.launch_id, tuple(each.instance for each in machines if not each.litter), faults)
