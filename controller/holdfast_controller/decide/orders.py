"""From what gangs need to calls: at most so many under way per region, and jobs of one node each share a call.

A gang is always a call of its own: all or nothing. What finds no slot waits, and is put together with what has come meanwhile.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from holdfast_controller.commands import Launch
from holdfast_controller.decide.placement import Want, domain
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Pool

MAX_IN_FLIGHT = 8
MAX_OTHERS = 20
SLOW_S = 3.0
"""Calls that have been under way for longer than this may hang."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one gang needs, and the pools that may be asked for it, best first."""

    job_id: int
    nodes: tuple[str, ...]
    plan: Plan
    want: Want
    pools: list[Pool]
    who: str


def region(pool: str) -> str:
    """Return where calls are counted: provider and region of a pool's name."""
    return "/".join(pool.split("/")[:2])


class Orders:
    """The orders of one round of decisions."""

    def __init__(self, fleet: Fleet, plans: Plans, now: float) -> None:
        self._fleet, self._plans = fleet, plans
        self._orders: list[Order] = []
        self._made = 0
        under_way = [(region(launch.pool), launch.at) for launch in fleet.launches.values() if not launch.ended]
        self._under_way = Counter(where for where, _ in under_way)
        self._slow = {where for where, at in under_way if now >= at + SLOW_S}

    def add(self, order: Order) -> None:
        """Take an order in."""
        self._orders.append(order)

    def launches(self) -> Iterator[Launch]:
        """Yield as many calls as have a slot: first come first served, the shared ones at the place of their first order."""
        shared: dict[tuple[object, ...], list[Order]] = defaultdict(list)
        for order in (self._placed(each) for each in sorted(self._orders, key=lambda each: each.want.since)):
            key: tuple[object, ...] = (order.pools[0].name, order.plan.partition, order.plan.group, self._others(order))
            shared[key if len(order.nodes) == 1 else (id(order),)].append(order)
        for orders in shared.values():
            most = self._most(orders[0])
            for start in range(0, len(orders), most):
                if not self._has_slot(orders[0].pools[0]):
                    break
                self._under_way[region(orders[0].pools[0].name)] += 1
                self._made += 1
                yield self._launch(orders[start : start + most])

    def _placed(self, order: Order) -> Order:
        """Return the order without the pools of a region that is full of calls which hang, as long as others will do."""
        free = [pool for pool in order.pools if self._has_slot(pool) or region(pool.name) not in self._slow]
        return replace(order, pools=free) if free else order

    def _has_slot(self, pool: Pool) -> bool:
        return self._under_way[region(pool.name)] < self._plans.in_flight.get(pool.provider, MAX_IN_FLIGHT)

    def _most(self, order: Order) -> int:
        """Return how many orders may share the call."""
        pool = order.pools[0]
        memory = self._fleet.pools.get(pool.name)
        most = self._plans.batch.get(pool.provider, 1) if len(order.nodes) == 1 else 1
        return min(most, memory.most_shared) if memory is not None and memory.most_shared else most

    def _launch(self, orders: list[Order]) -> Launch:
        first = orders[0]
        pool, names = first.pools[0], tuple(name for order in orders for name in order.nodes)
        launch_id = f"hf-{self._fleet.epoch}-{self._fleet.launch_count + self._made}"
        price = self._plans.price_usd_h(pool.name)
        cost = "" if price is None else f" at {price:.2f} USD an hour"
        who = first.who if len(orders) == 1 else f"{first.who} and {len(orders) - 1} more"
        why = f"{who} needs {len(names)} node(s); {pool.name} is the first of {len(first.pools)} pool(s) that may be asked{cost}"
        jobs = tuple(order.job_id for order in orders if order.job_id) if len(orders) > 1 else ()
        return Launch(
            f"launch:{launch_id}",
            why,
            launch_id,
            pool.name,
            names,
            first.job_id if len(orders) == 1 else 0,
            minimum=len(names) if len(orders) == 1 else 1,
            others=self._others(first),
            job_ids=jobs,
        )

    def _others(self, order: Order) -> tuple[str, ...]:
        """Return the pools that may go into the same call: of one region and market, and of one zone where the gang is bound to it."""
        first = order.pools[0]
        if not order.plan.combine:
            return ()
        same = [pool for pool in order.pools[1:] if region(pool.name) == region(first.name) and pool.market is first.market]
        return tuple(pool.name for pool in same if not order.want.domains or domain(pool.name) in order.want.domains)[:MAX_OTHERS]
