"""The stream of events: read once, or followed over restarts of the controller."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.cli.connection import CALL_TIMEOUT_S, why_unreachable
from holdfast_controller.cli.output import Cell, Row
from holdfast_controller.cli.text import words

RETRY_S = 0.3
LASTING = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"})
"""Failures that trying again does not cure."""
FINISHED = "CommandFinished"
MAX_EVENTS = 10_000
"""What the controller sends of the past."""


async def past(stub: Any, *, node: str = "", job_id: int = 0, last: int) -> list[Any]:
    """Return the newest `last` events. Raises AioRpcError."""
    from holdfast_protos.v1 import admin_pb2

    request = admin_pb2.EventsRequest(node=node, job_id=job_id, limit=max(1, last))
    found = [event async for event in stub.Events(request, timeout=CALL_TIMEOUT_S)]
    return found[-last:] if last else []


async def newest_seq(stub: Any) -> int:
    """Return the number of the newest event, 0 without one."""
    found = await past(stub, last=1)
    return int(found[-1].seq) if found else 0


async def follow(
    stub: Any, after: int, clock: Clock, socket: Path, tell: Callable[[str], None], *, node: str = "", job_id: int = 0
) -> AsyncIterator[Any]:
    """Yield the events after `after`, for ever, each once. `tell` hears when the controller goes away and when it is back.

    Raises AioRpcError for what trying again does not cure.
    """
    import grpc.aio
    from holdfast_protos.v1 import admin_pb2

    away = False
    while True:
        request = admin_pb2.EventsRequest(after_seq=after, follow=True, node=node, job_id=job_id)
        try:
            call = stub.Events(request, wait_for_ready=away)
            await call.wait_for_connection()
            if away:
                tell("the controller is back")
                away = False
            async for event in call:
                after = event.seq
                yield event
        except grpc.aio.AioRpcError as error:
            name = error.code().name
            if name == "OUT_OF_RANGE":
                tell(f"{error.details()}; going on with its first event")
                after = 0
                continue
            if name in LASTING:
                raise
        if not away:
            tell(f"the controller is not reachable at {socket} ({why_unreachable(socket)}); waiting for it")
            away = True
        await clock.sleep(RETRY_S)


def body_of(event: Any) -> dict[str, Any]:
    """Return the event's fields, empty where they cannot be read."""
    try:
        body = json.loads(event.body_json)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def event_record(event: Any) -> dict[str, Any]:
    """Return the event for --json."""
    return {
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "command": event.command,
        "text": event.text,
        "outcome": event.outcome or None,
        "body": body_of(event),
    }


def event_cells(event: Any) -> Row:
    """Return what happened or was ordered, and why (for a command with what came of it)."""
    text = event.text.removeprefix(f"{event.kind}: ")
    if event.kind == FINISHED:
        text = f"{body_of(event).get('key', '')}: {text}"
    elif event.outcome:
        text = f"{text} → {event.outcome}"
    bad = event.outcome.startswith(("failed", "refused")) or event.kind in {"NoticeReceived", "ResumeFailed"}
    style = "red" if bad else "cyan" if event.command else ""
    return (Cell(words(event.kind), style), Cell(text))
