"""Which agents are told how often their node is lost: at once when they come, and again when that has changed. Pure: time is an argument.

Jobs choose by it how often to save. A hazard is a sample like a price: never journaled, lost with the stream, told anew on the next.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from holdfast_controller import capacity
from holdfast_controller.fleet import Fleet
from holdfast_controller.plan import Plans
from holdfast_controller.providers.base import Market

ON_DEMAND_PER_H = 2e-4
"""Nobody takes an on-demand machine back, but machines fail: 419 unexpected interruptions in 54 days of 2,048 nodes with 8 GPUs are 1.6e-4
per node and hour (The Llama 3 Herd of Models, Meta 2024).
"""
LOOK_S = 10.0
AGAIN_S = 60.0
"""An agent is told no more often than this."""
CHANGED = 1.25
"""By this factor the hazard must differ from what was told: a job's interval goes by its root."""
MOST_AT_ONCE = 100
"""Of one look; the longest untold come first. 1,000 nodes are told anew within 100 s."""
_LEAST_PER_H = 1e-4
"""Below this a change is none."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an agent was told last, and when (seconds of a steady clock)."""

    hazard_per_h: float
    at: float


def market(fleet: Fleet, instance_id: str) -> Market | None:
    """Return how an instance was bought; None where its pool is not known (yet)."""
    record = fleet.instances.get(instance_id)
    name = record.instance.pool.rpartition("/")[2] if record is not None else ""
    return Market(name) if name in set(Market) else None


def hazard_per_h(fleet: Fleet, plans: Plans, instance_id: str, now: float) -> float | None:
    """Return how often an instance is expected to be lost, per hour; None where its pool is not known (yet)."""
    bought = market(fleet, instance_id)
    if bought is None:
        return None
    if bought is Market.ON_DEMAND:
        return ON_DEMAND_PER_H
    pool = fleet.instances[instance_id].instance.pool
    return capacity.hazard_per_h(fleet.pools.get(pool), plans.quotes.get(pool), now, 1, fleet.living[pool])


def changed(old_per_h: float, new_per_h: float) -> bool:
    """Whether the difference is worth a message."""
    low, high = sorted((max(old_per_h, _LEAST_PER_H), max(new_per_h, _LEAST_PER_H)))
    return high >= CHANGED * low


def due(told: Mapping[str, Told | None], hazard: Callable[[str], float | None], now: float) -> list[tuple[str, float]]:
    """Return who is to be told what. `told`: instance → what its agent, which is connected, was told; `now` is of the same steady clock."""
    waiting = []
    for instance_id, last in told.items():
        if last is not None and now < last.at + AGAIN_S:
            continue
        current = hazard(instance_id)
        if current is not None and (last is None or changed(last.hazard_per_h, current)):
            waiting.append((float("-inf") if last is None else last.at, instance_id, current))
    return [(instance_id, current) for _, instance_id, current in sorted(waiting)[:MOST_AT_ONCE]]
