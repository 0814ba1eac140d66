"""From one pool's refusal to the next pool's launch: what passes between the refusal's answer and the next call, by the cloud's record.

One job of one node, and so many zones that refuse, one after another, before one that has capacity. EC2 answers without latency; what is
left is boto3's reading of the answer, the journal, the decision, and the next call on its way. The account is one that may call as often as it
likes: by the rates that EC2 publishes, the sixth RunInstances in a row waits half a second for its token, which is EC2's time and not ours.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast_sandbox.cluster import Sandbox
from holdfast_sandbox.cluster_config import ControllerSpec, SandboxConfig, Site
from holdfast_sandbox.defaults import default_controller
from holdfast_sandbox.layout import PARTITION
from holdfast_sandbox.record import read_record
from holdfast_sandbox.zones import zones_of

from bench.launch_types import await_
from bench.requests import own_timing

MOST = 25
"""A sandbox has at most 26 zones."""
SETTLES_S = 2.0
RATES = "{ run_instances = [1000, 1000] }"


def measure(directory: Path, refusals: int) -> list[float]:
    """Return the seconds after each refusal. Raises as Sandbox does, TimeoutError."""
    config = SandboxConfig(
        nodes=1, zones=refusals + 1, boot_delay_s=0.0, resume_timeout_s=600, controller=_unbounded(own_timing(default_controller()))
    )
    with Sandbox(directory, config) as sandbox:
        sandbox.cloud.fail_boot()
        *poor, _ = zones_of(config)
        for zone in poor:
            sandbox.cloud.refuse(zone=zone.name)
        time.sleep(SETTLES_S)
        path = sandbox.layout.cloud / "cloud.jsonl"
        sandbox.slurm.submit("-p", PARTITION, "--nodes=1", "-o", "/dev/null", "--wrap", "sleep 1")
        await_(lambda: any(line["event"] == "requested" for line in read_record(path)), "the zone that refuses nothing")
        return gaps(read_record(path))


def _unbounded(spec: ControllerSpec) -> ControllerSpec:
    """Return the controller of an account with wider limits."""

    def files(site: Site) -> Mapping[str, str]:
        made = dict(spec.files(site))
        made["controller.toml"] = made["controller.toml"].replace("[providers.aws]\n", f"[providers.aws]\nrates = {RATES}\n")
        return made

    return replace(spec, files=files)


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
