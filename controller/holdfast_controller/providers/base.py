"""The contract of a cloud. One suite of tests holds every implementation to it."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from typing import Protocol


class Market(StrEnum):
    """How an instance is bought."""

    SPOT = "spot"
    ON_DEMAND = "on_demand"


class FaultKind(StrEnum):
    """Why a call, or a part of it, failed. Only CAPACITY is a *refusal*; a throttle or a quota says nothing of a pool's capacity."""

    CAPACITY = "capacity"
    """The pool has none now: try the next pool, come back to this one later."""
    QUOTA = "quota"
    """The account may not have more of these: the next pool under another quota; this one not before instances have gone."""
    THROTTLE = "throttle"
    """Too many calls: the same call again after `retry_s`, without blaming the pool."""
    CONFIG = "config"
    """The request is wrong (a missing subnet, an unknown type): never again without an admin."""
    AUTH = "auth"
    """The credentials are wrong or lack a right: never again without an admin."""
    TRANSIENT = "transient"
    """No answer, or a fault of the cloud's own: the same call, with the same token, again after `retry_s`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure, as the core sees it."""

    kind: FaultKind
    code: str
    """The vendor's own code, for people to read; nobody decides by it."""
    message: str
    pool: str = ""
    """The pool's name where the failure concerns one pool only."""
    retry_s: float | None = None
    """After how many seconds the same call may succeed; None where only a change helps."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A capacity pool: provider, region, zone, instance type, market."""

    name: str
    """`aws/us-east-1/us-east-1a/p5.48xlarge/spot`: unique, and what people read."""
    provider: str
    region: str
    zone: str
    instance_type: str
    market: Market
    price_cap_usd_h: float | None = None
    """Highest spot price to pay per instance-hour; None: up to on-demand."""
    template: str = ""
    """The provider's launch template for this pool; empty: as the provider's settings say."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One call for `count` equal instances in one pool."""

    launch_id: str
    """Ours, unique per call; tagged on every instance, and the client token (≤ 64 ASCII characters)."""
    pool: Pool
    count: int
    minimum: int
    """All or nothing for a gang: below this the cloud shall start none, or what it started is terminated by the caller."""
    template: str = ""
    """The provider's launch template (AWS: name or id) for image, network and user data."""
    user_data: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Besides the cluster's and the launch's own."""
    others: tuple[Pool, ...] = ()
    """Pools of the same provider, region and market that will do as well, best first, for clouds that choose among several in one call.

    What is started still stands in one zone. A provider whose call takes one pool only ignores them: the caller asks them next.
    """

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools that will do, best first."""
        return (self.pool, *self.others)


@dataclass(frozen=True, slots=True)
class Instance:
    """A virtual machine of ours, as the cloud lists it."""

    instance_id: str
    launch_id: str
    pool: str
    """Name of the pool; rebuilt from what the cloud says (type, zone, lifecycle)."""
    state: str
    """pending, running, stopping (shutting down, stopped…) or gone (terminated)."""
    address: str = ""
    launched: float = 0.0
    """Unix seconds."""
    state_reason: str = ""
    reclaimed: bool = False
    """Gone because the cloud took it back (spot), not because anyone asked."""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reclaim:
    """The cloud's word that it will take an instance back, from its own interface and not from the machine's metadata."""

    instance_id: str
    deadline: float
    """Unix seconds; worked out from the time of the word where the cloud tells no more."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """What the cloud says of a pool now; None: unknown."""

    price_usd_h: float | None = None
    """Per instance-hour, in the pool's own market."""
    on_demand_usd_h: float | None = None
    """The same instance type in the same region, on demand."""
    score: float | None = None
    """How likely instances are to be had, 0 (none) to 1, by the cloud's own word (placement score, obtainability); no promise."""
    preemptions_per_h: float | None = None
    """How often a spot instance there is taken back, by the cloud's own history."""


