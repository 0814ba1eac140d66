"""What the Azure provider must be told: subscription, resource group, regions, network and image."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast_controller.providers.settings import OFF_AT_ZERO

Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
UsdPerHour = Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Region = Annotated[str, Field(pattern=r"^[a-z0-9]{1,40}$")]
ResourceId = Annotated[str, Field(pattern=r"^/subscriptions/[A-Za-z0-9._()/-]{1,500}$")]
Image = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._()/-]{1,500}|[A-Za-z0-9._-]+:[A-Za-z0-9._-]+:[A-Za-z0-9._-]+:[A-Za-z0-9._-]+)$")]


class AzureConfig(BaseModel):
    """Settings of one subscription, as seen by one cluster; unknown keys are refused.

    The subnets need a way out of their own (a NAT gateway): machines of a flexible scale set have no default outbound access, and get no
    public address. The identity that asks needs `Virtual Machine Contributor` and `Network Contributor` on the resource group and `Reader`
    on the subscription (sizes, run-time states); for placement scores `Compute Recommendations Role`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = "azure"
    """First part of the names of its pools."""
    cluster: Name
    """Tagged on everything we start; two clusters in one resource group need two names."""
    subscription: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    resource_group: Annotated[str, Field(pattern=r"^[A-Za-z0-9_()-]([A-Za-z0-9._()-]{0,88}[A-Za-z0-9_()-])?$")]
    """Where our scale sets and machines are; others may be in it as well."""
    regions: tuple[Region, ...] = Field(min_length=1)
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]{1,200}/?$")] | None = None
    """Another Resource Manager than `https://management.azure.com`: a national cloud's, or the sandbox's, which is plain http.

    Over plain http no credential of ours is ever sent.
    """
    client_id: str | None = None
    """Of the user-assigned managed identity to ask as; without it azure-identity's own chain: environment, workload, machine, CLI."""

    images: dict[Region, Image] = {}
    """By region: a resource id (of a gallery's image version), or `publisher:offer:sku:version`."""
    subnets: dict[Region, ResourceId] = {}
    """By region; a subnet spans all zones."""
    security_groups: dict[Region, ResourceId] = {}
    """Network security group by region; none: the subnet's alone."""
    proximity_placement_groups: dict[str, ResourceId] = {}
    """By `region/zone`."""
    capacity_reservation_groups: dict[str, ResourceId] = {}
    """That on-demand instances run in, by pool name or `region/zone`."""
    identities: tuple[ResourceId, ...] = ()
    """User-assigned identities of the machines themselves; a flexible scale set has no other kind."""
    admin_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")] = "holdfast"
    ssh_public_key: Annotated[str, Field(pattern=r"^(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( .{0,200})?$")]
    """Azure makes no Linux machine without a key or a password; whoever has the private half gets in as `admin_user`."""
    os_disk_gb: Annotated[int, Field(ge=1, le=4095)] | None = None
    os_disk_type: Name = "Premium_LRS"
    security_type: Literal["Standard", "TrustedLaunch"] | None = None
    """None: Azure's own choice for the image; Secure Boot takes signed GPU drivers only."""
    accelerated_networking: bool = True
    terminate_notice_minutes: Annotated[Annotated[int, Field(ge=5, le=15)] | None, OFF_AT_ZERO] = 5
    """How long Azure waits for a machine to agree to its deletion by whomever; 0: not at all. An eviction's 30 s are not touched by it.

    Our agent agrees as soon as its node is empty; where no agent answers, the machine is paid for as much longer.
    """

    on_demand_usd_h: dict[str, UsdPerHour] = {}
    """By `instance type`, or `region/instance type` where a region differs."""
    spot_usd_h: dict[str, UsdPerHour] = {}
    """Likewise: Azure tells prices on another host only (prices.azure.com), and they seldom change."""
    score_instances: int = Field(default=8, ge=1, le=1000)
    """For how many instances at once placement scores are asked: about the size of a usual gang."""

    connect_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 60.0
    call_timeout_s: Seconds = 90.0
    """Of one call in all, waiting for a free thread included."""
    launch_timeout_s: Seconds = 180.0
    """How long a launch waits for Azure to find out whether it has the machines."""
    release_wait_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 5.0
    """How long a launch below its minimum waits for the end of what it had started; the next pool is asked after that in any case."""
    poll_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Between a launch's first looks; later ones are up to five times as far apart."""
    threads: int = Field(default=8, ge=1, le=64)

    @model_validator(mode="after")
    def _consistent(self) -> "AzureConfig":
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("a region is named twice")
        if spot := sorted(name for name in self.capacity_reservation_groups if name.endswith("/spot")):
            raise ValueError(f"spot instances run in no reservation: {', '.join(spot)}")
        return self
