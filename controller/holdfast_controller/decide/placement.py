"""Which pools to ask for a gang, in order, and why not the others."""

from collections.abc import Iterable
from dataclasses import dataclass

from holdfast_controller import capacity
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Market, Pool

SCARCE = 0.5
"""A pool that is as likely as this to refuse still comes after all others, whatever it costs."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a gang needs of a pool."""

    nodes: int
    """Instances that are missing."""
    since: float
    """When Slurm began to wait for them, Unix seconds."""
    waiting_since: float
    """When it began to wait for the job's nodes first: requests that were given up count."""
    domains: frozenset[str] = frozenset()
    """Placement domains in which the gang has nodes already; empty: it may begin in any."""


def domain(pool: str) -> str:
    """Return where a gang must be whole: provider, region and zone of a pool's name."""
    return "/".join(pool.split("/")[:3])


def rank(fleet: Fleet, plans: Plans, plan: Plan, want: Want, now: float) -> list[Pool]:
    """Return the pools that may be asked at `now`, best first; those that cannot serve, or refused lately, are left out."""
    usable: list[Pool] = []
    for market in Market:  # spot first
        pools = [pool for pool in plan.pools if pool.market is market]
        ready = [pool for pool in pools if not why_not(fleet, plans, plan, pool, want, now)]
        if not ready:  # each refused lately: nothing is lost by asking, and a zone may be back long before its wait is over
            ready = [pool for pool in pools if not why_not(fleet, plans, plan, pool, want, now, most_s=plan.probe_s)]
        usable += ready
    if plan.order != "listed":
        usable.sort(key=lambda pool: cost_usd_h(fleet, plans, plan, pool, want.nodes, now))
    usable.sort(key=lambda pool: _gave_a_sick_one(fleet, plan, pool, now))
    usable.sort(key=lambda pool: _doubt(fleet, pool, want.nodes, now) >= SCARCE)
    usable.sort(key=lambda pool: pool.market is Market.ON_DEMAND)
    return usable


def cost_usd_h(fleet: Fleet, plans: Plans, plan: Plan, pool: Pool, nodes: int, now: float) -> float:
    """Return what an instance-hour costs, by the plan's order: its price, or (`scored`) the price of an hour that is of use.

    Infinity where no price is known.
    """
    price = plans.price_usd_h(pool.name)
    if price is None:
        return float("inf")
    if plan.order != "scored":
        return price
    hazard = 0.0
    if pool.market is Market.SPOT:
        memory, quote, living = fleet.pools.get(pool.name), plans.quotes.get(pool.name), fleet.living[pool.name]
        hazard = capacity.hazard_per_h(memory, quote, now, nodes, living)
    return capacity.expected_usd_h(price, hazard, nodes, plan.setback_s)


def why_not(fleet: Fleet, plans: Plans, plan: Plan, pool: Pool, want: Want, now: float, most_s: float | None = None) -> str:
    """Return why the pool is not asked at `now`; empty if it may be. After a refusal it is left alone for `most_s` at the most."""
    return (
        _never(plans, plan, pool)
        or _elsewhere(pool, want)
        or _too_soon_on_demand(plan, pool, want, now)
        or _out_of_quota(fleet, pool, want.nodes, now)
        or _lately(fleet, plan, pool, want.nodes, now, plan.refusal_memory_s if most_s is None else most_s)
    )


def _never(plans: Plans, plan: Plan, pool: Pool) -> str:
    if pool.market is Market.ON_DEMAND and plan.ondemand_after_s is None:
        return "on-demand is not allowed by the policy"
    return plan.shape.misfit(plans.offer(pool))


def _elsewhere(pool: Pool, want: Want) -> str:
    if not want.domains or domain(pool.name) in want.domains:
        return ""
    return f"the job's other nodes are in {', '.join(sorted(want.domains))}"


def _too_soon_on_demand(plan: Plan, pool: Pool, want: Want, now: float) -> str:
    soon = pool.market is Market.ON_DEMAND and now < want.waiting_since + (plan.ondemand_after_s or 0.0)
    return f"on-demand only after {plan.ondemand_after_s:.0f} s" if soon else ""


def _out_of_quota(fleet: Fleet, pool: Pool, nodes: int, now: float) -> str:
    key = capacity.quota_key(pool.name)
    quota = fleet.quotas.get(key)
    if quota is None or now >= quota.until:
        return ""
    alive = capacity.alive_by(fleet.living, key)
    if capacity.quota_left(quota, alive, now) >= nodes:
        return ""
    return f"quota: {quota.code}, the account had {quota.limit}, asked again in {quota.until - now:.0f} s"


def _lately(fleet: Fleet, plan: Plan, pool: Pool, nodes: int, now: float, most_s: float) -> str:
    memory = fleet.pools.get(pool.name)
    if memory is None:
        return ""
    if now < memory.blocked_until:
        return f"{memory.blocked_by}, for {memory.blocked_until - now:.0f} s more"
    if not memory.heat or nodes < memory.refused_nodes:
        return ""  # a smaller request may fit where a larger one did not
    left_s = memory.refused_at + capacity.refusal_wait_s(memory, plan.refusal_backoff_s, most_s) - now
    return f"refused {now - memory.refused_at:.0f} s ago, asked again in {left_s:.0f} s" if left_s > 0 else ""


def _doubt(fleet: Fleet, pool: Pool, nodes: int, now: float) -> float:
    memory = fleet.pools.get(pool.name)
    return capacity.doubt(memory, now, nodes) if memory is not None else 0.0


def _gave_a_sick_one(fleet: Fleet, plan: Plan, pool: Pool, now: float) -> bool:
    memory = fleet.pools.get(pool.name)
    return memory is not None and plan.health.act and memory.sick_at > 0 and now < memory.sick_at + plan.health.avoid_pool_s


def passing(fleet: Fleet, plans: Plans, plan: Plan, want: Want, now: float) -> bool:
    """Whether a pool would be asked but for something that is over within moments, such as a throttle: it is waited for."""
    for pool in plan.pools:
        memory = fleet.pools.get(pool.name)
        if memory is None or not memory.passing or now >= memory.blocked_until:
            continue
        opens = memory.blocked_until
        if not why_not(fleet, plans, plan, pool, want, opens, most_s=plan.probe_s):
            return True
    return False


def soonest(fleet: Fleet, plans: Plans, plan: Plan, want: Want, now: float) -> float:
    """Return when the first of the plan's pools may be asked again, Unix seconds; at the latest after the policy's memory."""
    times = [now + plan.refusal_memory_s]
    for pool in plan.pools:
        if not _never(plans, plan, pool) and not _elsewhere(pool, want):
            times.extend(_openings(fleet, plan, pool, want))
    return min(time for time in times if time > now)


def _openings(fleet: Fleet, plan: Plan, pool: Pool, want: Want) -> Iterable[float]:
    """Yield the moment from which on what keeps a pool from being asked now does so no more."""
    memory, quota = fleet.pools.get(pool.name), fleet.quotas.get(capacity.quota_key(pool.name))
    moments = [0.0]
    if pool.market is Market.ON_DEMAND:
        moments.append(want.waiting_since + (plan.ondemand_after_s or 0.0))
    if quota is not None:
        moments.append(quota.until)
    if memory is not None:
        moments.append(memory.blocked_until)
        if memory.heat:
            moments.append(memory.refused_at + capacity.refusal_wait_s(memory, plan.refusal_backoff_s, plan.probe_s))
    yield max(moments)
