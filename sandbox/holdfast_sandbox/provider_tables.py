"""The `[providers.*]` tables of a sandbox's controller: the simulated cloud under the interfaces of each cloud in use."""

import json
from collections.abc import Iterable, Mapping

from holdfast_sandbox.cluster_config import Site
from holdfast_sandbox.zones import INSTANCE_TYPES, SandboxZone, zones_of

IMAGE = "ami-0123456789abcdef0"
PROJECT = "holdfast-sandbox"
SUBSCRIPTION, GROUP = "00000000-0000-4000-8000-000000000001", "holdfast"
NETWORK = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/sandbox/subnets"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA sandbox"
"""Azure makes no machine without a key; nobody has the other half of this one."""

_AWS = """\
[providers.aws]
endpoint_url = {url}
regions = {regions}
images = {images}
on_demand_usd_h = {on_demand}
"""

_GCP = """\
[providers.gcp]
project = {project}
endpoint_url = {url}
regions = {regions}
image = "projects/{project_name}/global/images/family/holdfast-node"
preemption_notice_s = {notice_s}
spot_usd_h = {spot}
on_demand_usd_h = {on_demand}
"""

_AZURE = """\
[providers.azure]
subscription = {subscription}
resource_group = {group}
endpoint_url = {url}
regions = {regions}
images = {images}
subnets = {subnets}
ssh_public_key = {key}
spot_usd_h = {spot}
on_demand_usd_h = {on_demand}
poll_s = 0.25
"""


def provider_tables(site: Site) -> str:
    """Return the tables of the clouds in use. Raises OSError, ValueError for a trace that cannot be read."""
    zones = zones_of(site.config)
    makers = {"aws": _aws, "gcp": _gcp, "azure": _azure}
    return "\n".join(makers[cloud](site, [zone for zone in zones if zone.provider == cloud]) for cloud in site.config.clouds)


def _aws(site: Site, zones: list[SandboxZone]) -> str:
    regions = _regions(zones)
    return _AWS.format(
        url=_quoted(site.cloud_url),
        regions=json.dumps(regions),
        images=_table(dict.fromkeys(regions, _quoted(IMAGE))),
        on_demand=_prices(zones, "on_demand_usd_h"),
    )


def _gcp(site: Site, zones: list[SandboxZone]) -> str:
    return _GCP.format(
        project=_quoted(PROJECT),
        project_name=PROJECT,
        url=_quoted(site.cloud_url),
        regions=json.dumps(_regions(zones)),
        notice_s=max(1, min(600, int(site.config.notice_s))),  # the simulated machines run on until its very end
        spot=_prices(zones, "spot_usd_h"),
        on_demand=_prices(zones, "on_demand_usd_h"),
    )


def _azure(site: Site, zones: list[SandboxZone]) -> str:
    regions = _regions(zones)
    return _AZURE.format(
        subscription=_quoted(SUBSCRIPTION),
        group=_quoted(GROUP),
        url=_quoted(site.cloud_url),
        regions=json.dumps(regions),
        images=_table(dict.fromkeys(regions, _quoted("holdfast:node:gpu:latest"))),
        subnets=_table({region: _quoted(f"{NETWORK}/{region}") for region in regions}),
        key=_quoted(SSH_KEY),
        spot=_prices(zones, "spot_usd_h"),
        on_demand=_prices(zones, "on_demand_usd_h"),
    )


def _regions(zones: Iterable[SandboxZone]) -> list[str]:
    return sorted({zone.region for zone in zones})


def _prices(zones: Iterable[SandboxZone], which: str) -> str:
    """Prices by region and instance type; of several zones in a region the lowest."""
    found: dict[str, float] = {}
    for zone in zones:
        key, price = f"{zone.region}/{INSTANCE_TYPES[zone.provider]}", float(getattr(zone, which))
        found[key] = min(price, found.get(key, price))
    return _table({key: f"{price:g}" for key, price in found.items()})


def _table(entries: Mapping[str, str]) -> str:
    """An inline table of TOML from keys and values that are written already."""
    return "{ " + ", ".join(f"{_quoted(key)} = {value}" for key, value in entries.items()) + " }"


def _quoted(value: object) -> str:
    """Return a TOML string (JSON's strings are TOML's)."""
    return json.dumps(str(value))
