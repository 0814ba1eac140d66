"""The zones of a sandbox's clouds: made up, or those of a recorded market. Pure but for reading the recording."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from holdfast_sandbox.cloud_config import Cloud
from holdfast_sandbox.cluster_config import INSTANCE_TYPE, REGION, SandboxConfig
from holdfast_sandbox.trace import TraceFile, read_trace

ON_DEMAND_USD_H = 3.0
INSTANCE_TYPES: dict[Cloud, str] = {"aws": INSTANCE_TYPE, "gcp": "sim1-node", "azure": "Standard_Sim1"}
"""A machine by each cloud's own rules for names: Google's have no dots, Azure's begin with a tier."""

_GOOGLE = (
    "us-central1-abcf",
    "us-east5-abc",
    "us-west1-abc",
    "us-west4-abc",
    "us-east4-abc",
    "europe-west4-abc",
    "asia-east1-abc",
    "europe-west1-bcd",
    "europe-west3-abc",
)
_AZURE = ("eastus", "westus3", "northeurope", "southcentralus", "westeurope", "eastus2", "swedencentral", "japaneast", "uksouth")


@dataclass(frozen=True, slots=True)
class SandboxZone:
    """One zone; prices in US dollars per hour, for a recorded zone as they are at its first step."""

    name: str
    """In the market, unique over all clouds."""
    region: str
    spot_usd_h: float
    on_demand_usd_h: float = ON_DEMAND_USD_H
    provider: Cloud = "aws"
    recorded: str = ""
    """The zone of the recording that it follows; empty: none."""

    @property
    def instance_type(self) -> str:
        """What is sold in it."""
        return INSTANCE_TYPES[self.provider]

    @property
    def label(self) -> str:
        """Cloud and zone, for people."""
        return f"{self.provider} {self.name}"

    @property
    def own_name(self) -> str:
        """What its cloud calls it: Azure numbers the zones of each region."""
        return self.name.removeprefix(f"{self.region}-") if self.provider == "azure" else self.name


def zones_of(config: SandboxConfig) -> list[SandboxZone]:
    """Return the zones, cheapest first where they are made up. Raises OSError, ValueError for a trace that cannot be read."""
    if config.trace is not None:
        return _recorded(config, read_trace(config.trace))
    return [
        SandboxZone(name, region, round(1.0 + 0.1 * number, 2), provider=cloud)
        for number, (cloud, region, name) in zip(range(config.zones), _dealt(config.clouds), strict=False)
    ]


def market_of(config: SandboxConfig, zones: Sequence[SandboxZone]) -> dict[str, Any]:
    """Return a recording in which the zones have the names of `zones`. Raises OSError, ValueError."""
    assert config.trace is not None
    trace = read_trace(config.trace)
    pools = {
        zone.name: trace.pools[zone.recorded].model_copy(
            update={"region": zone.region, "provider": zone.provider, "instance_type": zone.instance_type}
        )
        for zone in zones
    }
    return trace.model_copy(update={"pools": pools}).model_dump(mode="json")


def _recorded(config: SandboxConfig, trace: TraceFile) -> list[SandboxZone]:
    """Zones of the recording's own cloud keep their names; those of others get names of theirs."""
    names = trace.pools if config.trace_zones is None else config.trace_zones
    if unknown := sorted(set(names) - set(trace.pools)):
        raise ValueError(f"zones that the recording has not: {', '.join(unknown)}")
    found = []
    for recorded, (cloud, region, name) in zip(names, _dealt(config.clouds), strict=False):
        pool = trace.pools[recorded]
        here = (pool.region, recorded) if cloud == trace.provider else (region, name)
        prices = pool.prices()
        price = prices[min(config.trace_start, len(prices) - 1)]
        found.append(SandboxZone(here[1], here[0], price, pool.on_demand_usd_h, cloud, recorded))
    if len(found) < len(names):
        raise ValueError(f"{len(names)} zones are more than can be named in {', '.join(config.clouds)}")
    return found


def _dealt(clouds: Sequence[Cloud]) -> Iterator[tuple[Cloud, str, str]]:
    """Yield cloud, region and name of zones without end, from each cloud in turn."""
    places = {cloud: _places(cloud) for cloud in clouds}
    for number in count():
        cloud = clouds[number % len(clouds)]
        place = next(places[cloud], None)
        if place is None:
            return
        yield cloud, *place


def _places(cloud: Cloud) -> Iterator[tuple[str, str]]:
    """Yield region and name of a cloud's zones: 26 at least."""
    if cloud == "aws":
        yield from ((REGION, f"{REGION}{letter}") for letter in "abcdefghijklmnopqrstuvwxyz")
    elif cloud == "gcp":
        for region, _, letters in (each.rpartition("-") for each in _GOOGLE):
            yield from ((region, f"{region}-{letter}") for letter in letters)
    else:  # a price of Azure's is a region's: one zone of each region first
        yield from ((region, f"{region}-{number}") for number in (1, 2, 3) for region in _AZURE)