def newer(old: Quote | None, new: Quote) -> Quote:
    """Return the newer quote, with the older one's word where it says nothing."""
    if old is None:
        return new
    return Quote(*(said if said is not None else before for said, before in zip(astuple(new), astuple(old), strict=True)))


@dataclass(frozen=True, slots=True)
class Offer:
    """An instance type with GPUs that a region sells, and its shape, by the cloud's own data."""

    provider: str
    region: str
    instance_type: str
    zones: tuple[str, ...]
    gpu_model: str
    """As the cloud writes it, without the vendor: `H100`, `A100`."""
    gpus: int
    gpu_memory_mb: int
    """Of one GPU, in MiB; 0: unknown."""
    cpus: int
    """Logical processors."""
    memory_mb: int
    """MiB."""
    markets: tuple[Market, ...] = (Market.SPOT, Market.ON_DEMAND)


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """What came of a launch. Instances and faults may both be there: a partial result is a result."""

    launch_id: str
    instances: tuple[Instance, ...] = ()
    faults: tuple[Fault, ...] = ()


class Provider(Protocol):
    """A cloud account, seen by one cluster.

    - Every method may take long or fail; failures of the call as a whole are raised as `ProviderError`, and only `launch` returns faults.
    - Every instance is tagged *at creation* with the cluster's id and its launch id, so that none can be lost by a crash between two calls.
    - A method never retries inside beyond one attempt: the caller owns time and tokens.
    """

    name: str

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        """Start up to `count` instances in the pool, in one call where the cloud has one.

        Idempotent by `launch_id`, which is good for one pool: the same request again returns the same instances and starts none, for at
        least an hour, also when they have ended meanwhile (a cloud that says no more than that adds a TRANSIENT fault without `retry_s`).
        Capacity, quota, throttle, configuration, authorization and transient failures are returned as faults; fewer than `count` instances
        come with at least one fault that says why. A time-out is a TRANSIENT fault: what was started is found by `find`.
        """

    async def find(self, launch_id: str) -> tuple[Instance, ...]:
        """Return the instances of one launch that are not gone. An empty answer right after a launch proves nothing (listings lag)."""

    async def instances(self) -> tuple[Instance, ...]:
        """Return every instance that carries the cluster's tag, those gone lately among them. Whole (all pages and regions), or raises.

        Raises `PartialAnswerError` if some regions answered, which says nothing of what it leaves out.
        """

    async def reclaims(self) -> tuple[Reclaim, ...]:
        """Return the reclaims that stand now, of instances that still live; instances of others may be among them.

        Whole, or raises; `PartialAnswerError` as above.
        """

    async def terminate(self, instance_ids: Sequence[str]) -> tuple[str, ...]:
        """Ask for termination; repeat until the instance is gone. Returns the ids that no longer exist. Unknown ids are no error."""

    async def quotes(self, pools: Sequence[Pool], *, scores: bool = False) -> dict[str, Quote]:
        """Return pool name → what is known of its price now; pools of which nothing is known are left out.

        `scores` asks for the cloud's word on capacity as well, which clouds allow a few times an hour only; where that cannot be had, the
        prices are returned without. A region that does not answer leaves its pools out; raises ProviderError if none answered.
        """

    async def offers(self) -> tuple[Offer, ...]:
        """Return every instance type with GPUs that the configured regions sell, with the zones that have it. Whole, or raises."""

    async def close(self) -> None:
        """Release connections and threads."""


class ProviderError(Exception):
    """A call to a cloud failed as a whole. `fault.kind` says whether and when trying again helps."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.kind}: {fault.code}: {fault.message}")
        self.fault = fault


class PartialAnswerError(ProviderError):
    """Some regions answered, and others did not: what the former said is true, and what is missing from it is unknown."""

    def __init__(self, fault: Fault, *, instances: tuple[Instance, ...] = (), reclaims: tuple[Reclaim, ...] = ()) -> None:
        super().__init__(fault)
        self.instances = instances
        self.reclaims = reclaims
