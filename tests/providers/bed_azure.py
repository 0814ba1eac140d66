"""Azure under contract: the sandbox's Resource Manager endpoint, in a cloud of its own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from beds import ControlledBed, served
from holdfast_controller.providers.azure import AzureProvider
from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.base import FaultKind, Market, Pool, Provider

REGION, ZONE, TYPE = "eastus", "1", "Standard_ND96asr_v4"
SUBSCRIPTION, GROUP = "00000000-0000-4000-8000-000000000001", "holdfast"
SUBNET = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/gpu"
ACTIONS = {
    "launch": "VirtualMachineScaleSets_CreateOrUpdate",
    "find": "VirtualMachines_List",
    "instances": "VirtualMachines_List",
    "terminate": "VirtualMachineScaleSets_DeleteInstances",
}
CODES = {
    FaultKind.CAPACITY: "SkuNotAvailable",
    FaultKind.THROTTLE: "TooManyRequests",
    FaultKind.QUOTA: "QuotaExceeded",
    FaultKind.AUTH: "AuthorizationFailed",
    FaultKind.CONFIG: "LinkedInvalidPropertyId",
}


def azure_pool(market: Market = Market.SPOT, *, zone: str = ZONE, type_: str = TYPE) -> Pool:
    return Pool(f"azure/{REGION}/{zone}/{type_}/{market.value}", "azure", REGION, zone, type_, market)


def azure_config(endpoint_url: str, **more: object) -> AzureConfig:
    settings: dict[str, object] = {
        "cluster": "alpha",
        "subscription": SUBSCRIPTION,
        "resource_group": GROUP,
        "regions": (REGION,),
        "endpoint_url": endpoint_url,
        "images": {REGION: "microsoft-dsvm:ubuntu-hpc:2204:latest"},
        "subnets": {REGION: SUBNET},
        "ssh_public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA holdfast",
        "on_demand_usd_h": {TYPE: 32.77},
        "spot_usd_h": {f"{REGION}/{TYPE}": 12.5},
        "connect_timeout_s": 2.0,
        "read_timeout_s": 20.0,
        "poll_s": 0.02,
    }
    return AzureConfig.model_validate(settings | more)


class AzureBed(ControlledBed):
    zone, actions, codes = f"{REGION}-{ZONE}", ACTIONS, CODES

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.spot, self.on_demand = azure_pool(), azure_pool(Market.ON_DEMAND)
        self.provider = AzureProvider(azure_config(url))

    @property
    def sibling(self) -> Pool:
        return azure_pool(zone="2")

    def foreigner(self) -> Provider:
        return AzureProvider(azure_config(self.url, cluster="beta"))


def azure_sandbox(directory: Path, **more: object) -> Iterator[str]:
    """Run a cloud with one region of two zones; yields its address."""
    zones = [
        {
            "name": f"{REGION}-{number}",
            "region": REGION,
            "provider": "azure",
            "capacity": {TYPE: 8},
            "spot_price_usd_h": 12.5,
            "on_demand_usd_h": 32.77,
        }
        for number in (1, 2)
    ]
    settings = {"state_dir": str(directory), "zones": zones, "boot_delay_s": 0.1, "shutdown_delay_s": 0.05}
    config, ready = directory / "config.json", directory / "cloud.ready.json"
    config.write_text(json.dumps(settings | {"instance_command": ["sleep", "300"]} | more))

    def url() -> str | None:
        return str(json.loads(ready.read_text())["endpoint_url"]) if ready.exists() else None

    yield from served([sys.executable, "-m", "holdfast_sandbox.cloud", "--config", str(config)], directory / "log", url)
