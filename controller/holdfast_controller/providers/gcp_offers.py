"""Which machine types with GPUs Compute Engine sells where, from its aggregated list.

Only types that bring their GPUs along: to an N1 machine they are attached one by one, which is no shape that a pool could name.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from holdfast_controller.providers.base import Offer
from holdfast_controller.providers.gcp_calls import region_of

_GPU = re.compile(r"nvidia-(?:tesla-)?([a-z0-9]+(?:-(?!mega\b|vws\b|\d+gb\b)[a-z0-9]+)*)(?:-(?:mega|vws))?(?:-(\d{1,4})gb)?", re.ASCII)
_MEMORY_GB = {"a100": 40, "l4": 24, "t4": 16, "v100": 16, "p100": 16, "p4": 8}
"""Of GPUs whose accelerator type does not say it ("GPU platforms", Compute Engine documentation)."""


def offers_in(pages: Iterable[Any], provider: str, regions: Iterable[str]) -> tuple[Offer, ...]:
    """Return the offers of these regions from all pages of an aggregated list of machine types."""
    wanted = frozenset(regions)
    types: dict[tuple[str, str], Any] = {}
    zones: dict[tuple[str, str], set[str]] = defaultdict(set)
    for scope, listed in ((scope, listed) for page in pages for scope, listed in page.items.items()):
        zone = scope.removeprefix("zones/")
        for said in listed.machine_types:
            if region_of(zone) in wanted and said.accelerators:
                types[region_of(zone), said.name] = said
                zones[region_of(zone), said.name].add(zone)
    offers = (
        offer_of(said, provider, region, zones[region, name]) for (region, name), said in sorted(types.items(), key=lambda each: each[0])
    )
    return tuple(offer for offer in offers if offer is not None)


def offer_of(said: Any, provider: str, region: str, zones: Iterable[str]) -> Offer | None:
    """Return a machine type's offer; None for one without an NVIDIA GPU of its own."""
    found = _GPU.fullmatch(said.accelerators[0].guest_accelerator_type)
    count = said.accelerators[0].guest_accelerator_count
    if found is None or count < 1:
        return None
    memory_gb = int(found[2]) if found[2] else _MEMORY_GB.get(found[1], 0)
    return Offer(
        provider=provider,
        region=region,
        instance_type=said.name,
        zones=tuple(sorted(zones)),
        gpu_model=found[1].upper(),
        gpus=count,
        gpu_memory_mb=memory_gb * 1024,
        cpus=said.guest_cpus,
        memory_mb=said.memory_mb,
    )
