"""What one simulated cloud is made of: its zones, prices, delays and the program that an instance runs."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from holdfast_sandbox.ec2_buckets import ApiBuckets
from holdfast_sandbox.ec2_types import KNOWN_TYPES, InstanceType

Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
UsdPerHour = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=100_000)]
Cloud = Literal["aws", "gcp", "azure"]
"""Whose interfaces a zone is reached through."""
ZoneName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Strict(BaseModel):
    """A model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ZoneConfig(Strict):
    """A zone with fixed capacity and prices (both can be changed through the control API).

    `capacity` and `on_demand_capacity` count instances by instance type; a price is one number or one per type.
    """

    name: ZoneName
    """Unique in this cloud. Azure numbers the zones of each region: `eastus-1` is its zone 1 of eastus."""
    region: ZoneName
    provider: Cloud = "aws"
    capacity: dict[str, Count]
    on_demand_capacity: dict[str, Count] | Count = 1000
    spot_price_usd_h: UsdPerHour | dict[str, UsdPerHour]
    on_demand_usd_h: UsdPerHour | dict[str, UsdPerHour]


class TraceConfig(Strict):
    """Zones whose spot capacity and price follow a recorded market.

    `speed` is how many recorded seconds pass in one real second; `instances_per_unit` is how many of our instances one
    recorded unit is worth (the V100 recording says 0 or 1, the H100 one 0 to 16). The first step lasts `lead_s` real seconds longer.
    """

    path: Path
    provider: Cloud = "aws"
    speed: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    start_step: Annotated[int, Field(ge=0)] = 0
    lead_s: Seconds = 0.0
    instances_per_unit: Annotated[int, Field(ge=1, le=1000)] = 1
    instance_type: str | None = None
    zones: list[ZoneName] | None = None


class CloudConfig(Strict):
    """The whole of it; read from a JSON file by `load`."""

    state_dir: Path
    ready_file: Path | None = None  # default: <state_dir>/cloud.ready.json
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    zones: list[ZoneConfig] = []
    trace: TraceConfig | None = None
    instance_types: dict[str, InstanceType] = {}
    boot_delay_s: Seconds = 0.5
    api_latency_s: Seconds = 0.0
    api_buckets: ApiBuckets | None = None  # EC2's throttling; {}: the sizes that EC2 publishes; None: off
    notice_s: Seconds = 120.0
    shutdown_delay_s: Seconds = 0.2
    terminated_visible_s: Seconds = 60.0
    describe_lag_s: Seconds = 0.0  # how long a new instance stays invisible to DescribeInstances
    spot_instance_limit: Count = 100_000
    ip_prefix: Annotated[str, Field(pattern=r"^127\.\d{1,3}$")] = "127.77"
    instance_command: Annotated[list[str], Field(min_length=1)]
    instance_env: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "CloudConfig":
        if not self.zones and self.trace is None:
            raise ValueError("a cloud needs zones or a trace")
        names = [zone.name for zone in self.zones]
        if len(set(names)) != len(names):
            raise ValueError("a zone is named twice")
        for zone in self.zones:
            self._check_zone(zone)
        return self

    def _check_zone(self, zone: ZoneConfig) -> None:
        types = self.all_instance_types()
        for name in zone.capacity:
            if name not in types:
                raise ValueError(f"zone {zone.name}: unknown instance type {name}; describe it in instance_types")
            for what, price in (("spot_price_usd_h", zone.spot_price_usd_h), ("on_demand_usd_h", zone.on_demand_usd_h)):
                if isinstance(price, dict) and name not in price:
                    raise ValueError(f"zone {zone.name}: {what} has no price for {name}")

    def all_instance_types(self) -> dict[str, InstanceType]:
        """The built-in instance types and the configured ones, by name."""
        return KNOWN_TYPES | self.instance_types

    def ready_path(self) -> Path:
        """Where the file that says "ready, on this port" is written."""
        return self.ready_file or self.state_dir / "cloud.ready.json"


def load(path: Path) -> CloudConfig:
    """Read a configuration file; raises ValueError (all faults at once) or OSError."""
    config = CloudConfig.model_validate_json(path.read_text())
    return config.model_copy(update={"state_dir": config.state_dir.absolute()})  # instances run in another directory
