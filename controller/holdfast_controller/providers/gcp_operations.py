"""Operations: what an accepted request has become. All are asked for at the configured endpoint."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.base import Fault, FaultKind, ProviderError
from holdfast_controller.providers.gcp_calls import ComputeCalls, last, silent
from holdfast_controller.providers.gcp_errors import TRANSIENT_RETRY_S, UNFINISHED, VAGUE, fault_of
from holdfast_controller.providers.gcp_wire import seconds_of

DONE = 2104194
"""`Operation.Status.DONE`: enumerations are numbers in the bare message."""
WAIT_MAX_S = 130.0
"""Compute Engine answers after two minutes at the latest, done or not."""
PAUSE_S = 1.0
PREEMPTED = "compute.instances.preempted"
SOFT_OFF_S = 30.0
"""From the soft-off signal, when that operation begins, to the end of a Spot VM."""


async def finished(calls: ComputeCalls, clock: Clock, project: str, operation: Any, within_s: float) -> Any:
    """Return the operation once it is done.

    Raises ProviderError where that cannot be learnt in time. The request was accepted, so that even "not found" says nothing of what has
    become of it: what would be a configuration fault is a transient one here.
    """
    try:
        return await asyncio.wait_for(_done(calls, clock, project, operation, within_s), within_s)
    except TimeoutError:
        message = f"{operation.name} has not ended within {within_s:g} s"
        raise ProviderError(fault_of(UNFINISHED, message)) from None
    except ProviderError as error:
        if error.fault.kind is not FaultKind.CONFIG:
            raise
        raise ProviderError(replace(error.fault, kind=FaultKind.TRANSIENT, retry_s=TRANSIENT_RETRY_S)) from error


async def _done(calls: ComputeCalls, clock: Clock, project: str, operation: Any, within_s: float) -> Any:
    if operation.zone:
        service, where = "ZoneOperations", {"zone": last(operation.zone)}
    else:
        service, where = "RegionOperations", {"region": last(operation.region)}
    answer = operation
    while answer.status != DONE:
        answer = await calls.wait(service, min(within_s, WAIT_MAX_S), project=project, operation=operation.name, **where)
        if answer.status != DONE:
            await clock.sleep(PAUSE_S)
    return answer


def faults_in(operations: Iterable[Any], pool: str) -> list[Fault]:
    """Return why operations came to nothing, each reason once. A vague one is left out where there is a clear one."""
    found: dict[str, Fault] = {}
    for operation in operations:
        for said in operation.error.errors:
            found.setdefault(said.code, fault_of(said.code, said.message, operation.http_error_status_code, pool))
    clear = [fault for code, fault in found.items() if code not in VAGUE]
    return clear or list(found.values())


def made_by(operation: Any) -> int | None:
    """Return how many instances a bulkInsert has made; None where it does not say."""
    said = list(operation.instances_bulk_insert_operation_metadata.per_location_status.values())
    return sum(each.created_vm_count - each.deleted_vm_count for each in said) if said else None


async def of_group(calls: ComputeCalls, group: str) -> list[Any]:
    """Return the single instances' operations of a bulkInsert: they say which of them failed, and why. Raises ProviderError."""
    pages = await calls.pages("GlobalOperations", "aggregated_list", filter=f'operationGroupId = "{group}"')
    return [said for page in pages for scope in page.items.values() for said in scope.operations]


async def preemptions(calls: ComputeCalls, regions: Iterable[str]) -> tuple[dict[str, float], str]:
    """Return when Spot VMs began to be taken back (Unix seconds), by instance id, as long as Google remembers; the whole project's.

    With it the reason why some region could not tell, or nothing. Raises ProviderError.
    """
    pages = await calls.pages("GlobalOperations", "aggregated_list", filter=f'operationType = "{PREEMPTED}"')
    found: dict[str, float] = {}
    for said in (said for page in pages for scope in page.items.values() for said in scope.operations):
        began = seconds_of(said.insert_time or said.start_time)
        if said.operation_type == PREEMPTED and said.target_id and began is not None:
            found[str(said.target_id)] = began
    return found, silent(pages, regions)[1]
