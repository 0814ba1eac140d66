"""The requests of the control API, checked strictly: an unknown key or a wrong type is refused."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from holdfast_sandbox.cloud_config import Count, Seconds, Strict, UsdPerHour
from holdfast_sandbox.faults import ApiMode, MetadataMode
from holdfast_sandbox.market import MarketKind

Times = Annotated[int, Field(ge=1, le=1_000_000)] | None  # None: until cleared
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Tag(Strict):
    """A tag that names an instance."""

    key: Name
    value: str


class Target(Strict):
    """One live instance, by its id or by a tag that no other live instance has."""

    instance_id: Name | None = None
    tag: Tag | None = None

    @model_validator(mode="after")
    def _one(self) -> "Target":
        if (self.instance_id is None) == (self.tag is None):
            raise ValueError("name the instance by either instance_id or tag")
        return self


class Reclaim(Target):
    """Take an instance back after a notice (default: the cloud's)."""

    notice_s: Seconds | None = None


class Kill(Target):
    """Take an instance away at once."""

    reason: Name = "Server.SpotInstanceTermination"


class Maintenance(Target):
    """Announce scheduled events in an instance's metadata (an empty list withdraws them)."""

    events: Annotated[list[dict[str, str]], Field(max_length=20)]


class MaintenanceEvent(Target):
    """Set what a Compute Engine VM's metadata say of maintenance."""

    event: Literal["NONE", "MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"]


class AzureEvent(Strict):
    """A scheduled event of Azure, due in so many seconds; it names the VM itself unless told otherwise."""

    type: Literal["Terminate", "Reboot", "Redeploy", "Freeze"]
    due_s: Seconds
    resources: list[Name] | None = None
    duration_s: Annotated[int, Field(ge=-1)] = -1


class ScheduledEvents(Target):
    """Announce scheduled events to an Azure VM (an empty list withdraws them). Its eviction is ordered by `Reclaim`."""

    events: Annotated[list[AzureEvent], Field(max_length=20)]


class PoolChange(Strict):
    """Change a zone's pools from now on: all instance types, or one."""

    instance_type: Name | None = None
    lifecycle: MarketKind = "spot"
    capacity: Count | None = None
    price_usd_h: UsdPerHour | None = None


class Refuse(Strict):
    """Refuse launches."""

    zone: Name | None = None
    instance_type: Name | None = None
    lifecycle: MarketKind | None = None
    code: Name = "InsufficientInstanceCapacity"
    count: Times = None


class Throttle(Strict):
    """Answer RequestLimitExceeded."""

    action: Name | None = None
    count: Times = None


class Fail(Strict):
    """Make EC2 calls fail; `when` "after" lets the call take effect and loses only its answer."""

    action: Name | None = None
    mode: ApiMode = "500"
    code: Name = "InternalError"
    seconds: Seconds = 30.0
    count: Times = None
    when: Literal["before", "after"] = "before"


class FailMetadata(Strict):
    """Make metadata reads go wrong, below a path prefix such as "meta-data/spot"."""

    instance_id: Name | None = None
    prefix: str = ""
    mode: MetadataMode = "500"
    seconds: Seconds = 30.0
    count: Times = None


class FailBoot(Strict):
    """Make boots take `seconds` longer, or (None) leave the machine dead though EC2 says running."""

    zone: Name | None = None
    seconds: Seconds | None = None
    count: Times = None


class Empty(Strict):
    """No parameters."""
