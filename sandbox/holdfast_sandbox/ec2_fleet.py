"""Where a launch goes: the pure choice among pools that CreateFleet and RunInstances make."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from holdfast_sandbox.ec2_templates import Params
from holdfast_sandbox.machine import LaunchSpec
from holdfast_sandbox.market import Pool, Quote


@dataclass(frozen=True)
class Candidate:
    """One override of a fleet request: a pool, what it would cost and hold now, and how to launch there."""

    pool: Pool
    spec: LaunchSpec
    wire: Params  # LaunchTemplateAndOverrides, as the answer repeats it
    price_usd_h: float
    free: int
    priority: float = 0.0
    weight: int = 1
    fault: Quote | None = None  # wrong from the start, such as a template without an image


@dataclass(frozen=True)
class Placed:
    """So many instances for a candidate."""

    candidate: Candidate
    count: int


@dataclass(frozen=True)
class Refused:
    """Why a candidate gave no more."""

    candidate: Candidate
    quote: Quote


Quoter = Callable[[Candidate, int, int], Quote]
"""What a candidate would give: (candidate, wanted, how many this very request places in other pools)."""


def ranked(candidates: Iterable[Candidate], strategy: str, target: int) -> list[Candidate]:
    """Candidates in the order in which they are tried.

    EC2 does not publish how it weighs depth against price; here, price-capacity-optimized prefers pools that can hold the
    whole request, the cheapest of them first, and the deepest of the others. So does capacity-optimized-prioritized, by priority.
    """

    def by_depth_then_price(candidate: Candidate) -> tuple[float, float]:
        short = max(0, target - candidate.free * candidate.weight)
        return (short, candidate.price_usd_h / candidate.weight)

    keys: dict[str, Callable[[Candidate], tuple[float, float]]] = {
        "price-capacity-optimized": by_depth_then_price,
        "capacity-optimized": lambda candidate: (-candidate.free, 0.0),
        "capacity-optimized-prioritized": lambda candidate: (-min(target, candidate.free * candidate.weight), candidate.priority),
        "prioritized": lambda candidate: (candidate.priority, 0.0),
    }
    return sorted(candidates, key=keys.get(strategy, lambda candidate: (candidate.price_usd_h / candidate.weight, 0.0)))


def fill(candidates: list[Candidate], target: int, quoter: Quoter) -> tuple[list[Placed], list[Refused]]:
    """Fill a target from candidates in their order; the weights of what is placed add up to it, or as near as could be."""
    placed: list[Placed] = []
    refused: list[Refused] = []
    left = target
    taken: dict[Pool, int] = {}
    for candidate in candidates:
        if left <= 0:
            break
        wanted = -(-left // candidate.weight)
        here = taken.get(candidate.pool, 0)
        quote = candidate.fault or quoter(candidate, wanted + here, sum(taken.values()) - here)
        count = max(0, min(wanted, quote.count - here))
        if count:
            placed.append(Placed(candidate, count))
            taken[candidate.pool] = here + count
            left -= count * candidate.weight
        if count < wanted:
            refused.append(Refused(candidate, replace(quote, count=count)))
    return placed, refused


def spread(candidates: list[Candidate], target: int, quoter: Quoter) -> tuple[list[Placed], list[Refused]]:
    """Fill a target evenly over the candidates (strategy `diversified`), what one lacks being taken from the rest."""
    shares: dict[int, int] = {}
    refused: dict[int, Refused] = {}
    left = target
    open_ones = list(range(len(candidates)))
    while left > 0 and open_ones:
        for index in list(open_ones):
            candidate = candidates[index]
            if left <= 0:
                break
            wanted = shares.get(index, 0) + 1
            quote = candidate.fault or quoter(candidate, wanted, sum(shares.values()) - shares.get(index, 0))
            if quote.count < wanted:
                refused[index] = Refused(candidate, quote)
                open_ones.remove(index)
                continue
            shares[index] = wanted
            left -= candidate.weight
    return [Placed(candidates[index], count) for index, count in shares.items()], list(refused.values())


def placed_capacity(placed: Iterable[Placed]) -> int:
    """How much of a target was placed."""
    return sum(one.count * one.candidate.weight for one in placed)


def groups(candidates: list[Candidate], one_type: bool, one_zone: bool) -> list[list[Candidate]]:
    """Candidates split so that each group has a single instance type and/or zone, in order of appearance."""
    split: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        pool = candidate.pool
        key = (pool.instance_type if one_type else "", pool.zone if one_zone else "")
        split.setdefault(key, []).append(candidate)
    return list(split.values())
