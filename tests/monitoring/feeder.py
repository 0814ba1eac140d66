"""Serves every metric of the table: two agents by their real exporter, and a controller whose series are made from the table."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from holdfast_common.exposition import CONTENT_TYPE, Families, text
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.model import Action, Finding, Sample
from holdfast_common.health.rules import default_rules
from holdfast_common.metrics import CONTROLLER, SHORT_S, Metric
from holdfast_common.metrics_server import MetricsServer, Page
from holdfast_nodeagent.exporter import families
from holdfast_nodeagent.gpu.inventory import Gpu, Inventory
from holdfast_nodeagent.health.snapshot import GpuJob, Snapshot, TierTime, XidCount

NODES = ("spot-1", "spot-2")
POOLS = (("aws/us-east-1/us-east-1a/p5.48xlarge/spot", "spot"), ("aws/us-east-1/us-east-1a/p5.48xlarge/on_demand", "on_demand"))
LABELS: Mapping[str, tuple[str, ...]] = {
    "version": ("0.1.0",),
    "phase": ("up", "doomed"),
    "provider": ("aws",),
    "cause": ("preempt", "health"),
    "outcome": ("saved", "deadline_missed"),
    "reason_class": ("preempt",),
    "owner": ("holdfast",),
    "rule": ("xid-79",),
    "market": ("spot", "on_demand"),
}
"""What the labels of the controller's series are, but for nodes, pools and kinds."""
KINDS = {
    "holdfast_preemption_notices": ("preempt", "health"),
    "holdfast_job_gpu_seconds": ("useful", "lost", "checkpoint"),
    "holdfast_launch_faults": ("capacity", "quota"),
}
ONE_NODE = {"holdfast_node_drain_info", "holdfast_node_intentional_down", "holdfast_preemption_deadline_timestamp_seconds"}
"""Said of the node that goes away."""


def agent(node: str, since: float, now: float) -> Snapshot:
    """All that there can be to know of a node with two GPUs: each reading has a value, rules hold, XIDs came, a job runs."""
    gpus = tuple(Gpu(index, f"GPU-{node}-{index}", f"0000:{index + 1:02x}:00.0", "NVIDIA H100", "1", "96.00", 80 << 30) for index in (0, 1))
    grown = now - since
    samples = {
        (name, uuid): Sample(now, name, grown if name.endswith(("joules", "replays", "errors")) else 1.0, uuid)
        for name, reading in READINGS.items()
        for uuid in ([gpu.uuid for gpu in gpus] if reading.scope == "gpu" else [""])
    }
    samples["gpus_visible", ""] = Sample(now, "gpus_visible", 2.0)
    rules = default_rules()
    finding = Finding("ecc-uncorrectable", Action.EVACUATE, since, gpus[0].uuid, "one error")
    rounds = int(grown * 10)
    return Snapshot(
        node=node,
        ready=True,
        polled_at=now,
        inventory=Inventory("570.1", "12", gpus),
        gpus_expected=2,
        samples=samples,
        findings=(finding,),
        rules=rules.reading,
        xids={(gpus[0].uuid, xid): XidCount(2, since) for xid in (79, 63, 31, 8)},
        gpu_jobs=(GpuJob(gpus[0].uuid, 12, "ann", "physics", "spot"),),
        tiers={"fast": TierTime(rounds, rounds * 0.02, tuple(rounds if bound >= 0.1 else rounds // 2 for bound in SHORT_S))},
    )


def controller(since: float, now: float) -> Families:
    """Each metric of the table with some series. Counters and histograms grow."""
    made = Families()
    for metric in CONTROLLER:
        name = metric.name.removeprefix("holdfast_")
        for place, labels in enumerate(_series(metric)):
            grown = (now - since) * (place + 1)
            if metric.kind == "histogram":
                count = int(grown)
                made.histogram(name, [count if bound >= 20.0 else count // 2 for bound in metric.buckets_s], count, 12.0 * count, labels)
            elif metric.kind == "counter":
                made.add(name, grown, labels)
            else:
                made.add(name, now - 1.0 if name.endswith("timestamp_seconds") else 1.0, labels)
    return made


def _series(metric: Metric) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{}]
    for label in metric.labels:
        if label == "pool":
            found = [{**one, "pool": pool} for one in found for pool, _ in POOLS]
        elif label == "market" and "pool" in metric.labels:
            found = [{**one, "market": dict(POOLS)[one["pool"]]} for one in found]
        else:
            found = [{**one, label: value} for one in found for value in _values(metric, label)]
    return found


def _values(metric: Metric, label: str) -> tuple[str, ...]:
    if label == "node":
        return NODES[1:] if metric.name in ONE_NODE else NODES
    return KINDS[metric.name] if label == "kind" else LABELS[label]


@dataclass
class Feeder:
    """Three servers on loopback, until left."""

    since: float = field(default_factory=time.time)
    _open: ExitStack = field(default_factory=ExitStack)
    port: int = 0
    """The controller's: `/metrics` and `/sd`."""

    def __enter__(self) -> "Feeder":
        groups = []
        for node in NODES:
            served = self._serve({"/metrics": lambda node=node: (CONTENT_TYPE, text(families(agent(node, self.since, time.time()), True)))})
            groups.append({"targets": [f"127.0.0.1:{served.port}"], "labels": {"node": node, "cluster": "c", "pool": POOLS[0][0]}})
        pages = {
            "/metrics": lambda: (CONTENT_TYPE, text(controller(self.since - 10.0, time.time()))),
            "/sd": lambda: ("application/json", json.dumps(groups).encode()),
        }
        self.port = self._serve(pages).port
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _serve(self, pages: Mapping[str, Page]) -> MetricsServer:
        server = MetricsServer("127.0.0.1:0", pages)
        self._open.callback(server.close)
        return server
