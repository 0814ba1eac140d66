"""What pools have lately done: refusals that fade, reclaims as a hazard, quotas as they were met. Pure: time is an argument.

How fast a refusal fades comes from recorded spot markets: half of all outages of a zone are over after about half an hour, and a quarter
of them after ten minutes. A pool that has just refused is scarce, and what is started there is soon taken back: so a refusal raises the
pool's hazard as well. Throttles, wrong requests and missing rights say nothing of capacity: they block a pool for a while, without blame.
"""

import math
from collections.abc import Mapping, MutableMapping
from functools import lru_cache

from holdfast_controller.providers.base import Fault, FaultKind, Quote
from holdfast_controller.records import PoolMemory, QuotaMemory

HALF_LIFE_S = 1800.0
"""After so long a refusal counts half."""
MAX_HEAT = 8.0
FRESH_PER_H = 0.2
"""Reclaims per instance-hour of a pool of which nothing is known; counts as much as `FRESH_HOURS` of watching."""
FRESH_HOURS = 5.0
SCARCE_PER_H = 1.0
"""What a refusal of this moment adds: of instances that were started in scarce zones, 37 % lived for an hour (exp(-1))."""
OBSERVED_HALF_LIFE_S = 86_400.0
"""After so long what was seen of a pool's reclaims counts half."""
BLOCK_S = {FaultKind.QUOTA: 300.0, FaultKind.CONFIG: 600.0, FaultKind.AUTH: 600.0}
"""For how long a pool is left alone after a failure that is no refusal, where the cloud did not say."""
DEFAULT_BLOCK_S = 5.0
PASSING = frozenset({FaultKind.THROTTLE, FaultKind.TRANSIENT})
"""What is over by itself within moments: it is waited for, and nothing is given up for it."""
PASSING_S = 20.0
STILL_COUNTS = 0.5


def faded(age_s: float, half_life_s: float) -> float:
    """Return what is left of something that old, 0 to 1."""
    return math.exp2(-max(0.0, age_s) / half_life_s)


def heat(memory: PoolMemory, now: float) -> float:
    """Return how many refusals still count, faded."""
    return memory.heat * faded(now - memory.refused_at, HALF_LIFE_S)


def doubt(memory: PoolMemory, now: float, nodes: int) -> float:
    """Return how likely the pool still refuses so many nodes, 0 to 1: 1 right after a refusal, and for longer the more there were.

    A refusal of a larger request says less of a smaller one.
    """
    share = min(1.0, nodes / memory.refused_nodes) if memory.refused_nodes else 1.0
    return min(1.0, heat(memory, now)) * share


def refusal_wait_s(memory: PoolMemory, backoff_s: float, most_s: float) -> float:
    """Return for how long after its last refusal a pool is left alone: doubling with each that still counted then, up to `most_s`."""
    return min(backoff_s * math.exp2(max(1.0, memory.heat) - 1.0), most_s)


def watched_h(memory: PoolMemory, now: float) -> float:
    """Return for how many hours the number of living instances has been known; none where nobody has counted yet."""
    return max(0.0, now - memory.observed_at) / 3600.0 if memory.observed_at else 0.0


def hazard_per_h(memory: PoolMemory | None, quote: Quote | None, now: float, nodes: int, living: int = 0) -> float:
    """Return how often an instance that is started there now is taken back, per hour.

    What was seen there, also of the `living` instances, is weighed with the cloud's own word (or, without one, with `FRESH_PER_H`);
    scarcity comes on top of it.
    """
    told = FRESH_PER_H if quote is None or quote.preemptions_per_h is None else quote.preemptions_per_h
    scarce = 0.0 if quote is None or quote.score is None else (1.0 - quote.score) / 2.0
    if memory is None:
        return told + SCARCE_PER_H * scarce
    weight = faded(now - memory.observed_at, OBSERVED_HALF_LIFE_S)
    hours = memory.hours * weight + living * watched_h(memory, now)
    seen = (memory.reclaims * weight + told * FRESH_HOURS) / (hours + FRESH_HOURS)
    return seen + SCARCE_PER_H * max(scarce, doubt(memory, now, nodes))


