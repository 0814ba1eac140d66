"""What the AWS provider must be told: the account's regions, network and templates."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
UsdPerHour = Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class AwsConfig(BaseModel):
    """Settings of one account, as seen by one cluster; unknown keys are refused.

    A launch template is a name or an id, `:version` after it if it is not the default version. It shall state no market (EC2 lets
    nobody override a template's spot options with on-demand) and, where `subnets` names the zone, no network interfaces (EC2 refuses both
    together): templates with EFA interfaces bring their own subnet, one template per pool.
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

    on_demand_usd_h: dict[str, UsdPerHour] = {}
    """By `instance type`, or `region/instance type` where a region differs: the Price List API is not reachable from everywhere."""
    product: str = "Linux/UNIX"
    """Whose spot prices are asked for."""

    connect_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 30.0
    call_timeout_s: Seconds = 60.0
    """Of one call in all, waiting for a free thread included."""
    threads: int = Field(default=8, ge=1, le=64)
    page_size: int = Field(default=1000, ge=5, le=1000)

    @model_validator(mode="after")
    def _consistent(self) -> "AwsConfig":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key come together")
        if len(set(self.regions)) != len(self.regions):
            raise ValueError("a region is named twice")
        return self
