"""TerminateInstances for many: one bad id fails the whole call at EC2, so that the rest is asked for again without it."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast_controller.providers.aws_calls import AwsCalls
from holdfast_controller.providers.aws_errors import UNKNOWN_INSTANCE, named_ids
from holdfast_controller.providers.aws_wire import state_of
from holdfast_controller.providers.base import Fault, FaultKind, ProviderError

BATCH_MAX = 1000
EXTRA_CALLS_MAX = 64
"""Calls spent on finding what is wrong with a batch, before the rest is left to the caller's next try."""
INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")


@dataclass(slots=True)
class Outcome:
    """What came of asking one region."""

    gone: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)


async def terminate_in(calls: AwsCalls, region: str, instance_ids: Sequence[str]) -> Outcome:
    """Ask for all of them, whatever is wrong with some. Faults are returned, none is raised."""
    outcome = Outcome()
    batches = deque(list(instance_ids[at : at + BATCH_MAX]) for at in range(0, len(instance_ids), BATCH_MAX))
    for _ in range(len(batches) + EXTRA_CALLS_MAX):
        if not batches:
            return outcome
        batch = batches.popleft()
        try:
            answer = await calls.call(region, "terminate_instances", InstanceIds=batch)
        except ProviderError as error:
            batches.extend(_without_the_bad(batch, error.fault, outcome))
            continue
        for said in answer.get("TerminatingInstances", []):
            if state_of(str(said.get("CurrentState", {}).get("Name", ""))) == "gone":
                outcome.gone.add(str(said["InstanceId"]))
    if batches:
        left = sum(len(batch) for batch in batches)
        outcome.faults.append(Fault(FaultKind.TRANSIENT, "TooManyCalls", f"{left} instances not asked for yet", retry_s=5))
    return outcome


def _without_the_bad(batch: list[str], fault: Fault, outcome: Outcome) -> list[list[str]]:
    """Return the batches to try instead of one that failed as a whole."""
    halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    if fault.code == UNKNOWN_INSTANCE:
        bad = named_ids(fault.message).intersection(batch) if len(batch) > 1 else frozenset(batch)
        outcome.unknown |= bad
        rest = [instance_id for instance_id in batch if instance_id not in bad]
        return [part for part in ([rest] if bad else halves) if part]
    if fault.kind is FaultKind.CONFIG and len(batch) > 1:
        return halves  # one protected instance shall not keep the others alive
    outcome.faults.append(fault)
    return []
