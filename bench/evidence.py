"""Where the seconds of an interruption went, from four records: the cloud's, the journal, the job's own and slurmctld's log."""

import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast_controller.launch_tags import nodes_of

from bench.jobs import Job

PARTS = {
    "detection": "Holdfast",
    "telling": "Holdfast",
    "save": "job",
    "decision": "Holdfast",
    "requeue": "Slurm",
    "expedite": "Holdfast",
    "scheduling": "Slurm",
    "ordering": "Holdfast",
    "boot": "cloud",
    "gate": "Holdfast",
    "start": "Slurm",
}
"""Part → whose it is, in the order in which they come.

Of a loss without notice: the first three are nothing, and the time begins when the loss is known (`known_at`).

detection: notice in the cloud's record → the agent has read it. telling: → the job's last rank has seen it. save: → that rank has parked.
decision: → the controller's requeue command. requeue: → slurmctld has the job PENDING, out of COMPLETING. expedite: → StartTime is set.
scheduling: → slurmctld has allocated nodes. ordering: → the cloud has the order for the fresh node, where that came later (slurmctld's
round of power saving, ResumeProgram, the call). boot: → the fresh node has registered, as far as nothing else hid it. gate: →
PrologSlurmctld has ended. start: → first line of the batch script (slurmd, Prolog, slurmstepd).
"""

_LINE = re.compile(r"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+)\] (.*)")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of slurmctld's log."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Interruption:
    """One notice and the next first line, as the one who caused it saw them."""

    case: str
    job: Job
    job_id: int
    attempt: int
    """The attempt that was interrupted."""
    doomed: str
    instance_id: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    first_line: float
    booted: bool
    """Whether the new node had to be bought."""
    killed_at: float | None = None
    """When the machine was taken away without notice; None: a notice came."""

    @property
    def fresh(self) -> tuple[str, ...]:
        """The next attempt's nodes that the interrupted one had not."""
        return tuple(node for node in self.after if node not in self.before)


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that was written down during a run."""

    cloud: Sequence[dict[str, Any]]
    journal: Sequence[dict[str, Any]]
    """Events with their `kind`."""
    slurmctld: Sequence[LogLine]


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the controller's events. The journal may be in use. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return [{"kind": kind, **json.loads(body)} for kind, body in db.execute("SELECT kind, body FROM events ORDER BY seq")]


def read_slurmctld_log(path: Path) -> list[LogLine]:
    """Return the lines with their times (slurmctld writes local time to the millisecond)."""
    found = (_LINE.match(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [LogLine(datetime.fromisoformat(match[1]).timestamp(), match[2]) for match in found if match]


def parts_of(interruption: Interruption, records: Records) -> dict[str, float]:
    """Return the seconds of each part; they add up to the whole. A moment that no record names costs its part nothing.

    Raises LookupError where the notice, or the loss, is in no record.
    """
    notice = known_at(interruption, records)
    ends = {
        **_controller_side(interruption, records.journal, notice),
        **_job_side(interruption),
        **_slurm_side(interruption, records.slurmctld, notice),
        **_cloud_side(interruption, records, notice),
        "start": interruption.first_line,
    }
    parts, last = {}, notice
    for name in PARTS:
        end = min(max(last, ends.get(name, last)), interruption.first_line)
        parts[name], last = end - last, end
    return parts


def known_at(interruption: Interruption, records: Records) -> float:
    """Return when the time begins: the notice in the cloud's record, or the moment at which the controller knew of the loss.

    That is the first event in the journal by which the instance is gone, whoever told of it: the cloud's list, which is asked at once when
    the agent's stream breaks. Raises LookupError where there is none.
    """
    iid = interruption.instance_id
    if interruption.killed_at is None:
        notice = cloud_time(records, "notice", iid)
        if notice is None:
            raise LookupError(f"the cloud has no record of a notice for {iid}")
        return notice
    for event in records.journal:
        instance = event.get("instance") or {}
        if event["kind"] == "InstanceChanged" and instance.get("instance_id") == iid and instance.get("state") == "gone":
            return float(event["at"])
    raise LookupError(f"the journal does not know that {iid} is gone")


def cloud_time(records: Records, event: str, instance_id: str) -> float | None:
    """Return when the cloud recorded the event of an instance."""
    return next((line["t"] for line in records.cloud if line["event"] == event and line.get("instance_id") == instance_id), None)


def order_of(nodes: Sequence[str], records: Records, until: float) -> float | None:
    """Return when the cloud got the last order for instances that are these nodes, before `until`; None where there was none.

    An instance is the node that its name was bound to: what it was bought for (its tag) can have been passed over by Slurm.
    """
    bound = {event["command"]["instance_id"]: event["command"]["node"] for event in _bindings(records, until)}

    def names(line: dict[str, Any]) -> set[str]:
        name = bound.get(line["instance_id"])
        return {name} if name else set(nodes_of(line["tags"]))

    orders = [line for line in records.cloud if line["event"] == "requested" and line["t"] < until]
    return max((line["t"] for line in orders if names(line) & set(nodes)), default=None)


def waited_for_name(nodes: Sequence[str], records: Records, since: float, until: float) -> float:
    """Return for how long the last of the nodes' machines was there, and waited until Slurm had chosen the name that it got."""
    arrived = {event["instance_id"]: event["at"] for event in reversed(records.journal) if event["kind"] == "AgentArrived"}
    waits = [
        event["at"] - max(since, arrived.get(event["command"]["instance_id"], event["at"]))
        for event in _bindings(records, until)
        if event["at"] > since and event["command"]["node"] in nodes
    ]
    return max(0.0, *waits) if waits else 0.0


