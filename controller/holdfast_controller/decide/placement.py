"""Which pools to ask for a gang, in order, and why not the others."""

from collections.abc import Sequence

from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Market, Pool
from holdfast_controller.records import PoolMemory


def rank(fleet: Fleet, plans: Plans, plan: Plan, wanted_since: float, now: float) -> list[Pool]:
    """Return the pools that may be asked at `now`, best first; those that refused lately are left out."""
    usable = [pool for pool in plan.pools if not why_not(fleet, plan, pool, wanted_since, now)]
    if plan.order == "price":
        usable.sort(key=lambda pool: _price_usd_h(plans, pool))
    usable.sort(key=lambda pool: pool.market is Market.ON_DEMAND)
    return usable


def why_not(fleet: Fleet, plan: Plan, pool: Pool, wanted_since: float, now: float) -> str:
    """Return why the pool is not asked at `now`; empty if it may be."""
    if pool.market is Market.ON_DEMAND:
        if plan.ondemand_after_s is None:
            return "on-demand is not allowed by the policy"
        if now < wanted_since + plan.ondemand_after_s:
            return f"on-demand only after {plan.ondemand_after_s:.0f} s"
    memory = fleet.pools.get(pool.name)
    if memory is None:
        return ""
    if now < memory.blocked_until:
        return f"{memory.last_kind}: {memory.last_code}, for {memory.blocked_until - now:.0f} s more"
    left_s = memory.refused_at + refusal_wait_s(memory, plan, now) - now
    return f"refused {now - memory.refused_at:.0f} s ago, asked again in {left_s:.0f} s" if left_s > 0 and memory.refusals else ""


def refusal_wait_s(memory: PoolMemory, plan: Plan, now: float) -> float:
    """Return for how long after its last refusal a pool is left alone: doubling with each, up to the policy's memory."""
    return min(plan.refusal_backoff_s * 2.0 ** min(memory.refusals - 1, 16), plan.refusal_memory_s)


def soonest(fleet: Fleet, plan: Plan, pools: Sequence[Pool], wanted_since: float, now: float) -> float:
    """Return when the first of the pools may be asked again, Unix seconds; at the latest after the policy's memory."""
    times = [now + plan.refusal_memory_s]
    for pool in pools:
        if pool.market is Market.ON_DEMAND and plan.ondemand_after_s is not None:
            times.append(wanted_since + plan.ondemand_after_s)
        memory = fleet.pools.get(pool.name)
        if memory is not None and (pool.market is Market.SPOT or plan.ondemand_after_s is not None):
            times.append(max(memory.blocked_until, memory.refused_at + refusal_wait_s(memory, plan, now)))
    return min(time for time in times if time > now)


def _price_usd_h(plans: Plans, pool: Pool) -> float:
    price = plans.price_usd_h(pool.name)
    return float("inf") if price is None else price
