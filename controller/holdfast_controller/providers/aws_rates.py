"""How often EC2 lets itself be asked, by the published defaults ("Request throttling for the Amazon EC2 API", EC2 developer guide, 2025).

Each action has a bucket of its own per account and region; launches and terminations draw from a second one as well, a token for each
instance. An account may have been given more: `AwsConfig.rates`. That CreateFleet's instances count as RunInstances' stands nowhere, and
is assumed; so is that instances that EC2 refuses to start cost nothing (these buckets hold resources, not requests).
"""

from collections.abc import Callable, Mapping
from typing import Any

from holdfast_controller.providers.base import FaultKind
from holdfast_controller.providers.buckets import Rate

INSTANCES = ".instances"
"""Ends the name of the second bucket of an action."""
_READ, _WRITE, _OFTEN = Rate(100, 20), Rate(50, 5), Rate(100, 5)
RATES: Mapping[str, Rate] = {
    "run_instances": Rate(5, 2),
    f"run_instances{INSTANCES}": Rate(1000, 2),
    "terminate_instances": _OFTEN,
    f"terminate_instances{INSTANCES}": Rate(1000, 20),
    "create_launch_template_version": _OFTEN,
}


def rate_of(own: Mapping[str, tuple[float, float]]) -> Callable[[str], Rate]:
    """Return how to look a bucket's rate up by boto3's name of an operation; `own` goes before what is published."""

    def find(api: str) -> Rate:
        if api in own:
            return Rate(*own[api])
        return RATES.get(api, _READ if api.startswith(("describe_", "get_")) else _WRITE)

    return find


def instances_of(operation: str, parameters: Mapping[str, Any]) -> tuple[str, int]:
    """Return the second bucket that a call draws from, and how much; nothing for most calls."""
    if operation == "run_instances":
        return f"run_instances{INSTANCES}", int(parameters["MaxCount"])
    if operation == "create_fleet":
        return f"run_instances{INSTANCES}", int(parameters["TargetCapacitySpecification"]["TotalTargetCapacity"])
    if operation == "terminate_instances":
        return f"terminate_instances{INSTANCES}", len(parameters["InstanceIds"])
    return "", 0


def answered_instances(operation: str, answer: Mapping[str, Any]) -> int:
    """Return how many instances the answer to a call that draws from a second bucket names."""
    if operation == "create_fleet":
        return sum(len(group.get("InstanceIds", [])) for group in answer.get("Instances", []))
    return len(answer.get("TerminatingInstances" if operation == "terminate_instances" else "Instances", []))


def refused_whole(kind: FaultKind) -> bool:
    """Whether a failed call has touched no instance, and no bucket either.

    One without an answer may have been carried out; a throttle may be due to the very bucket that we would fill again.
    """
    return kind not in (FaultKind.TRANSIENT, FaultKind.THROTTLE)
