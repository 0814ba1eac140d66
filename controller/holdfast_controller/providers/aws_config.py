"""What the AWS provider must be told: the account's regions, network and templates."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
UsdPerHour = Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
ReservationId = Annotated[str, Field(pattern=r"^cr-[0-9a-f]{8,17}$")]
Reservation = Annotated[str, Field(pattern=r"^(cr-[0-9a-f]{8,17}|arn:aws[a-z-]*:resource-groups:[a-z0-9-]+:\d{12}:group/\S{1,128})$")]
QueueUrl = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,200}/\d{12}/[A-Za-z0-9_-]{1,80}$")]
SpotStrategy = Literal["capacity-optimized-prioritized", "capacity-optimized", "price-capacity-optimized", "lowest-price"]


class AwsConfig(BaseModel):
    """Settings of one account, as seen by one cluster; unknown keys are refused.

    A launch template is a name or an id, `:version` after it if it is not the default version. It shall state no market (EC2 lets
    nobody override a template's spot options with on-demand) and no network interfaces where `subnets` names the zone or
    `security_groups` the region (EC2 refuses them together). EFA interfaces come from `efa_interfaces`; the template then names no
    security groups: those of `security_groups` go into the interfaces.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = "aws"
    """First part of the names of its pools."""
    cluster: Name
    """Tagged on everything we start; two clusters in one account need two names."""
    regions: tuple[Name, ...] = Field(min_length=1)
    """All regions in which instances of this cluster may be; each is listed in each reconcile."""
    endpoint_url: str | None = None
    """Another EC2 than Amazon's (the sandbox); None in production."""
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    profile: str | None = None
    """Without key and profile, boto3's own chain: environment, files, the instance's role."""

    launch_template: str = ""
    launch_templates: dict[str, str] = {}
    """By pool name; before `launch_template`, after what the launch itself names."""
    images: dict[str, str] = {}
    """Machine image by region, where no template says one."""
    subnets: dict[str, str] = {}
    """By zone. A zone without one is asked for by name, in the default network or the template's."""
    security_groups: dict[str, tuple[str, ...]] = {}
    """Ids by region; empty: the template's."""
    placement_groups: dict[str, str] = {}
    """Name of a cluster placement group by zone."""
    efa_interfaces: dict[str, Annotated[int, Field(ge=1, le=64)]] = {}
    """How many Elastic Fabric Adapters an instance gets, one per network card, by instance type (p5.48xlarge: 32, p4d.24xlarge: 4).

    The first is an EFA with an address, the others are of type `efa-only`, which take none from the subnet.
    """
    capacity_reservations: dict[str, Reservation] = {}
    """Capacity reservation (`cr-…`), or ARN of a resource group of some, that on-demand instances run in; by pool name or zone."""
    capacity_blocks: dict[str, ReservationId] = {}
    """Capacity block for ML that the on-demand pool of this name stands for: paid in advance, and there for its time only."""

    fleets: bool = True
    """Ask several pools in one CreateFleet where the launch names several; else, and for large ones, RunInstances in the first."""
    spot_strategy: SpotStrategy = "capacity-optimized-prioritized"
    """How CreateFleet chooses among pools: by default where an interruption is least likely, and in our own order where that is equal.

    The order already holds price, history and refusals of all clouds; `price-capacity-optimized` and `lowest-price` take no notice of it.
    """
    queue_urls: dict[Name, QueueUrl] = {}
    """By region: an SQS queue of this cluster alone, into which an EventBridge rule puts EC2's interruption warnings."""
    score_instances: int = Field(default=8, ge=1, le=2000)
    """For how many instances at once placement scores are asked: about the size of a usual gang."""

    on_demand_usd_h: dict[str, UsdPerHour] = {}
    """By `instance type`, or `region/instance type` where a region differs: the Price List API is not reachable from everywhere."""
    product: str = "Linux/UNIX"
    """Whose spot prices are asked for."""

    rates: dict[str, tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]] = {}
    """How often EC2 may be asked, where the account's limits are not the published ones: by boto3's name of the operation (and
    `run_instances.instances`, `terminate_instances.instances`): [most at once, more each second]."""
    connect_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 30.0
    call_timeout_s: Seconds = 60.0
    """Of one call in all, waiting for a free thread included."""
    threads: int = Field(default=8, ge=1, le=64)
    """Calls at a time in each region, and as many launches beside them."""
    page_size: int = Field(default=1000, ge=5, le=1000)

    @model_validator(mode="after")
    def _consistent(self) -> "AwsConfig":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key come together")
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("a region is named twice")
        if strangers := sorted(self.queue_urls.keys() - set(self.regions)):
            raise ValueError(f"queue_urls names regions that are not used: {', '.join(strangers)}")
        if both := sorted(self.capacity_blocks.keys() & self.capacity_reservations.keys()):
            raise ValueError(f"both a capacity block and a capacity reservation: {', '.join(both)}")
        if spot := sorted(name for name in (*self.capacity_blocks, *self.capacity_reservations) if name.endswith("/spot")):
            raise ValueError(f"spot instances run in no reservation: {', '.join(spot)}")
        return self
