"""What pools cost: spot prices from EC2's history, on-demand ones from the settings; and how likely they are to be had."""

from collections.abc import Sequence
from datetime import UTC, datetime

from holdfast_common.clock import Clock

from holdfast_controller.providers.aws_calls import AwsCalls, answers_of
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_scores import PlacementScores
from holdfast_controller.providers.aws_wire import newest_prices
from holdfast_controller.providers.base import Market, Pool, Quote


class Quotes:
    """Prices and scores of one account's pools."""

    def __init__(self, calls: AwsCalls, config: AwsConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._scores = PlacementScores(calls, config)

    async def of(self, pools: Sequence[Pool], known: Sequence[Pool], *, scores: bool) -> dict[str, Quote]:
        """Return what is known of each of `pools`. EC2 is asked of the spot pools among `known`; raises if no region answered."""
        spot = [pool for pool in known if pool.market is Market.SPOT]
        answers, _ = await answers_of(self._spot_prices(region, spot) for region in sorted({pool.region for pool in spot}))
        prices = {name: price for answer in answers for name, price in answer.items()}
        scored = await self._scores.of(spot) if scores else {}
        quotes = {}
        for pool in pools:
            on_demand = self._on_demand_usd_h(pool)
            price = prices.get(pool.name) if pool.market is Market.SPOT else on_demand
            quote = Quote(price, on_demand, scored.get(pool.name))
            if quote != Quote():
                quotes[pool.name] = quote
        return quotes

    async def _spot_prices(self, region: str, pools: Sequence[Pool]) -> dict[str, float]:
        asked = [pool for pool in pools if pool.region == region]
        history = await self._calls.pages(
            region,
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=sorted({pool.instance_type for pool in asked}),
            ProductDescriptions=[self._config.product],
            StartTime=datetime.fromtimestamp(self._clock.now(), UTC),  # the entry in force then, and later ones
        )
        newest = newest_prices(history)
        return {pool.name: newest[key] for pool in asked if (key := (pool.zone, pool.instance_type)) in newest}

    def _on_demand_usd_h(self, pool: Pool) -> float | None:
        """Return the price by the settings' table; a region's own entry goes before the type's."""
        table = self._config.on_demand_usd_h
        return table.get(f"{pool.region}/{pool.instance_type}", table.get(pool.instance_type))