def expected_usd_h(price_usd_h: float, hazard: float, nodes: int, setback_s: float) -> float:
    """Return the price of an hour that is of use: each reclaim of one node costs the whole gang a setback (boot, save, requeue).

    Useful share = 1 - nodes · hazard · setback, at least a twentieth.
    """
    return price_usd_h / max(0.05, 1.0 - nodes * hazard * setback_s / 3600.0)


@lru_cache(maxsize=4096)
def quota_key(pool: str) -> str:
    """Return what a quota is counted by: provider, region, instance type and market, over all zones.

    Clouds count some quotas by families of types; a key that is too fine only has each type learn its own.
    """
    provider, region, _, instance_type, market = (pool.split("/") + [""] * 5)[:5]
    return f"{provider}/{region}/{instance_type}/{market}"


def quota_left(quota: QuotaMemory | None, alive: int, now: float) -> float:
    """Return how many more instances a quota allows as far as is known; infinity where nothing forbids any."""
    return float("inf") if quota is None or now >= quota.until else max(0, quota.limit - alive)


def alive_by(living: Mapping[str, int], key: str) -> int:
    """Count the living instances under a quota's key."""
    return sum(count for pool, count in living.items() if quota_key(pool) == key)


def refuse(pools: MutableMapping[str, PoolMemory], pool: str, at: float, code: str, nodes: int = 1, asked: float | None = None) -> None:
    """Note a refusal of so many nodes, asked for at `asked`. Of several that were asked for before the first answer came, one counts."""
    memory = pools.setdefault(pool, PoolMemory())
    left = heat(memory, at)
    news = asked is None or asked >= memory.refused_at
    memory.refused_nodes = min(nodes, memory.refused_nodes) if left >= STILL_COUNTS and memory.refused_nodes else nodes
    memory.heat = min(MAX_HEAT, left + 1.0) if news else max(1.0, left)
    memory.refused_at, memory.refusals = at, memory.refusals + news
    memory.last_kind, memory.last_code = FaultKind.CAPACITY, code


def block(pools: MutableMapping[str, PoolMemory], pool: str, fault: Fault, at: float) -> None:
    """Note a failure that is no refusal."""
    memory = pools.setdefault(pool, PoolMemory())
    wait_s = fault.retry_s if fault.retry_s is not None else BLOCK_S.get(fault.kind, DEFAULT_BLOCK_S)
    if fault.kind in PASSING:
        wait_s = min(wait_s, PASSING_S)  # it may have been the size of that call
    memory.blocked_until, memory.blocked_by, memory.passing = at + wait_s, f"{fault.kind}: {fault.code}", fault.kind in PASSING
    memory.last_kind, memory.last_code = fault.kind, fault.code


def grant(pools: MutableMapping[str, PoolMemory], pool: str, nodes: int) -> None:
    """Note that a pool gave so many: what was refused before counts no more, unless that was a larger request."""
    memory = pools.setdefault(pool, PoolMemory())
    memory.granted += nodes
    if nodes >= memory.refused_nodes:
        memory.heat = 0.0
    memory.most_shared = 0


def lived(pools: MutableMapping[str, PoolMemory], pool: str, living: int, at: float) -> None:
    """Count the instance-hours until now, before the number of living instances changes."""
    memory = pools.setdefault(pool, PoolMemory())
    weight = faded(at - memory.observed_at, OBSERVED_HALF_LIFE_S)
    memory.hours = memory.hours * weight + living * watched_h(memory, at)
    memory.reclaims *= weight
    memory.observed_at = at


def meet_quota(
    pools: MutableMapping[str, PoolMemory],
    quotas: MutableMapping[str, QuotaMemory],
    alive: int,
    pool: str,
    fault: Fault,
    at: float,
    asked: tuple[int, int],
) -> None:
    """Note that the account may not have as many as it has and was `asked` for (at least, at most).

    A call for several jobs that is refused as a whole tells only that it was for too many: the next is for half of them.
    """
    least, most = asked
    if most > least:
        pools.setdefault(pool, PoolMemory()).most_shared = max(1, most // 2)
        return
    wait_s = fault.retry_s if fault.retry_s is not None else BLOCK_S[FaultKind.QUOTA]
    quotas[quota_key(pool)] = QuotaMemory(alive + least - 1, at, at + wait_s, fault.code)
