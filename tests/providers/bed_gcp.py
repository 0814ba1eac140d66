"""The sandbox's Compute Engine, as a bed of the contract and for the provider's own tests."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from holdfast_controller.providers.base import FaultKind, Market, Pool, Provider
from holdfast_controller.providers.gcp import GcpProvider
from holdfast_controller.providers.gcp_config import GcpConfig

sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib leaves it out
from beds import ControlledBed, served

GCP_REGION, GCP_ZONE, GCP_TYPE = "us-central1", "us-central1-a", "a2-highgpu-8g"
SPOT_USD_H, ON_DEMAND_USD_H = 12.5, 32.77
ACTIONS = {"launch": "bulkInsert", "find": "aggregatedList", "instances": "aggregatedList", "terminate": "delete"}
CODES = {
    FaultKind.THROTTLE: "rateLimitExceeded",
    FaultKind.QUOTA: "quotaExceeded",
    FaultKind.AUTH: "forbidden",
    FaultKind.CONFIG: "invalid",
}


def gcp_pool(market: Market = Market.SPOT, *, zone: str = GCP_ZONE, type_: str = GCP_TYPE) -> Pool:
    region = zone.rpartition("-")[0]
    return Pool(f"gcp/{region}/{zone}/{type_}/{market.value}", "gcp", region, zone, type_, market)


def gcp_config(endpoint_url: str | None, **more: object) -> GcpConfig:
    settings: dict[str, object] = {
        "cluster": "alpha",
        "project": "sandbox-1",
        "regions": (GCP_REGION,),
        "endpoint_url": endpoint_url,
        "image": "projects/p/global/images/family/holdfast-node",
        "spot_usd_h": {GCP_TYPE: SPOT_USD_H},
        "on_demand_usd_h": {GCP_TYPE: ON_DEMAND_USD_H},
        "request_timeout_s": 20.0,
        "price_refresh_s": 0.0,
    }
    return GcpConfig.model_validate(settings | more)


class GcpBed(ControlledBed):
    chooses = True
    zone, sibling_zone, actions, codes = GCP_ZONE, "us-central1-b", ACTIONS, CODES

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.spot, self.on_demand = gcp_pool(), gcp_pool(Market.ON_DEMAND)
        self.provider = GcpProvider(gcp_config(url))

    def fail(self, method: str, kind: FaultKind) -> None:
        if kind is FaultKind.CAPACITY:  # the operation's word, and not the call's
            self.control.refuse(zone=GCP_ZONE, count=1)
        else:
            super().fail(method, kind)

    def foreigner(self) -> Provider:
        return GcpProvider(gcp_config(self.url, cluster="beta"))


def gcp_cloud(directory: Path, **more: object) -> Iterator[str]:
    """Run a sandbox cloud with three zones of Google's in two regions, and one of Amazon's that must not show."""
    place = {"spot_price_usd_h": SPOT_USD_H, "on_demand_usd_h": ON_DEMAND_USD_H}
    zones = [
        {"name": zone, "region": zone.rpartition("-")[0], "provider": "gcp", "capacity": {GCP_TYPE: 8, "a3-highgpu-8g": 2}} | place
        for zone in (GCP_ZONE, "us-central1-b", "europe-west4-a")
    ]
    zones.append({"name": "us-east-1a", "region": "us-east-1", "capacity": {"p4d.24xlarge": 8}} | place)
    settings = {"state_dir": str(directory), "zones": zones, "boot_delay_s": 0.1, "shutdown_delay_s": 0.05} | more
    config, ready = directory / "config.json", directory / "cloud.ready.json"
    config.write_text(json.dumps(settings | {"instance_command": ["sleep", "300"]}))

    def url() -> str | None:
        return str(json.loads(ready.read_text())["endpoint_url"]) if ready.exists() else None

    yield from served([sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(config)], directory / "log", url)
