"""What instances cost, and what their hours would have cost on demand: price times time, summed up as time passes. Pure.

A price that nobody knows is never taken for 0: such hours are counted apart.
"""

from holdfast_controller.fleet import Fleet
from holdfast_controller.metrics.counts import Counts
from holdfast_controller.plan import Plans

MOST_GAP_S = 600.0
"""A longer time between two looks is a controller that stood still."""


class Ledger:
    """Adds to `cost_usd`, `on_demand_cost_usd` and `unpriced_instance_seconds`."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._at: float | None = None

    def accrue(self, fleet: Fleet, plans: Plans, now: float) -> None:
        """Count the time since the last call for every instance that lives now. `now`: seconds that nobody sets."""
        since_s = now - self._at if self._at is not None else 0.0
        self._at = now
        if not 0 < since_s <= MOST_GAP_S:
            return
        for record in fleet.instances.values():
            pool = record.instance.pool
            if not record.alive or not pool:
                continue
            quote = plans.quotes.get(pool)
            price = record.price_usd_h if record.price_usd_h is not None else quote.price_usd_h if quote is not None else None
            on_demand = record.on_demand_usd_h
            if on_demand is None and quote is not None:
                on_demand = quote.on_demand_usd_h
            market = pool.rpartition("/")[2]
            if price is None:
                self._counts.add("unpriced_instance_seconds", since_s, market)
            else:
                self._counts.add("cost_usd", price * since_s / 3600.0, market)
                self._counts.add("on_demand_cost_usd", (price if on_demand is None else on_demand) * since_s / 3600.0)
