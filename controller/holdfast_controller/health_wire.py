"""What agents say of their nodes' health: bounded, and checked before it becomes an event."""

import math
import re
from collections.abc import Iterable

from holdfast_common.errors import InputError
from holdfast_common.health.model import Action, Finding
from holdfast_protos.v1 import agent_pb2

from holdfast_controller.events import HealthReported
from holdfast_controller.records import Node

MOST_FINDINGS = 256
MOST_READINGS = 5000
MOST_JOBS = 100
"""Of those that a rule blames; for people only."""
MOST_BYTES = 1_000_000
_RULE = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_GPU = re.compile(r"[A-Za-z0-9:._/-]{0,96}")


def checked(message: agent_pb2.Health) -> agent_pb2.Health:
    """Return the message. Raises InputError where it is larger than any agent's."""
    if message.ByteSize() > MOST_BYTES or len(message.findings) > MOST_FINDINGS or len(message.readings) > MOST_READINGS:
        raise InputError(f"a report of health with {len(message.findings)} findings and {len(message.readings)} readings")
    return message


def findings_of(message: agent_pb2.Health, now: float) -> tuple[Finding, ...]:
    """Return the findings. Raises InputError."""
    return tuple(_finding(each, now) for each in checked(message).findings)


def health_event(message: agent_pb2.Health, node: Node, now: float) -> HealthReported | None:
    """Return the event that a message of the node's agent means; None where it changes nothing that matters. Raises InputError.

    Texts and figures change all the time; what matters is which rule holds for what, and what it asks for. An agent that has not read
    everything yet since its start takes nothing back.
    """
    said = findings_of(message, now)
    if not message.ready:
        new = {finding.key for finding in said}
        said = (*said, *(known for known in node.findings if known.key not in new))
    if node.health_heard and _essence(said) == _essence(node.findings):
        return None
    return HealthReported(now, node.name, node.instance_id, said)


def _essence(findings: Iterable[Finding]) -> frozenset[tuple[str, Action, bool]]:
    return frozenset((finding.key, finding.action, finding.dry_run) for finding in findings)


def _finding(said: agent_pb2.HealthFinding, now: float) -> Finding:
    if not _RULE.fullmatch(said.rule) or not _GPU.fullmatch(said.gpu) or said.action not in set(Action):
        raise InputError(f"a finding of the rule {said.rule[:50]!r} on {said.gpu[:50]!r} with the action {said.action[:20]!r}")
    since = min(said.since, now) if math.isfinite(said.since) and said.since > 0 else now
    return Finding(
        said.rule,
        Action(said.action),
        since,
        said.gpu,
        _text(said.text, 300),
        _text(said.advice, 500),
        said.dry_run,
        max(1, min(said.strikes, 1000)),
        tuple(said.job_ids[-MOST_JOBS:]),
    )


def _text(text: str, most: int) -> str:
    return "".join(char for char in text[:most] if char.isprintable())
