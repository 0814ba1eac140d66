"""From one pool's refusal to the next pool's launch: what passes between the refusal's answer and the next call, by the cloud's record.

One job of one node, and zones that refuse, one after another, before one that has capacity; as many as EC2's published rate allows in a row
(the sixth RunInstances waits half a second for its token, which is EC2's time and not ours), and again with a new controller. EC2 answers
without latency; what is left is boto3's reading of the answer, the journal, the decision, and the next call on its way.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import SandboxConfig
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.record import read_record
from holdfast_sandbox.zones import zones_of

from bench.launch_types import await_
from bench.requests import own_timing

IN_A_ROW = 4
SETTLES_S = 2.0


def measure(directory: Path, refusals: int) -> list[float]:
    """Return the seconds after each refusal. Raises as Sandbox does, TimeoutError."""
    directory.mkdir()
    found: list[float] = []
    while len(found) < refusals:
        found += _measure(directory / str(len(found)), min(IN_A_ROW, refusals - len(found)))
    return found


def _measure(directory: Path, refusals: int) -> list[float]:
    config = SandboxConfig(nodes=1, zones=refusals + 1, boot_delay_s=0.0, resume_timeout_s=600, controller=own_timing(default_controller()))
    with Sandbox(directory, config) as sandbox:
        sandbox.cloud.fail_boot()
        *poor, _ = zones_of(config)
        for zone in poor:
            sandbox.cloud.refuse(zone=zone.name)
        time.sleep(SETTLES_S)
        path = sandbox.layout.cloud / "cloud.jsonl"
        sandbox.slurm.submit("-p", PARTITION, "--nodes=1", "-o", "/dev/null", "--wrap", "sleep 1")
        await_(lambda: any(line["event"] == "requested" for line in read_record(path)), "the zone that refuses nothing")
        hops = gaps(read_record(path))
    if len(hops) != refusals:
        raise ValueError(f"{refusals} zones refuse, and {len(hops)} launches came after a refusal")
    return hops


def gaps(record: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return how long after each call that was refused the next one came."""
    found, refused = [], None
    for line in record:
        if line["event"] == "launch_request":
            if refused is not None:
                found.append(line["t"] - refused)
            refused = None
        elif line["event"] == "refused":
            refused = line["t"]
    return found
