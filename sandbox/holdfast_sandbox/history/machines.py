"""Each machine's life, and where each attempt ran: the cloud's record and the journal put together. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from holdfast_common.views import NodeView

from holdfast_sandbox.history.model import JournalEntry, Records

SECONDS_PER_HOUR = 3600.0


@dataclass(slots=True)
class Machine:
    """One instance; Unix seconds, None for what has not happened."""

    instance_id: str
    requested: float
    price_usd_h: float
    token: str
    """The client token of the launch call that it came from."""
    zone: str = ""
    node: str = ""
    bound: float | None = None
    running: float | None = None
    notice: float | None = None
    killed: float | None = None
    gone: float | None = None
    charged_usd: float | None = None
    """What the cloud charged for it once it was gone."""

    def hours(self, now: float) -> float:
        """For how long it has been charged."""
        return 0.0 if self.running is None else ((self.gone or now) - self.running) / SECONDS_PER_HOUR

    def cost_usd(self, now: float) -> float:
        """What it has cost."""
        return self.hours(now) * self.price_usd_h if self.charged_usd is None else self.charged_usd


def machines(records: Records) -> dict[str, Machine]:
    """Return every instance that was ever launched, by id, in the order of their launch."""
    found: dict[str, Machine] = {}
    for line in records.cloud:
        instance_id = line.get("instance_id", "")
        if line["event"] == "requested":
            found[instance_id] = Machine(instance_id, line["t"], line["price_usd_h"], line["client_token"], line.get("zone", ""))
        elif instance_id in found:
            _note(found[instance_id], line)
    for entry in entries(records, "BindInstance"):
        command = entry.body["command"]
        machine = found.get(command["instance_id"])
        if machine is not None and machine.bound is None:
            machine.node, machine.bound = command["node"], entry.at
    return found


def _note(machine: Machine, line: dict[str, Any]) -> None:
    if line["event"] == "running":
        machine.running = line["t"]
    elif line["event"] == "notice":
        machine.notice = line["t"]
    elif line["event"] == "killed":
        machine.killed = line["t"]
    elif line["event"] == "terminated":
        machine.gone, machine.charged_usd = line["t"], line["cost_usd"]


def entries(records: Records, kind: str) -> Iterator[JournalEntry]:
    """Yield the journal's entries of a kind, in order."""
    return (entry for entry in records.journal if entry.kind == kind)


def nodes_of(records: Records, job_id: int, attempt: int) -> tuple[str, ...]:
    """Return the nodes on which an attempt ran, by Slurm's word in the journal; empty where it never ran."""
    for entry in entries(records, "JobChanged"):
        view = entry.body["view"]
        if view["job_id"] == job_id and view["restarts"] == attempt and view["state"] == "RUNNING":
            return tuple(view["nodes"])
    return ()


def holder(records: Records, node: str, at: float) -> Machine | None:
    """Return the machine that was `node` at a moment."""
    held = [m for m in machines(records).values() if m.node == node and (m.bound or at + 1) <= at and (m.gone is None or m.gone > at)]
    return max(held, key=lambda machine: machine.bound or 0.0, default=None)


def up_at(records: Records, node: str, after: float) -> float | None:
    """Return when Slurm first had the node registered and usable after a moment."""
    for entry in entries(records, "NodeChanged"):
        view = entry.body["view"]
        if view["name"] == node and entry.at > after and is_up(view["state"], view["flags"]):
            return entry.at
    return None


def is_up(state: str, flags: list[str]) -> bool:
    """Whether a node in that state can run jobs."""
    return NodeView("", state, frozenset(flags)).up
