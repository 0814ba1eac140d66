"""Which sizes with GPUs Azure sells where, from the list of resource SKUs; and its word on how likely spot machines are to be had.

The list tells how many GPUs a size has, but not which: that stands in the names, for which Microsoft's documentation of each series is
the source. Sizes with a part of a GPU, and those without an NVIDIA one, are no offers.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast_controller.providers.azure_resources import Resources
from holdfast_controller.providers.azure_wire import Json, region_of, table
from holdfast_controller.providers.base import Market, Offer, Pool, ProviderError

SERIES: tuple[tuple[re.Pattern[str], str, int], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), model, memory_mb)
    for pattern, model, memory_mb in (
        (r"Standard_ND\d+isr_H200_v5", "H200", 144_384),
        (r"Standard_ND\d+isrf?_H100_v5", "H100", 81_920),
        (r"Standard_NCC?\d+adi?s_H100_v5", "H100", 96_256),
        (r"Standard_ND\d+amsr_A100_v4", "A100", 81_920),
        (r"Standard_ND\d+asr_(A100_)?v4", "A100", 40_960),
        (r"Standard_NC\d+ads_A100_v4", "A100", 81_920),
        (r"Standard_NV(36|72)adm?s_A10_v5", "A10", 24_576),
        (r"Standard_NC\d+as_T4_v3", "T4", 16_384),
        (r"Standard_ND40rs_v2", "V100", 32_768),
        (r"Standard_NC\d+r?s_v3", "V100", 16_384),
    )
)
PARTS = re.compile(r"Standard_NV(6|12|18)ads_A10_v5", re.IGNORECASE)
"""Sizes that have a part of an A10, though the list says one."""
_NVIDIA = re.compile(r"_(GB\d{3}|B\d{3}|H\d{3}|A10{1,2}|L40S?|L4|T4|RTXPRO\w*)_", re.IGNORECASE)
REGIONS_MAX, SIZES_MAX = 8, 5
"""Of one request for placement scores ("Spot Placement Score")."""
SCORES = {"high": 0.9, "medium": 0.5, "low": 0.1}
"""Azure says three words; these are our numbers for them."""


async def offers_of(arm: Resources, provider: str, regions: Iterable[str]) -> tuple[Offer, ...]:
    """Return the offers of all regions, or raise ProviderError."""
    asked = list(regions)
    answers = await asyncio.gather(*(arm.sizes(region) for region in asked))
    found = (offer_of(said, provider, region) for region, sizes in zip(asked, answers, strict=True) for said in sizes)
    return tuple(offer for offer in found if offer is not None)


def offer_of(said: Json, provider: str, region: str) -> Offer | None:
    """Return a size's offer; None for one without a whole NVIDIA GPU, or that no zone of the region sells to this subscription."""
    name = str(said.get("name", ""))
    capabilities = {str(each.get("name")): str(each.get("value")) for each in _tables(said.get("capabilities"))}
    gpus, cpus, memory_mb = _number(capabilities, "GPUs"), _number(capabilities, "vCPUs"), _number(capabilities, "MemoryGB", 1024)
    model, gpu_memory_mb = gpu_of(name, str(said.get("family", "")))
    zones = _zones(said, region)
    if said.get("resourceType") != "virtualMachines" or not model or not zones or min(gpus, cpus, memory_mb) <= 0:
        return None
    spot = capabilities.get("LowPriorityCapable", "").lower() == "true"
    return Offer(
        provider=provider,
        region=region,
        instance_type=name,
        zones=zones,
        gpu_model=model,
        gpus=gpus,
        gpu_memory_mb=gpu_memory_mb,
        cpus=cpus,
        memory_mb=memory_mb,
        markets=(Market.SPOT, Market.ON_DEMAND) if spot else (Market.ON_DEMAND,),
    )


def gpu_of(name: str, family: str) -> tuple[str, int]:
    """Return the GPU's model and memory in MiB (0: unknown) by a size's name, and by its family's; an empty model for none that we know."""
    if PARTS.fullmatch(name):
        return "", 0
    for pattern, model, memory_mb in SERIES:
        if pattern.fullmatch(name):
            return model, memory_mb
    found = _NVIDIA.search(f"{name}_") or _NVIDIA.search(f"_{family.removesuffix('Family')}_")
    return (found[1].upper(), 0) if found else ("", 0)


def _zones(said: Json, region: str) -> tuple[str, ...]:
    places = [each for each in _tables(said.get("locationInfo")) if region_of(each.get("location")) == region]
    zones = {str(zone) for place in places for zone in _list(place.get("zones"))}
    for restriction in _tables(said.get("restrictions")):
        if restriction.get("type") == "Location":
            return ()
        zones -= {str(zone) for zone in _list(table(restriction, "restrictionInfo").get("zones"))}
    return tuple(sorted(zones))


async def scores_of(arm: Resources, pools: Sequence[Pool], count: int) -> dict[str, float]:
    """Return pool name → score, for spot pools; a request that fails leaves its pools out."""
    regions = sorted({pool.region for pool in pools})
    sizes = sorted({pool.instance_type for pool in pools})
    asked = (
        _scores(arm, regions[at : at + REGIONS_MAX], sizes[of : of + SIZES_MAX], count)
        for at in range(0, len(regions), REGIONS_MAX)
        for of in range(0, len(sizes), SIZES_MAX)
    )
    found = {key: score for answer in await asyncio.gather(*asked) for key, score in answer.items()}
    keys = {pool.name: (pool.region, pool.zone, pool.instance_type.lower()) for pool in pools}
    return {name: found[key] for name, key in keys.items() if key in found}


async def _scores(arm: Resources, regions: Sequence[str], sizes: Sequence[str], count: int) -> dict[tuple[str, str, str], float]:
    body: Mapping[str, Any] = {
        "desiredLocations": list(regions),
        "desiredSizes": [{"sku": size} for size in sizes],
        "desiredCount": count,
        "availabilityZones": True,
    }
    try:
        answer = await arm.scores(regions[0], body)
    except ProviderError:
        return {}  # the prices are returned without
    found = {}
    for said in _tables(answer.get("placementScores")):
        score = SCORES.get(str(said.get("score", "")).lower())
        if score is not None:
            key = (region_of(said.get("region")), str(said.get("availabilityZone", "")), str(said.get("sku", "")).lower())
            found[key] = score
    return found


def _number(capabilities: Mapping[str, str], name: str, times: int = 1) -> int:
    text = capabilities.get(name, "")
    return round(float(text) * times) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) else 0


def _list(said: object) -> list[Any]:
    return said if isinstance(said, list) else []


def _tables(said: object) -> list[Json]:
    return [each for each in _list(said) if isinstance(each, Mapping)]
