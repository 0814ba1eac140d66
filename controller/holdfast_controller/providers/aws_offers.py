"""Which instance types with GPUs EC2 sells where, from DescribeInstanceTypes and DescribeInstanceTypeOfferings."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from holdfast_controller.providers.aws_calls import AwsCalls
from holdfast_controller.providers.base import Market, Offer

MARKETS = {"spot": Market.SPOT, "on-demand": Market.ON_DEMAND}
PAGE_SIZE = 100
"""The most that DescribeInstanceTypes takes."""


async def offers_of(calls: AwsCalls, provider: str, regions: Iterable[str]) -> tuple[Offer, ...]:
    """Return the offers of all regions, or raise ProviderError."""
    found = await asyncio.gather(*(_in_region(calls, provider, region) for region in regions))
    return tuple(offer for offers in found for offer in offers)


async def _in_region(calls: AwsCalls, provider: str, region: str) -> list[Offer]:
    types, places = await asyncio.gather(
        calls.pages(region, "describe_instance_types", "InstanceTypes", page_size=PAGE_SIZE),
        calls.pages(region, "describe_instance_type_offerings", "InstanceTypeOfferings", LocationType="availability-zone"),
    )
    zones: dict[str, set[str]] = defaultdict(set)
    for place in places:
        zones[str(place["InstanceType"])].add(str(place["Location"]))
    offers = (offer_of(said, provider, region, zones.get(str(said["InstanceType"]), set())) for said in types)
    return [offer for offer in offers if offer is not None]


def offer_of(said: Mapping[str, Any], provider: str, region: str, zones: Iterable[str]) -> Offer | None:
    """Return a type's offer; None for one without a whole NVIDIA GPU, or that no zone of the region sells."""
    gpus = [gpu for gpu in said.get("GpuInfo", {}).get("Gpus", []) if gpu.get("Manufacturer") == "NVIDIA" and gpu.get("Count")]
    places = tuple(sorted(zones))
    if not gpus or not places:
        return None
    return Offer(
        provider=provider,
        region=region,
        instance_type=str(said["InstanceType"]),
        zones=places,
        gpu_model=str(gpus[0].get("Name", "")),
        gpus=sum(int(gpu["Count"]) for gpu in gpus),
        gpu_memory_mb=int(gpus[0].get("MemoryInfo", {}).get("SizeInMiB", 0)),
        cpus=int(said["VCpuInfo"]["DefaultVCpus"]),
        memory_mb=int(said["MemoryInfo"]["SizeInMiB"]),
        markets=tuple(MARKETS[each] for each in said.get("SupportedUsageClasses", []) if each in MARKETS),
    )
