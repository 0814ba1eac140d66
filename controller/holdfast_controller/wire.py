"""Protobuf ↔ domain. What comes over the wire is untrusted: bounded, and checked before it becomes an event."""

import math
import re
from collections.abc import Container

from holdfast_common.errors import InputError
from holdfast_common.notice import Notice, NoticeKind
from holdfast_protos.v1 import agent_pb2, hook_pb2

from holdfast_controller.events import (
    AgentArrived,
    Event,
    JobLeftNode,
    JobReported,
    NodesReleased,
    NodesRequested,
    NoticeReceived,
    NoticeWithdrawn,
    ResumeFailed,
)
from holdfast_controller.fleet import Fleet
from holdfast_controller.health_wire import health_event

MAX_NODES = 100_000
MAX_NOTICE_AHEAD_S = 30 * 86400.0
STATES = frozenset({"", "ready", "running", "saving", "saved", "parked", "done"})
_ID = re.compile(r"[A-Za-z0-9._:@/+-]{0,200}")
_NODE = re.compile(r"[A-Za-z0-9._-]{1,255}")


def _id(text: str, what: str) -> str:
    if not _ID.fullmatch(text):
        raise InputError(f"{what} {text[:50]!r} has characters that no {what} has, or too many")
    return text


def _text(text: str) -> str:
    return "".join(char for char in text[:500] if char.isprintable())


def node_names(names: list[str]) -> tuple[str, ...]:
    """Return the names. Raises InputError."""
    if len(names) > MAX_NODES:
        raise InputError(f"{len(names)} nodes are more than {MAX_NODES}")
    bad = next((name for name in names if not _NODE.fullmatch(name)), None)
    if bad is not None:
        raise InputError(f"{bad[:50]!r} is no node name")
    return tuple(dict.fromkeys(names))


def from_hello(hello: agent_pb2.Hello, launch_id: str, now: float) -> AgentArrived:
    """Return the arrival that a Hello means; its token has proved `launch_id`. Raises InputError."""
    if not hello.instance_id or not hello.boot_id:
        raise InputError("a Hello without instance id or boot id")
    return AgentArrived(
        now,
        _id(hello.instance_id, "instance id"),
        _id(hello.boot_id, "boot id"),
        launch_id,
        _id(hello.address, "address"),
        _id(hello.node, "node name"),
        hello.metrics_port if hello.metrics_port < 65536 else 0,
    )


def from_notice(message: agent_pb2.Notice, now: float) -> Notice:
    """Return the notice. Raises InputError."""
    if not message.id or message.kind not in set(NoticeKind):
        raise InputError(f"a notice without id, or of the unknown kind {message.kind[:50]!r}")
    if not math.isfinite(message.deadline) or message.deadline > now + MAX_NOTICE_AHEAD_S:
        raise InputError(f"a notice with the deadline {message.deadline}")
    received = min(message.received, now) if math.isfinite(message.received) and message.received > 0 else now
    return Notice(_id(message.id, "notice id"), NoticeKind(message.kind), message.deadline, received, _text(message.reason))


def notice_message(notice: Notice) -> agent_pb2.Notice:
    """Return the notice as it goes over the wire."""
    return agent_pb2.Notice(id=notice.id, kind=str(notice.kind), deadline=notice.deadline, received=notice.received, reason=notice.reason)


def to_events(message: agent_pb2.AgentMessage, node: str, fleet: Fleet, now: float) -> list[Event]:
    """Return what a message of the node's agent means; nothing where it tells only progress. Raises InputError."""
    body = message.WhichOneof("body")
    if body == "notice":
        known = fleet.nodes[node].doom if node in fleet.nodes else None
        if known is not None and known.notice.id == message.notice.id:
            return []
        return [NoticeReceived(now, node, from_notice(message.notice, now), "agent")]
    if body == "notice_cancelled":
        return [NoticeWithdrawn(now, node, _id(message.notice_cancelled.id, "notice id"))]
    if body == "job_status":
        return _status(message.job_status, node, fleet, now)
    if body == "health":
        reported = health_event(message.health, fleet.nodes[node], now) if node in fleet.nodes else None
        return [reported] if reported is not None else []
    if body == "job_gone":
        return [JobLeftNode(now, node, message.job_gone.job_id, message.job_gone.attempt)]
    return []


def _status(status: agent_pb2.JobStatus, node: str, fleet: Fleet, now: float) -> list[Event]:
    if status.state not in STATES or status.ranks > 65536:
        raise InputError(f"a job status with the state {status.state[:50]!r} and {status.ranks} ranks")
    event = JobReported(
        now,
        node,
        status.job_id,
        status.attempt,
        status.state,
        status.ranks,
        _id(status.notice_id, "notice id"),
        status.saved_step if status.saved_step >= 0 else None,
        status.all_ranks_parked,
        status.stopped_on_notice,
    )
    job = fleet.jobs.get(status.job_id)
    old = job.reports.get(node) if job is not None else None
    same = old is not None and (old.attempt, old.state, old.ranks, old.notice_id, old.all_ranks_parked, old.stopped_on_notice) == (
        event.attempt,
        event.state,
        event.ranks,
        event.notice_id,
        event.all_ranks_parked,
        event.stopped_on_notice,
    )
    return [] if same else [event]


def requested(request: hook_pb2.ResumeRequest, managed: Container[str], now: float) -> list[Event]:
    """Return one request for each job, and one for each node that no job is named for. Raises InputError.

    slurmctld calls one ResumeProgram for all its nodes: those that are not `managed` are somebody else's, and nothing is noted of them.
    """
    if sum(len(job.nodes) + len(job.nodes_alloc) for job in request.jobs) > 2 * MAX_NODES:
        raise InputError(f"the jobs name more than {2 * MAX_NODES} nodes")
    everyone = [name for name in node_names(list(request.nodes)) if name in managed]
    events: list[Event] = []
    named: set[str] = set()
    for job in request.jobs:
        names = tuple(name for name in node_names(list(job.nodes)) if name in managed)
        named.update(names)
        if names:
            alloc = tuple(name for name in node_names(list(job.nodes_alloc)) if name in managed)
            events.append(NodesRequested(now, names, job.job_id, alloc=alloc))
    return [*events, *(NodesRequested(now, (name,), 0) for name in everyone if name not in named)]


def released(request: hook_pb2.SuspendRequest, managed: Container[str], now: float) -> list[Event]:
    """Return the release, if it concerns managed nodes. Raises InputError."""
    names = tuple(name for name in node_names(list(request.nodes)) if name in managed)
    return [NodesReleased(now, names)] if names else []


def resume_failed(request: hook_pb2.ResumeFailRequest, managed: Container[str], now: float) -> list[Event]:
    """Return the failure, if it concerns managed nodes. Raises InputError."""
    names = tuple(name for name in node_names(list(request.nodes)) if name in managed)
    return [ResumeFailed(now, names)] if names else []