def _bindings(records: Records, until: float) -> list[dict[str, Any]]:
    return [event for event in records.journal if event["kind"] == "BindInstance" and event["at"] < until]


def bought_in_vain(interruption: Interruption, records: Records) -> tuple[str, ...]:
    """Return the nodes that the controller bought ahead for the job, and that slurmctld passed over."""
    notice = known_at(interruption, records)
    ahead = [
        event["command"]["node"]
        for event in records.journal
        if event["kind"] == "PowerUpNode"
        and notice <= event["at"] <= interruption.first_line
        and event["command"]["for_job"] == interruption.job_id
    ]
    served = {event["command"]["node"] for event in records.journal if event["kind"] == "RedirectLaunch"}
    return tuple(node for node in dict.fromkeys(ahead) if node not in interruption.after and node not in served)


def redirected(interruption: Interruption, records: Records) -> tuple[str, ...]:
    """Return the nodes that slurmctld passed over, and whose machine then served the name that it chose."""
    since = known_at(interruption, records)
    events = [event for event in records.journal if event["kind"] == "RedirectLaunch" and since <= event["at"] <= interruption.first_line]
    return tuple(event["command"]["node"] for event in events if event["command"]["job_id"] == interruption.job_id)


def registration(log: Sequence[LogLine], nodes: Sequence[str], since: float, until: float) -> float | None:
    """Return when the last of the nodes registered within the time; None where one of them did not."""
    times = [_last(log, f"Node {node} now responding", since, until) for node in nodes]
    return None if None in times else max((time for time in times if time is not None), default=None)


def allocation(log: Sequence[LogLine], job_id: int, since: float, until: float) -> float | None:
    """Return when slurmctld gave the job its nodes, for the last time before `until`."""
    times = [_last(log, text, since, until) for text in (f"Started JobId={job_id} in ", f"Allocate JobId={job_id} ")]
    return max((time for time in times if time is not None), default=None)


def _controller_side(interruption: Interruption, journal: Sequence[dict[str, Any]], notice: float) -> dict[str, float]:
    ends: dict[str, float] = {}
    start_command = None
    for event in journal:
        if not notice <= event["at"] <= interruption.first_line:
            continue
        kind, command = event["kind"], event.get("command") or {}
        if kind == "NoticeReceived" and event["node"] == interruption.doomed:
            ends.setdefault("detection", float(event["notice"]["received"]))
        elif kind == "RequeueJob" and command["job_id"] == interruption.job_id and command["attempt"] == interruption.attempt:
            ends.setdefault("decision", event["at"])
        elif kind == "StartJob" and command["job_id"] == interruption.job_id:
            start_command = event["command_id"]
        elif kind == "CommandFinished" and event["command_id"] == start_command and event["outcome"] == "ok":
            ends["expedite"] = event["at"]
    return ends


def _job_side(interruption: Interruption) -> dict[str, float]:
    """When the rank that parked last saw the notice, and when it parked."""
    pairs = []
    for rank in interruption.job.events():
        own = {event["event"]: float(event["t"]) for event in reversed(rank) if event["attempt"] == interruption.attempt}
        if "parked" in own and "notice_seen" in own:
            pairs.append((own["parked"], own["notice_seen"]))
    if not pairs:
        return {}
    parked, seen = max(pairs)
    return {"telling": seen, "save": parked}


def _slurm_side(interruption: Interruption, log: Sequence[LogLine], notice: float) -> dict[str, float]:
    job_id, until = interruption.job_id, interruption.first_line
    found = {
        "requeue": _last(log, f"Requeuing JobId={job_id}", notice, until, whole=True),
        "scheduling": allocation(log, job_id, notice, until),
        "gate": _last(log, f"Configuration for JobId={job_id} is complete", notice, until),
    }
    return {name: at for name, at in found.items() if at is not None}


def _cloud_side(interruption: Interruption, records: Records, notice: float) -> dict[str, float]:
    if not interruption.booted:
        return {}
    registered = registration(records.slurmctld, interruption.fresh, notice, interruption.first_line)
    ordered = order_of(interruption.fresh, records, interruption.first_line)
    allocated = allocation(records.slurmctld, interruption.job_id, notice, interruption.first_line)
    waited = waited_for_name(interruption.fresh, records, allocated or notice, interruption.first_line)
    if waited and allocated is not None:
        # A machine that is there and has no name yet waits for slurmctld's call, as one does that has not been ordered.
        ordered = max(ordered or notice, allocated) + waited
    found = {"ordering": ordered, "boot": registered}
    return {name: at for name, at in found.items() if at is not None}


def _last(log: Sequence[LogLine], text: str, since: float, until: float, *, whole: bool = False) -> float | None:
    times = [line.at for line in log if since <= line.at <= until and (line.text == text if whole else text in line.text)]
    return max(times, default=None)
