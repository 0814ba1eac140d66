"""What a policy's parts must be to each other: names that exist, nodes with one owner, pools that differ, on-demand that can happen.

The checks read raw TOML, so that they find their faults beside those of single fields; what they cannot read, the model has reported.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast_common.errors import InputError
from holdfast_common.nodeset import expand
from holdfast_common.settings import did_you_mean, table, texts

WHEN_REFUSED = re.compile(r"when_refused\((\d{1,6})\)")


def pool_name(provider: str, region: str, zone: str, instance_type: str, market: str) -> str:
    """Return a capacity pool's full name."""
    return f"{provider}/{region}/{zone}/{instance_type}/{market}"


def cross_faults(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence per fault."""
    yield from _pool_faults(table(data, "pools"))
    yield from _node_faults(table(data, "node_groups"))
    managed: dict[str, str] = {}
    for name, partition in table(data, "partitions").items():
        for key in ("node_groups", "pools"):
            yield from _reference_faults(f"partitions.{name}.{key}", texts(partition, key), table(data, key))
        yield from _ondemand_faults(name, partition, table(data, "pools"))
        for group in dict.fromkeys(texts(partition, "node_groups")):
            if group in managed:
                yield f"partitions.{name}.node_groups: {group!r} belongs to partition {managed[group]!r} already; a group has one partition"
            managed.setdefault(group, name)


def _pool_faults(pools: dict[str, Any]) -> Iterator[str]:
    seen: dict[tuple[object, ...], str] = {}
    for name, pool in pools.items():
        parts = tuple(
            pool.get(key) if isinstance(pool, dict) else None for key in ("provider", "region", "zone", "instance_type", "market")
        )
        if not all(isinstance(part, str) for part in parts):
            continue
        provider, region, zone = (str(part) for part in parts[:3])
        if provider in ("aws", "gcp") and not zone.startswith(region):
            yield f"pools.{name}.zone: {zone!r} is not in region {region!r}"
        if parts in seen:
            yield f"pools.{name} is the same pool as pools.{seen[parts]}: {pool_name(*(str(part) for part in parts))}"
        seen.setdefault(parts, name)


def _node_faults(groups: dict[str, Any]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, group in groups.items():
        nodes = group.get("nodes") if isinstance(group, dict) else None
        try:
            names = expand(nodes) if isinstance(nodes, str) else ()
        except InputError:
            continue
        for node in names:
            if node in owners:
                yield f"node_groups.{name}.nodes: {node!r} is in node_groups.{owners[node]} already"
                break
            owners[node] = name


def _reference_faults(path: str, named: list[str], known: dict[str, Any]) -> Iterator[str]:
    for at, name in enumerate(named):
        if name not in known:
            yield f"{path}[{at}]: there is no {name!r}{did_you_mean(name, known)}"
        elif name in named[:at]:
            yield f"{path}[{at}]: {name!r} is named twice"


def _ondemand_faults(name: str, partition: Any, pools: dict[str, Any]) -> Iterator[str]:
    bought = [pool for pool in texts(partition, "pools") if table(pools, pool).get("market") == "on_demand"]
    rule = partition.get("ondemand", "never") if isinstance(partition, dict) else None
    if rule == "never" and bought:
        yield f"partitions.{name}.pools: {bought[0]!r} is on-demand, which partitions.{name}.ondemand = 'never' forbids"
    if isinstance(rule, str) and WHEN_REFUSED.fullmatch(rule) and not bought:
        yield f"partitions.{name}.ondemand: {rule!r} has no effect without an on-demand pool in pools"
