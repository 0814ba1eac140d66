"""Which zones of a recorded market a walk goes through, and from when on: where a job would be moved about most. Pure.

The choice is for the show, not for a judgement: policies are judged on whole recordings by the simulation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from holdfast_sandbox.trace import TraceFile

MOST_MOVES = 4
"""More make a walk no better."""
SPARE_ZONES = 3
"""So many zones more than are wanted are tried against each other."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of a recording."""

    zones: tuple[str, ...]
    """Cheapest first, by the prices of its first step."""
    start: int
    """The step with which it begins."""
    units: int
    """Instances for each that was recorded."""
    moves: int
    """How often a job that takes the first zone with room loses it."""


@dataclass(frozen=True, slots=True)
class _Walked:
    """What happens to a job in a window."""

    moves: int = 0
    hasty: int = 0
    """Moves out of a zone in which it had but one step: the show would be of little else."""
    stalls: int = 0
    """Steps in which no zone has room."""
    refusals: int = 0
    """Zones that are asked in vain before another one has room."""
    used: int = 0
    """Different zones in which it runs."""

    @property
    def worth(self) -> tuple[int, ...]:
        """More is better."""
        return (min(self.moves, MOST_MOVES) - self.hasty - self.stalls, self.used, min(self.refusals, MOST_MOVES))


def choose(trace: TraceFile, zones: int, nodes: int, job_nodes: int, steps: int, start: int | None = None) -> Choice:
    """Return the zones, and the start where none is given, for a cluster of `nodes`, a job of `job_nodes` and a window of `steps` steps.

    Raises ValueError where the recording has too few zones or ends too soon.
    """
    if not 1 <= zones <= len(trace.pools):
        raise ValueError(f"the recording has {len(trace.pools)} zones, of which 1 to all can be chosen, not {zones}")
    counts = {name: pool.counts() for name, pool in trace.pools.items()}
    length = min(map(len, counts.values()))
    if start is not None and not 0 <= start < length:
        raise ValueError(f"the recording has {length} steps, of which the walk may begin with 0 to {length - 1}, not {start}")
    units = -(-nodes // max(1, *map(max, counts.values())))
    room = {name: [count * units >= job_nodes for count in line] for name, line in counts.items()}
    prices = {name: pool.prices() for name, pool in trace.pools.items()}
    starts = [start] if start is not None else range(0, max(1, length - steps + 1), max(1, steps // 2))
    best: tuple[tuple[int, ...], Choice] | None = None
    for first in starts:
        window = {name: line[first : first + steps] for name, line in room.items()}
        for named in _candidates(window, zones):
            ordered = tuple(sorted(named, key=lambda name: (_at(prices[name], first), name)))
            walked = _walk([window[name] for name in ordered])
            if best is None or walked.worth > best[0]:
                best = walked.worth, Choice(ordered, first, units, walked.moves)
    assert best is not None
    return best[1]


def _candidates(window: Mapping[str, Sequence[bool]], zones: int) -> Iterator[tuple[str, ...]]:
    """Yield sets of the zones that change most; of two that change as often the one with more room goes first."""
    changes = {name: (sum(a != b for a, b in pairwise(line)), sum(line)) for name, line in window.items()}
    liveliest = sorted(window, key=lambda name: (changes[name], name), reverse=True)
    yield from combinations(liveliest[: zones + SPARE_ZONES], zones)


def _walk(lines: Sequence[Sequence[bool]]) -> _Walked:
    """Put a job into the first zone that has room, again whenever it loses its place."""
    here: int | None = None
    moves = hasty = stalls = refusals = since = 0
    used: set[int] = set()
    for step, now in enumerate(zip(*lines, strict=True)):
        if here is not None and not now[here]:
            here, moves, hasty = None, moves + 1, hasty + (step - since < 2)
        if here is None:
            here, since = next((zone for zone, room in enumerate(now) if room), None), step
            refusals += here or 0
            stalls += here is None
            used |= set() if here is None else {here}
    return _Walked(moves, hasty, stalls, refusals, len(used))


def _at(values: Sequence[float], step: int) -> float:
    return values[min(step, len(values) - 1)]
