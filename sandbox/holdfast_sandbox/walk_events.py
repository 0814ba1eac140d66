"""What the controller's journal tells of a walk, one line for each thing that matters to the job: when, where, what. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_common.policy import pool_name

from holdfast_sandbox.zones import SandboxZone

OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"})
WHY = {"capacity": "no capacity", "quota": "the quota is used up", "throttle": "too many calls", "price": "the price is above the cap"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the story."""

    at: float
    """Unix seconds."""
    zone: str
    """Empty for what happens in none."""
    what: str
    """One word for programs."""
    text: str


def pools_of(zones: Iterable[SandboxZone]) -> dict[str, SandboxZone]:
    """Return the zones by the full names of their spot pools."""
    return {pool_name(zone.provider, zone.region, zone.own_name, zone.instance_type, "spot"): zone for zone in zones}


class Narrator:
    """Tells the story of one job from the journal's events, in their order."""

    def __init__(self, zones: Iterable[SandboxZone], job_id: int) -> None:
        self._pools = pools_of(zones)
        self.job_id = job_id
        self._nodes_of_launch: dict[str, tuple[str, ...]] = {}
        self._pool_of_instance: dict[str, str] = {}
        self._pool_of_node: dict[str, str] = {}
        self._bought: set[str] = set()
        self._ahead: set[str] = set()
        self._told: set[tuple[Any, ...]] = set()
        self.ended = ""
        """The job's last state, once it is over."""
        self._tellers: Mapping[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, str, str]]]] = {
            "NodesRequested": self._requested,
            "NodesReleased": self._released,
            "PowerUpNode": self._bought_ahead,
            "Launch": self._launch,
            "LaunchEnded": self._launch_ended,
            "BindInstance": self._bound,
            "NoticeReceived": self._notice,
            "MachineMissing": self._missing,
            "JobReported": self._reported,
            "JobRequeued": self._requeued,
            "JobChanged": self._changed,
            "GiveUp": self._given_up,
            "HoldJob": self._held,
        }

    def lines(self, at: float, kind: str, body: Mapping[str, Any]) -> list[Line]:
        """Return what an event adds to the story, mostly nothing."""
        teller = self._tellers.get(kind)
        return [] if teller is None else [Line(at, zone, what, text) for zone, what, text in teller(body.get("command", body))]

    def zone_of(self, node: str) -> str:
        """Where a node's machine is; empty where that is not known."""
        return self._label(self._pool_of_node.get(node, ""))

    def _label(self, pool: str) -> str:
        zone = self._pools.get(pool)
        return pool if zone is None else zone.label

    def _priced(self, pool: str, told_usd_h: float | None) -> str:
        """The price that the journal tells, else the one with which the recording began."""
        zone = self._pools.get(pool)
        if told_usd_h is None and zone is None:
            return ""
        return f" at {told_usd_h:.2f} USD/h" if told_usd_h is not None or zone is None else f" at about {zone.spot_usd_h:.2f} USD/h"

    def _first(self, *key: Any) -> bool:
        """Whether this is told for the first time."""
        if key in self._told:
            return False
        self._told.add(key)
        return True

    def _requested(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if body["job_id"] == self.job_id and body["source"] == "hook" and not self._bought.issuperset(body["nodes"]):
            yield "", "requested", f"Slurm asks for {', '.join(body['nodes'])} for job {self.job_id}"

    def _released(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        self._bought -= set(body["nodes"])
        self._ahead -= set(body["nodes"])
        yield from ()

    def _bought_ahead(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if body["for_job"] == self.job_id and body["node"] not in self._ahead:
            self._ahead.add(body["node"])
            yield "", "requested", f"{body['node']} is asked for ahead, while the job still saves"

    def _launch(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        self._nodes_of_launch[body["launch_id"]] = tuple(body["nodes"])
        yield from ()

    def _launch_ended(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        zone = self._label(body["pool"])
        priced = self._priced(body["pool"], body["price_usd_h"])
        for instance in body["instances"]:
            self._pool_of_instance[instance["instance_id"]] = instance["pool"]
        nodes = self._nodes_of_launch.get(body["launch_id"], ())
        if body["faults"]:
            fault = body["faults"][0]
            yield zone, "refused", f"refused{priced}: {WHY.get(fault['kind'], fault['kind'])} ({fault['code']})"
        elif body["instances"]:
            self._bought |= set(nodes)
            other = body["on_demand_usd_h"]
            yield zone, "bought", f"bought {', '.join(nodes)}{priced}" + (f" (on demand {other:.2f})" if other else "")

    def _bound(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        self._pool_of_node[body["node"]] = self._pool_of_instance.get(body["instance_id"], "")
        yield from ()

    def _notice(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        notice = body["notice"]
        if notice is not None and self._first("notice", body["node"], notice["id"]):
            left_s = notice["deadline"] - notice["received"]
            yield self.zone_of(body["node"]), "notice", f"notice: {body['node']} is taken back in {left_s:.0f} s ({notice['reason']})"

    def _missing(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        yield self.zone_of(body["node"]), "lost", f"{body['node']} is gone without notice"

    def _reported(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if body["job_id"] != self.job_id or body["state"] != "parked" or body["saved_step"] is None:
            return
        if self._first("saved", body["attempt"]):
            yield self.zone_of(body["node"]), "saved", f"saved at step {body['saved_step']}"

    def _requeued(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if body["job_id"] == self.job_id:
            yield "", "requeued", f"job {self.job_id} is requeued after attempt {body['attempt']}"

    def _changed(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        view = body["view"]
        if view["job_id"] != self.job_id:
            return
        attempt, nodes = view["restarts"], view["nodes"]
        if view["state"] == "RUNNING" and nodes and self._first("running", attempt):
            zone = " + ".join(dict.fromkeys(self.zone_of(node) for node in nodes))
            yield zone, "running", f"running{' again' if attempt else ''} on {', '.join(nodes)} (attempt {attempt})"
        if view["state"] in OVER and not view["completing"] and self._first("over"):
            self.ended = view["state"]
            yield "", "ended", f"job {self.job_id} is {view['state']}"

    def _given_up(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if body["job_id"] == self.job_id:
            yield "", "waits", "no zone has room: the job waits, and is tried again"

    def _held(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        if body["job_id"] == self.job_id:
            yield "", "held", f"held: {body['reason']}"
