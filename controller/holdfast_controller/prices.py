"""Current prices of the policy's pools: samples, never journaled. A cloud that gives none leaves the last ones standing."""

from collections.abc import Mapping

import structlog
from holdfast_common.clock import Clock

from holdfast_controller.policies import PolicyStore
from holdfast_controller.providers.base import Provider

EVERY_S = 60.0

log = structlog.get_logger()


class PriceWatcher:
    """Asks every cloud for the prices of its pools."""

    def __init__(self, providers: Mapping[str, Provider], policies: PolicyStore, clock: Clock) -> None:
        self._providers = providers
        self._policies = policies
        self._clock = clock

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            await self.look()
            await self._clock.sleep(EVERY_S)

    async def look(self) -> None:
        """Ask once."""
        pools = {pool.name: pool for plan in self._policies.plans().by_node.values() for pool in plan.pools}
        for name, provider in self._providers.items():
            try:
                self._policies.priced(await provider.quotes([pool for pool in pools.values() if pool.provider == name]))
            except Exception as error:  # prices are samples: no fault of a cloud's client may end the controller for them
                log.warning("a cloud gives no prices: the last ones stand", cloud=name, error=f"{type(error).__name__}: {error}")
