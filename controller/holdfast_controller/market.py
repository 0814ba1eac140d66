"""What the clouds say of prices, capacity and shapes: samples, never journaled. A cloud that gives none leaves the last ones standing."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog
from holdfast_common.clock import Clock

from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers.base import Offer, Pool, Provider, Quote

PRICES_EVERY_S = 60.0
SCORES_EVERY_S = 3600.0
"""Clouds allow few questions about capacity."""
OFFERS_EVERY_S = 86_400.0
OFFERS_AGAIN_S = 300.0
"""After a failure."""

log = structlog.get_logger()


class MarketWatcher:
    """Asks every cloud for quotes of its pools, and for what it sells."""

    def __init__(self, providers: Mapping[str, Provider], policies: PolicyStore, clock: Clock) -> None:
        self._providers = providers
        self._policies = policies
        self._clock = clock

    async def watch_prices(self) -> None:
        """Ask for ever."""
        scored_at = float("-inf")
        while True:
            now = self._clock.monotonic()
            scores = self._policies.wants_scores() and now >= scored_at + SCORES_EVERY_S
            scored_at = now if scores else scored_at
            await self.look(scores=scores)
            await self._clock.sleep(PRICES_EVERY_S)

    async def watch_offers(self) -> None:
        """Ask for ever, once a day, where the policy has shapes to hold the types against."""
        due_at = float("-inf")
        while True:
            now = self._clock.monotonic()
            if self._policies.wants_offers() and now >= due_at:
                due_at = now + (OFFERS_AGAIN_S if (await self.offers())[1] else OFFERS_EVERY_S)
            await self._clock.sleep(PRICES_EVERY_S)

    async def look(self, *, scores: bool = False) -> list[str]:
        """Ask for quotes once; return which clouds gave none, and why."""
        pools = {pool.name: pool for plan in self._policies.plans().by_node.values() for pool in plan.pools}
        asked = {name: [pool for pool in pools.values() if pool.provider == name] for name in self._providers}
        answers = await asyncio.gather(*(self._quotes(name, mine, scores) for name, mine in asked.items() if mine))
        return [fault for fault in answers if fault]

    async def _quotes(self, name: str, pools: Sequence[Pool], scores: bool) -> str:
        try:
            quotes: Mapping[str, Quote] = await self._providers[name].quotes(pools, scores=scores)
        except Exception as error:  # prices are samples: no fault of a cloud's client may end the controller for them
            log.warning("a cloud gives no prices: the last ones stand", cloud=name, error=f"{type(error).__name__}: {error}")
            return f"{name}: {error}"
        self._policies.priced(quotes)
        return ""

    async def offers(self) -> tuple[list[Offer], list[str]]:
        """Ask what is sold; return it, and which clouds gave no answer, and why. The policy's shapes are held against it from now on."""
        answers = await asyncio.gather(*(self._offers(name) for name in self._providers))
        found = [offer for offers, _ in answers for offer in offers]
        self._policies.sold(found)
        return found, [fault for _, fault in answers if fault]

    async def _offers(self, name: str) -> tuple[Sequence[Offer], str]:
        try:
            return await self._providers[name].offers(), ""
        except Exception as error:  # as above
            log.warning("a cloud does not say what it sells", cloud=name, error=f"{type(error).__name__}: {error}")
            return (), f"{name}: {error}"
