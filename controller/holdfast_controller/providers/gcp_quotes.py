"""Prices and scores: the settings' tables, and Compute Engine's advice where it answers.

List prices stand in the Cloud Billing catalogue, which is another API with another right; what `advice.capacityHistory` tells is the list
price of a Spot VM by day, without the preemption rate being of use here: that is the share of preempted ones among all Spot VMs that
stopped in a day ("View the preemption rate and pricing for Spot VMs"), not a rate in time. `advice.capacity` has what comes nearest to one:
the time that most Spot VMs are expected to run at least, in coarse steps up to an hour ("View the availability of Spot VMs").
"""

import asyncio
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.base import Fault, Market, Pool, ProviderError, Quote
from holdfast_controller.providers.gcp_calls import ComputeCalls
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.gcp_wire import seconds_of

UPTIME_MAX_S = 3600.0
"""The longest estimate that is given; it says "an hour or more", which is no rate."""
PRICE_MAX_USD_H = 1e5
_DURATION = re.compile(r"(\d{1,9})(\.\d{1,9})?s", re.ASCII)


class Quotes:
    """What is known of prices, refreshed where it is older than the settings allow."""

    def __init__(self, calls: ComputeCalls, config: GcpConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._spot: dict[tuple[str, str], tuple[float, float | None]] = {}

    async def of(self, pools: Sequence[Pool], *, scores: bool) -> dict[str, Quote]:
        """Return quotes by pool name. Advice that fails leaves out what it would have said: the tables stand without it."""
        await self.refresh(pools)
        spot = [pool for pool in pools if pool.market is Market.SPOT]
        told = dict(zip(spot, await asyncio.gather(*map(self._score, spot)), strict=True)) if scores else {}
        quotes = {}
        for pool in pools:
            on_demand = self._config.on_demand_price(pool.region, pool.instance_type)
            price = self.spot_usd_h(pool) if pool.market is Market.SPOT else on_demand
            score, preemptions = told.get(pool, (None, None))
            quote = Quote(price, on_demand, score, preemptions)
            if quote != Quote():
                quotes[pool.name] = quote
        return quotes

    def spot_usd_h(self, pool: Pool) -> float | None:
        """Return the known spot price of a pool's instances: the newest told, else the table's."""
        told = self._spot.get((pool.zone, pool.instance_type), (0.0, None))[1]
        return told if told is not None else self._config.spot_price(pool.region, pool.instance_type)

    async def refresh(self, pools: Iterable[Pool]) -> Fault | None:
        """Ask for the spot prices that are old; returns the first failure. An old price stands until there is a newer one."""
        now = self._clock.now()
        wanted = {(pool.zone, pool.instance_type): pool for pool in pools if pool.market is Market.SPOT}
        stale = [pool for key, pool in wanted.items() if key not in self._spot or now >= self._spot[key][0] + self._config.price_refresh_s]
        answers = await asyncio.gather(*map(self._price, stale), return_exceptions=True)
        fault: Fault | None = None
        for pool, answer in zip(stale, answers, strict=True):
            key = (pool.zone, pool.instance_type)
            before = self._spot.get(key, (0.0, None))[1]
            if isinstance(answer, ProviderError):
                fault = fault or answer.fault
                self._spot[key] = (now, before)  # failed or not, it is not asked for again before its time
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._spot[key] = (now, answer if answer is not None else before)
        return fault

    async def _price(self, pool: Pool) -> float | None:
        resource = {
            "instance_properties": {"machine_type": pool.instance_type, "scheduling": {"provisioning_model": "SPOT"}},
            "location_policy": {"location": f"zones/{pool.zone}"},
            "types": ["PRICE"],
        }
        answer = await self._calls.call(
            "Advice", "capacity_history", project=self._config.project, region=pool.region, capacity_history_request_resource=resource
        )
        return newest_price(answer.price_history)

    async def _score(self, pool: Pool) -> tuple[float | None, float | None]:
        resource = {
            "distribution_policy": {"target_shape": "ANY_SINGLE_ZONE", "zones": [{"zone": f"zones/{pool.zone}"}]},
            "instance_flexibility_policy": {"instance_selections": {"choice-0": {"machine_types": [pool.instance_type]}}},
            "instance_properties": {"scheduling": {"provisioning_model": "SPOT"}},
            "size": self._config.score_instances,
        }
        try:
            answer = await self._calls.call(
                "Advice", "capacity", project=self._config.project, region=pool.region, capacity_advice_request_resource=resource
            )
        except ProviderError:
            return None, None
        return score_of(answer)


def newest_price(history: Iterable[Any]) -> float | None:
    """Return the newest price in US dollars per hour; what is none (another currency, no amount) is left out."""
    newest: tuple[float, float] | None = None
    for entry in history:
        price, at = entry.list_price.units + entry.list_price.nanos / 1e9, seconds_of(entry.interval.start_time)
        if entry.list_price.currency_code != "USD" or at is None or not 0 < price <= PRICE_MAX_USD_H:
            continue
        if newest is None or at > newest[0]:
            newest = (at, price)
    return newest[1] if newest is not None else None


def score_of(answer: Any) -> tuple[float | None, float | None]:
    """Return obtainability, and the rate at which half of all Spot VMs would be taken back within the estimated uptime.

    The estimate says that *most* run so long, and is no more than a bound where it is the longest one.
    """
    for said in answer.recommendations:
        score = said.scores.obtainability if said.scores.HasField("obtainability") else None
        score = score if score is not None and 0 <= score <= 1 else None
        found = _DURATION.fullmatch(said.scores.estimated_uptime)
        uptime_s = float(found[0][:-1]) if found else 0.0
        return score, math.log(2) / (uptime_s / 3600) if 0 < uptime_s < UPTIME_MAX_S else None
    return None, None
