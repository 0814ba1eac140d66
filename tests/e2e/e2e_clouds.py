"""A bed whose one partition is over three clouds, one zone of each; what each cloud has to show for what a test did in it."""

import json
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from e2e_bed import Bed, TrainingJob, until
from e2e_gang import switched_on
from holdfast_sandbox.provider_tables import GROUP, SUBSCRIPTION

ZONES = {"aws": "us-east-1a", "gcp": "us-central1-a", "azure": "eastus-1"}
"""By cloud, in the policy's order; names as the sandbox's market has them."""


def only(bed: Bed, *clouds: str) -> None:
    """Have no cloud but these any room, from now on."""
    bed.cloud.clear()
    for cloud, zone in ZONES.items():
        if cloud not in clouds:
            bed.cloud.refuse(zone=zone)


def clouds_of(bed: Bed, job: TrainingJob) -> list[str]:
    """Return the clouds of the job's nodes, by the sandbox's own list."""
    found = {each["instance_id"]: each["provider"] for each in bed.cloud.instances()}
    return [found[bed.sandbox.instances.instance_of(node)] for node in job.nodes()]


def running_in(bed: Bed, job: TrainingJob, cloud: str, attempt: int = 0) -> str:
    """Wait until an attempt trains in the cloud, and return its node."""
    job.await_event("first_step_done", attempt=attempt)
    assert clouds_of(bed, job) == [cloud]
    [node] = job.nodes()
    return node


def noticed(bed: Bed, node: str, after: float) -> Any:
    """Return the journal's entry for the notice that a node's agent has sent since."""

    def look() -> list[Any]:
        return [entry for entry in bed.journal("NoticeReceived") if entry.body["node"] == node and entry.at >= after]

    return until(look, 10, f"the notice for {node}")[0]


def fresh(bed: Bed) -> tuple[str, ...]:
    """Return sbatch's options for a job that is to have nodes bought: on none that are switched on already."""
    used = switched_on(bed)
    return ("--exclude", ",".join(used)) if used else ()


def approved(bed: Bed) -> list[str]:
    """Return the types of Azure's events that anyone has agreed to."""
    return [line["event_type"] for line in bed.record("event_approved")]


def give_all_back(bed: Bed) -> None:
    """Have Slurm power all nodes down, and wait until no cloud has a machine. (Azure's scale sets stay for two hours, empty and free.)"""
    bed.sandbox.run(["scontrol", "update", f"nodename={','.join(switched_on(bed))}", "state=POWER_DOWN", "reason=end of the test"])
    until(lambda: all(each["state"] == "terminated" for each in bed.cloud.instances()), 40, "the end of every machine")
    until(lambda: not listed(bed, "virtualMachines"), 10, "the end of every machine's resource")
    assert {each["sku"]["capacity"] for each in listed(bed, "virtualMachineScaleSets")} <= {0}


def listed(bed: Bed, kind: str) -> list[Any]:
    """Return Azure's own list of a kind of resource."""
    group = f"{bed.sandbox.site.cloud_url}/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute"
    request = Request(f"{group}/{kind}?api-version=2024-07-01", headers={"Authorization": "Bearer test"})
    with build_opener(ProxyHandler({})).open(request, timeout=5) as reply:
        found: list[Any] = json.load(reply)["value"]
    return found
