"""What the clouds sell, for `holdfast pools discover`: chosen, as rows, and as tables for a policy file."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from holdfast_controller.cli.app import USAGE, CliError
from holdfast_controller.cli.output import Cell, Row
from holdfast_controller.plan import same_model

MARKETS = ("spot", "on_demand")


def discovered(timeout_s: float) -> Callable[[Any], Awaitable[tuple[list[Any], list[str]]]]:
    """Return the call that asks the controller."""

    async def talk(stub: Any) -> tuple[list[Any], list[str]]:
        from holdfast_protos.v1 import admin_pb2

        reply = await stub.ListOffers(admin_pb2.ListOffersRequest(), timeout=timeout_s)
        return list(reply.offers), list(reply.faults)

    return talk


def chosen(offers: Iterable[Any], gpu: str, min_gpus: int, max_gpus: int, market: str) -> list[Any]:
    """Return the offers that are meant, the most GPUs first. Raises CliError for a market that there is not."""
    if market not in MARKETS:
        raise CliError(f"there is no market {market!r}: {' or '.join(MARKETS)}", USAGE)
    fitting = (offer for offer in offers if min_gpus <= offer.gpus <= max_gpus and market in offer.markets)
    found = [offer for offer in fitting if not gpu or same_model(gpu, offer.gpu_model)]
    return sorted(found, key=lambda offer: (-offer.gpus, offer.provider, offer.instance_type, offer.region))


def offer_row(offer: Any) -> Row:
    """Return the row of a table."""
    return (
        Cell(offer.instance_type, "bold"),
        Cell(f"{offer.gpus} x {offer.gpu_model}"),
        Cell(f"{offer.gpu_memory_mb / 1024:.0f} GiB" if offer.gpu_memory_mb else ""),
        Cell(str(offer.cpus)),
        Cell(f"{offer.memory_mb / 1024:.0f} GiB"),
        Cell(" ".join(offer.markets)),
        Cell(f"{offer.provider} {offer.region}"),
        Cell(" ".join(offer.zones)),
    )


def offer_record(offer: Any) -> dict[str, Any]:
    """Return it for a JSON document."""
    return {
        "provider": offer.provider,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "zones": list(offer.zones),
        "gpu_model": offer.gpu_model,
        "gpus": offer.gpus,
        "gpu_memory_mb": offer.gpu_memory_mb or None,
        "cpus": offer.cpus,
        "memory_mb": offer.memory_mb,
        "markets": list(offer.markets),
    }


def pool_tables(offers: Sequence[Any], market: str) -> str:
    """Return one TOML table for each zone of each offer; names are made of what tells them apart."""
    lines = []
    for offer in offers:
        for zone in offer.zones:
            where = zone if zone.startswith(offer.region) else f"{offer.region}-{zone}"
            name = re.sub(r"[^A-Za-z0-9-]+", "-", f"{offer.instance_type}-{where}-{market}".replace("_", "-"))
            lines += [
                f"[pools.{name}]",
                f"provider = {json.dumps(offer.provider)}",
                f"region = {json.dumps(offer.region)}",
                f"zone = {json.dumps(zone)}",  # a cloud's words, quoted as JSON and TOML both do
                f"instance_type = {json.dumps(offer.instance_type)}",
                f"market = {json.dumps(market)}",
                "",
            ]
    return "\n".join(lines)
