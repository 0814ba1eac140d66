"""EC2's token buckets: how many calls, and how many instances, an account may ask for in a region before it is throttled.

Sizes: "Request throttling for the Amazon EC2 API" (EC2 developer guide, 2025), which says: each action has a bucket of its own per region,
sized by its category or by name; some draw from a second bucket as well, one token for each instance; a call that finds too
little in either is answered with RequestLimitExceeded. That CreateFleet draws from RunInstances' bucket of instances stands nowhere, and is
assumed here, because its instances are launched all the same. A call that is throttled takes no token (not documented either).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from holdfast_sandbox.ec2_wire import Ec2Error

Tokens = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
NARROWED = ("Filters", "MaxResults", "NextToken")
"""A describe call with one of these is filtered or paginated, and draws from the wider bucket."""


class BucketSize(BaseModel):
    """Most tokens that a bucket holds, and how many come back in a second."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    capacity: Tokens
    refill_per_s: Rate


def _size(capacity: float, refill_per_s: float) -> BucketSize:
    return BucketSize(capacity=capacity, refill_per_s=refill_per_s)


_PLAIN, _MUTATING, _OFTEN = _size(100, 20), _size(50, 5), _size(100, 5)
REQUESTS: Mapping[str, BucketSize] = {
    "Describe": _PLAIN,
    "Get": _PLAIN,
    "List": _PLAIN,
    "Search": _PLAIN,
    "": _MUTATING,
    "RunInstances": _size(5, 2),
    "TerminateInstances": _OFTEN,
    "CreateLaunchTemplateVersion": _OFTEN,
    "ModifyLaunchTemplate": _OFTEN,
    "CreateTags": _size(100, 10),
    "DeleteTags": _size(100, 10),
}
"""By action, or by what its name begins with; the longest entry counts. Of those named in the table the ones that this cloud has."""
UNNARROWED: Mapping[str, BucketSize] = {
    "DescribeInstances": _size(50, 10),
    "DescribeInstanceStatus": _size(50, 10),
    "DescribeSpotInstanceRequests": _size(50, 10),
}
"""The same where the call is neither filtered nor paginated."""
INSTANCES: Mapping[str, BucketSize] = {"RunInstances": _size(1000, 2), "TerminateInstances": _size(1000, 20)}
"""One token for each instance."""


class ApiBuckets(BaseModel):
    """The buckets of one account; what is not set is as published."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests: dict[str, BucketSize] = dict(REQUESTS)
    unnarrowed: dict[str, BucketSize] = dict(UNNARROWED)
    instances: dict[str, BucketSize] = dict(INSTANCES)


@dataclass
class _Level:
    tokens: float
    at: float

    def filled(self, size: BucketSize, now: float) -> float:
        """Return what it holds at `now`."""
        return min(size.capacity, self.tokens + max(0.0, now - self.at) * size.refill_per_s)


class Buckets:
    """What an account has left, in every region. Time is an argument."""

    def __init__(self, sizes: ApiBuckets) -> None:
        self._sizes = sizes
        self._levels: dict[tuple[str, ...], _Level] = {}

    def draw(self, region: str, action: str, params: Mapping[str, Any], now: float) -> None:
        """Take what a call costs; raises Ec2Error RequestLimitExceeded, and takes nothing, where a bucket holds too little."""
        wanted = [((region, *key), size, tokens) for key, size, tokens in self._costs(action, params)]
        levels = [self._levels.get(key, _Level(size.capacity, now)).filled(size, now) for key, size, _ in wanted]
        if any(left < tokens for left, (_, _, tokens) in zip(levels, wanted, strict=True)):
            raise Ec2Error("RequestLimitExceeded", "Request limit exceeded.")
        for left, (key, _, tokens) in zip(levels, wanted, strict=True):
            self._levels[key] = _Level(left - tokens, now)

    def _costs(self, action: str, params: Mapping[str, Any]) -> list[tuple[tuple[str, ...], BucketSize, float]]:
        found: list[tuple[tuple[str, ...], BucketSize, float]] = []
        prefix = max((name for name in self._sizes.requests if action.startswith(name)), key=len, default=None)
        if action in self._sizes.unnarrowed and not any(params.get(name) for name in NARROWED):
            found.append((("unnarrowed", action), self._sizes.unnarrowed[action], 1.0))
        elif prefix is not None:
            found.append((("requests", action), self._sizes.requests[prefix], 1.0))
        kind, count = _instances(action, params)
        if kind in self._sizes.instances:
            found.append((("instances", kind), self._sizes.instances[kind], float(count)))
        return found


def _instances(action: str, params: Mapping[str, Any]) -> tuple[str, int]:
    """Return whose bucket of instances a call draws from, and for how many; the most where it leaves that open."""
    if action == "CreateFleet":
        return "RunInstances", params["TargetCapacitySpecification"]["TotalTargetCapacity"]
    if action == "RunInstances":
        return action, params["MaxCount"]
    return action, len(params.get("InstanceIds", ()))
