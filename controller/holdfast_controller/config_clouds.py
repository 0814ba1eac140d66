"""`[providers.*]` of the controller's settings: the clouds in use, how each is reached, and how much is asked of it at a time.

Google's and Azure's tables hold the keys of `GcpConfig` and `AzureConfig`, which check them; AWS's has shorter words for some.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from holdfast_common.settings import Name, Section, Texts, faults_of, table, texts, worded
from pydantic import BaseModel, Field, Strict, ValidationError

from holdfast_controller.planning import Bounds
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.gcp_config import GcpConfig

Url = Annotated[str, worded(r"(https?://[^\s@]{1,200})?", "write http://host:port or https://host, without credentials")]
UsdPerHour = Annotated[float, Field(gt=0, le=100_000)]
Table = Mapping[str, Any]
_MODELS: Mapping[str, type[BaseModel]] = {"gcp": GcpConfig, "azure": AzureConfig}


_AS_IT_IS = (
    "placement_groups",
    "efa_interfaces",
    "capacity_reservations",
    "capacity_blocks",
    "queue_urls",
    "spot_strategy",
    "score_instances",
    "rates",
    "fleets",
)


class CloudBounds(Section):
    """How much is asked of a cloud at a time."""

    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 8
    """Launches under way at a time, per region."""
    batch: Annotated[int, Field(ge=1, le=1000)] = 500
    """Instances in one call, where it serves several jobs of one node each; a gang is one call whatever its size."""

    @property
    def bounds(self) -> Bounds:
        """As the plans want them."""
        return Bounds(self.max_in_flight, self.batch)


class AwsSettings(CloudBounds):
    """One AWS account."""

    endpoint_url: Url = ""
    """Another EC2 than Amazon's: the sandbox's."""
    regions: Annotated[Texts, Field(min_length=1)]
    """All regions in which instances of this cluster may be."""
    subnets: Mapping[Name, Name] = {}
    """Zone → subnet id."""
    template: str = ""
    """Launch template, where the policy's pool names none."""
    images: Mapping[Name, Name] = {}
    """Region → machine image, where no template says one."""
    security_groups: Texts = ()
    """Ids, for all regions."""
    on_demand_usd_h: Mapping[str, UsdPerHour] = {}
    """Instance type, or `region/instance type`, → on-demand price in US dollars per hour."""
    call_timeout_s: Annotated[float, Field(ge=1, le=600)] = 20.0
    placement_groups: Mapping[Name, str] = {}
    """Zone → name of a cluster placement group."""
    efa_interfaces: Mapping[Name, int] = {}
    """Instance type → how many Elastic Fabric Adapters it gets."""
    capacity_reservations: Mapping[str, str] = {}
    """Pool (its full name) or zone → capacity reservation, or resource group of some, for on-demand instances."""
    capacity_blocks: Mapping[str, str] = {}
    """On-demand pool → the capacity block for ML that it stands for."""
    queue_urls: Mapping[Name, str] = {}
    """Region → SQS queue with EC2's interruption warnings: a second source beside the agents."""
    spot_strategy: str = "capacity-optimized-prioritized"
    """How CreateFleet chooses, where a launch names several pools."""
    score_instances: int = 8
    """For how many instances placement scores are asked."""
    fleets: bool = True
    """Ask several pools in one CreateFleet, where the policy combines them."""
    rates: Mapping[str, Annotated[tuple[float, float], Strict(False)]] = {}
    """EC2 operation → [calls at once, more each second], where the account's limits are not the published ones."""

    def with_cluster(self, cluster: str) -> AwsConfig:
        """Return what the AWS provider must be told. Raises pydantic's ValidationError where its own demands are stricter than ours."""
        return AwsConfig.model_validate(
            {
                "cluster": cluster,
                "regions": self.regions,
                "endpoint_url": self.endpoint_url or None,
                "launch_template": self.template,
                "images": dict(self.images),
                "subnets": dict(self.subnets),
                "security_groups": {region: self.security_groups for region in self.regions if self.security_groups},
                "on_demand_usd_h": dict(self.on_demand_usd_h),
                "threads": self.max_in_flight,
                "call_timeout_s": self.call_timeout_s,
                "read_timeout_s": self.call_timeout_s,
                "connect_timeout_s": min(5.0, self.call_timeout_s),
                **{name: getattr(self, name) for name in _AS_IT_IS},
            }
        )


class Providers(Section):
    """The clouds in use."""

    aws: AwsSettings | None = None
    gcp: Table | None = None
    azure: Table | None = None

    @property
    def names(self) -> frozenset[str]:
        """The clouds that have settings."""
        return frozenset(name for name in ("aws", "gcp", "azure") if getattr(self, name) is not None)

    @property
    def bounds(self) -> dict[str, Bounds]:
        """How much is asked of each at a time."""
        found = {name: bounds_of(given).bounds for name in ("gcp", "azure") if (given := getattr(self, name)) is not None}
        return {**found, **({"aws": self.aws.bounds} if self.aws is not None else {})}


def bounds_of(given: Table) -> CloudBounds:
    """Return the bounds in a cloud's table. Raises ValidationError."""
    return CloudBounds.model_validate(_bounds(given))


def gcp_config(given: Table, cluster: str) -> GcpConfig:
    """Return what the Google provider must be told. Raises ValidationError."""
    waiters = max(GcpConfig.model_fields["waiters"].default, bounds_of(given).max_in_flight)  # each launch waits for its operation
    return GcpConfig.model_validate({"waiters": waiters} | _own(given) | {"cluster": cluster})


def azure_config(given: Table, cluster: str) -> AzureConfig:
    """Return what the Azure provider must be told. Raises ValidationError."""
    return AzureConfig.model_validate(_own(given) | {"cluster": cluster})


def _bounds(given: Table) -> dict[str, Any]:
    return {key: given[key] for key in CloudBounds.model_fields if key in given}


def _own(given: Table) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in CloudBounds.model_fields}


def cloud_faults(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the clouds' tables beyond what their models say."""
    providers, cluster = table(data, "providers"), data.get("cluster")
    yield from _aws_faults(table(providers, "aws"))
    named = cluster if isinstance(cluster, str) else "cluster"
    for name, model in _MODELS.items():
        if name in providers:
            given = table(providers, name)
            yield from (f"providers.{name}.{key}: unknown key" for key in ("name", "cluster") if key in given)
            yield from _faults(name, model, _own(given) | {"cluster": named})
            yield from _faults(name, CloudBounds, _bounds(given))


def _faults(name: str, model: type[BaseModel], given: Table) -> Iterator[str]:
    try:
        model.model_validate(given)
    except ValidationError as error:
        yield from (f"providers.{name}.{fault}" for fault in faults_of(error, model))


def _aws_faults(aws: dict[str, Any]) -> Iterator[str]:
    regions = texts(aws, "regions")
    if len(set(regions)) != len(regions):
        yield f"providers.aws.regions: a region is named twice in {regions!r}"
    for zone in table(aws, "subnets"):
        if regions and not any(zone.startswith(region) for region in regions):
            yield f"providers.aws.subnets.{zone}: is in none of the regions {', '.join(regions)}"
    for region in table(aws, "images"):
        if regions and region not in regions:
            yield f"providers.aws.images.{region}: is none of the regions {', '.join(regions)}"
