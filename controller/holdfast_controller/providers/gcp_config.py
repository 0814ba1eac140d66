"""What the Google provider must be told: the project, its regions, network and images."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast_controller.providers.settings import OFF_AT_ZERO

Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
UsdPerHour = Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Project = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{0,61}$")]
Place = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]


class GcpConfig(BaseModel):
    """Settings of one project, as seen by one cluster; unknown keys are refused.

    An instance template is a name or a partial URL (`global/instanceTemplates/x`, `regions/r/instanceTemplates/x`). It brings image and
    network; machine type, labels, metadata and scheduling are ours, and replace the template's. Without one, `image` is needed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = "gcp"
    """First part of the names of its pools."""
    cluster: Name
    """Labelled on everything we start; two clusters in one project need two names."""
    project: Project
    regions: tuple[Place, ...] = Field(min_length=1)
    """All regions in which instances of this cluster may be."""
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://[^/?#\s]+$")
    """Another Compute Engine than Google's (a private endpoint, the sandbox). Over http:// no credentials are sent, nor looked for."""
    credentials_file: Path | None = None
    """A service account's key; without one, Google's own chain: environment, gcloud's file, the machine's service account."""

    instance_template: str = ""
    instance_templates: dict[str, str] = {}
    """By pool name; before `instance_template`, after what the launch itself names."""
    image: str = ""
    """`projects/p/global/images/family/f`, where no template says one."""
    boot_disk_gb: int = Field(default=100, ge=10, le=65_536)
    boot_disk_type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = "pd-balanced"
    network: str = "global/networks/default"
    """Asked for, as the subnetworks are, where no template is used."""
    subnetworks: dict[str, str] = {}
    """`projects/p/regions/r/subnetworks/s` by region."""
    external_address: bool = False
    network_tags: tuple[Place, ...] = ()
    service_account: str = ""
    """Its e-mail address; empty: none, or the template's. A node needs no right to make or end instances."""
    placement_policies: dict[str, str] = {}
    """A compact placement policy by zone: then a launch is asked for in that zone alone."""
    reservations: dict[str, str] = {}
    """Name of a specific reservation by zone, for on-demand instances (Spot VMs cannot use one)."""
    preemption_notice_s: Annotated[Annotated[int, Field(ge=1, le=600)] | None, OFF_AT_ZERO] = 120
    """How long before the soft-off signal a Spot VM's metadata tells of it (`preemptionNoticeDuration`); 0 (or None): not at all."""

    spot_usd_h: dict[str, UsdPerHour] = {}
    on_demand_usd_h: dict[str, UsdPerHour] = {}
    """By `machine type`, or `region/machine type` where a region differs: list prices are in the Cloud Billing catalogue, another API."""
    price_refresh_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 3600.0
    """For how long a spot price from the capacity history is good: Google changes it once a day at most."""
    score_instances: int = Field(default=1, ge=1, le=1000)
    """For how many instances at once the obtainability is asked for."""

    request_timeout_s: Seconds = 30.0
    """Of connecting, and of each silence in an answer."""
    call_timeout_s: Seconds = 60.0
    """Of one call in all, waiting for a free thread included."""
    operation_timeout_s: Seconds = 180.0
    """For how long a launch waits for its operation to end."""
    threads: int = Field(default=8, ge=1, le=64)
    """Calls of each method at a time, per region; and as many lists of all regions."""
    waiters: int = Field(default=10, ge=1, le=64)
    """Operations that are waited for at a time, per region: as many launches are in flight. (The client keeps ten connections; more than
    that are made anew each time.)"""
    page_size: int = Field(default=500, ge=1, le=500)

    @model_validator(mode="after")
    def _consistent(self) -> "GcpConfig":
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("a region is named twice")
        if self.endpoint_url is not None and self.endpoint_url.startswith("http://") and self.credentials_file is not None:
            raise ValueError("credentials are not sent over http://")
        return self

    def on_demand_price(self, region: str, instance_type: str) -> float | None:
        """Return the on-demand price by the table; a region's own entry goes before the type's."""
        return self.on_demand_usd_h.get(f"{region}/{instance_type}", self.on_demand_usd_h.get(instance_type))

    def spot_price(self, region: str, instance_type: str) -> float | None:
        """Return the spot price by the table, in the same way."""
        return self.spot_usd_h.get(f"{region}/{instance_type}", self.spot_usd_h.get(instance_type))
