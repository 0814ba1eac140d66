"""The market for machines: how many of which are to be had where, at which price, and who holds them.

Pure and deterministic: time is an argument everywhere, nothing here reads a clock, draws a number or does I/O.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from holdfast_sandbox.timeline import Timeline

MarketKind = Literal["spot", "on_demand"]
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, order=True)
class Pool:
    """What a cloud keeps capacity by: a zone, an instance type, a market."""

    zone: str
    instance_type: str
    market: MarketKind


@dataclass(frozen=True)
class Zone:
    """A zone and the region that it belongs to."""

    name: str
    region: str
    provider: str = "aws"


@dataclass(frozen=True)
class Quote:
    """How many of the machines asked for can be had; `code` and `message` say why not more (None where all can)."""

    count: int
    code: str | None = None
    message: str = ""


@dataclass
class PoolState:
    """A pool's capacity (instances) and price (USD per hour) over time, and who holds what, oldest first."""

    capacity: Timeline
    price_usd_h: Timeline
    held: dict[str, None] = field(default_factory=dict)


class Market:
    """All pools of the cloud."""

    def __init__(self, zones: Iterable[Zone], pools: dict[Pool, PoolState]) -> None:
        self.zones = {zone.name: zone for zone in zones}
        self.pools = pools
        missing = {pool.zone for pool in pools} - self.zones.keys()
        if missing:
            raise ValueError(f"pools in unknown zones: {sorted(missing)}")

    def capacity(self, pool: Pool, now: float) -> int:
        """How many instances the pool can hold at `now`; 0 for a pool that does not exist."""
        state = self.pools.get(pool)
        return int(state.capacity.at(now)) if state else 0

    def free(self, pool: Pool, now: float) -> int:
        """How many more it would grant at `now`."""
        state = self.pools.get(pool)
        return max(0, self.capacity(pool, now) - len(state.held)) if state else 0

    def price_usd_h(self, pool: Pool, now: float) -> float:
        """The price at `now`; raises KeyError for a pool that does not exist."""
        return self.pools[pool].price_usd_h.at(now)

    def cost_usd(self, pool: Pool, start_s: float, end_s: float) -> float:
        """What one instance costs between two moments, at the prices that held."""
        return self.pools[pool].price_usd_h.integral(start_s, end_s) / SECONDS_PER_HOUR

    def quote(self, pool: Pool, wanted: int, now: float, max_price_usd_h: float | None = None) -> Quote:
        """How many of `wanted` instances the pool would grant at `now`; holds nothing yet."""
        if pool not in self.pools:
            message = f"Your requested instance type ({pool.instance_type}) is not supported in {pool.zone}."
            return Quote(0, "Unsupported", message)
        price = self.price_usd_h(pool, now)
        if pool.market == "spot" and max_price_usd_h is not None and max_price_usd_h < price:
            message = (
                f"Your Spot request price of {max_price_usd_h:g} is lower than the minimum required Spot request "
                f"fulfillment price of {price:g}."
            )
            return Quote(0, "SpotMaxPriceTooLow", message)
        free = self.free(pool, now)
        if free >= wanted:
            return Quote(wanted)
        message = (
            "There is no Spot capacity available that matches your request."
            if pool.market == "spot"
            else f"We currently do not have sufficient {pool.instance_type} capacity in the Availability Zone you requested ({pool.zone})."
        )
        return Quote(free, "InsufficientInstanceCapacity", message)

    def hold(self, pool: Pool, instance_ids: Collection[str], now: float) -> None:
        """Take capacity for these instances; raises ValueError, and takes none, where there is not enough."""
        held = self.pools[pool].held
        new = [instance_id for instance_id in instance_ids if instance_id not in held]
        if len(new) > self.free(pool, now):
            raise ValueError(f"{pool} has no room for {len(new)} instances")
        held.update(dict.fromkeys(new))

    def release(self, pool: Pool, instance_id: str) -> None:
        """Give one instance's capacity back; a second time changes nothing."""
        self.pools[pool].held.pop(instance_id, None)

    def overdrawn(self, now: float, doomed: Collection[str] = ()) -> list[str]:
        """The instances to take back, newest first, where a spot pool shrank below what it had granted.

        `doomed` are those that are being taken back already; they count as gone.
        """
        victims: list[str] = []
        for pool, state in sorted(self.pools.items()):
            if pool.market == "spot":
                staying = [instance_id for instance_id in state.held if instance_id not in doomed]
                excess = max(0, len(staying) - self.capacity(pool, now))
                victims.extend(list(reversed(staying))[:excess])
        return victims

    def next_change(self, now: float) -> float | None:
        """When a capacity or a price changes next by itself, or None."""
        moments = [
            moment
            for state in self.pools.values()
            for line in (state.capacity, state.price_usd_h)
            if (moment := line.next_after(now)) is not None
        ]
        return min(moments, default=None)
