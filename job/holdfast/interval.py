"""How long to train between two checkpoints: `every="auto"`, seconds, or steps. Pure: nothing here knows the time.

What a checkpoint costs is the *stall*, the seconds for which training is blocked; what is written behind training costs none. What it is
worth depends on how often a run is lost **without** a final save: a loss that was noticed, and saved in time, costs no rework. So the
interval follows from the stall and from the mean time between losses that are missed.

- J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974: sqrt(2 · stall · mtbf).
- J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006: the terms that count
  where the stall is not small against the time between losses. Its interval, like ours, is training alone, from the end of one stall
  to the beginning of the next.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass

from holdfast.history import NONE, Losses

DEFAULT_S = 600.0
"""Where nobody knows how often a node is lost: outside Holdfast, and until the controller has said."""
LEAST_S, MOST_S = 30.0, 1800.0
UNKNOWN_STALL_S = 1.0
"""Assumed until the first save has been measured."""
MOST_OVERHEAD = 0.05
"""Share of all time that stalls may take. Where that and the risk disagree, the share wins: what is known beats what is feared."""
WRITING_SHARE = 0.8
"""Share of all time for which a save may be written behind training: the next one finds the way free."""
FAILS_PER_H = 2e-4
"""Losses of a node per hour that no cloud announces (hardware, kernel), at the least: about one in 5,000 node-hours in published runs."""
MISSED_SHARE, MISSED_WEIGHT = 0.1, 5
"""Share of announced losses whose save does not make it, until the run has seen its own; it counts as much as this number of losses."""
WINDOW_SHARE = 0.9
"""A save that takes more of the notice than this is not counted on."""
FLAP = 1.25
"""A new interval replaces the old one where they differ by at least this factor."""


@dataclass(frozen=True)
class Every:
    """When a periodic checkpoint is due: every so many seconds and/or steps, or (`auto`) as `Auto` says."""

    seconds: float | None = None
    steps: int | None = None
    auto: bool = False

    @staticmethod
    def parse(every: str | float | None = None, *, every_s: float | None = None, every_steps: int | None = None) -> "Every":
        """Read the arguments of `Run`: `every` is "auto" or seconds (as is `every_s`); with none of them it is "auto".

        Raises TypeError, ValueError.
        """
        if every is not None and every_s is not None:
            raise ValueError("give every or every_s, not both")
        steps = None if every_steps is None else _steps(every_steps)
        asked = every_s if every is None else every
        if asked is None:
            return Every(steps=steps, auto=steps is None)
        if isinstance(asked, str):
            if asked != "auto":
                raise ValueError(f'every={asked!r}: it is "auto" or a number of seconds (every=300)')
            return Every(steps=steps, auto=True)
        return Every(_seconds(asked), steps)


def _steps(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"every_steps={value!r}: it is a whole number of steps")
    if value < 1:
        raise ValueError(f"every_steps={value}: it is at least 1")
    return value


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f'every={value!r}: it is "auto" or a number of seconds')
    if not 0 < value < math.inf:
        raise ValueError(f"every={value}: seconds are above 0 and finite")
    return float(value)


def young_s(stall_s: float, mtbf_s: float) -> float:
    """Young's interval, seconds of training between two saves."""
    return math.sqrt(2.0 * stall_s * mtbf_s)


def daly_s(stall_s: float, mtbf_s: float) -> float:
    """Daly's interval, seconds of training between two saves; the mean time between losses where a stall takes twice that or more."""
    if stall_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = math.sqrt(stall_s / (2.0 * mtbf_s))
    return young_s(stall_s, mtbf_s) * (1.0 + ratio / 3.0 + ratio * ratio / 9.0) - stall_s


def missed_share(losses: Losses, market: str | None, window_s: float | None, save_s: float | None) -> float:
    """Which share of a node's losses comes without a final save in time, 0 to 1.

    1 where nothing is announced (on-demand machines) or a full save of `save_s` seconds does not fit the notice of `window_s`.
    """
    if market == "on_demand" or (window_s is not None and save_s is not None and save_s > WINDOW_SHARE * window_s):
        return 1.0
    return (losses.missed + MISSED_SHARE * MISSED_WEIGHT) / (losses.missed + losses.saved + MISSED_WEIGHT)


def missed_mtbf_s(hazard_per_h: float | None, nodes: int, share: float) -> float | None:
    """Seconds between two losses that cost work, of a job on so many nodes like this one; None where the hazard is not known."""
    if hazard_per_h is None:
        return None
    return 3600.0 / (max(1, nodes) * max(FAILS_PER_H, hazard_per_h * share))


def least_s(stall_s: float, background_s: float) -> float:
    """The shortest interval, in seconds, that a save's own stall and its writing in the background allow."""
    return max(LEAST_S, stall_s * (1.0 / MOST_OVERHEAD - 1.0), background_s / WRITING_SHARE)


def choose_s(stall_s: float | None, background_s: float, mtbf_s: float | None) -> float:
    """The interval in seconds: Daly's within the bounds, `DEFAULT_S` within them where `mtbf_s` is not known.

    A save that is so slow that the least exceeds `MOST_S` is made as often as the least allows.
    """
    stall = UNKNOWN_STALL_S if stall_s is None else stall_s
    wanted = DEFAULT_S if mtbf_s is None else daly_s(stall, mtbf_s)
    return max(least_s(stall, background_s), min(wanted, MOST_S))


class Auto:
    """`every="auto"` of one attempt: learns what saves cost, and changes its mind only where that is worth it."""

    def __init__(self, losses: Losses = NONE) -> None:
        """`losses`: what earlier attempts of the run saw (`history.read`)."""
        self._losses = losses
        self._stalls_s: deque[float] = deque(maxlen=9)
        self._backgrounds_s: deque[float] = deque(maxlen=5)
        self._current_s: float | None = None

    def learn(self, stall_s: float, background_s: float = 0.0) -> None:
        """A save blocked training for `stall_s` and went on behind it for `background_s`."""
        self._stalls_s.append(stall_s)
        self._backgrounds_s.append(background_s)

    def interval_s(
        self,
        hazard_per_h: float | None,
        *,
        nodes: int = 1,
        market: str | None = None,
        window_s: float | None = None,
        save_s: float | None = None,
    ) -> float:
        """Seconds of training from the end of one save's stall to the next save. Ask after each save, and when the context has changed.

        `hazard_per_h`, `market` and `window_s` are those of context.json, `nodes` how many the job has, `save_s` how long a full save is
        expected to take until it is durable. None: not known.
        """
        stall_s = statistics.median(self._stalls_s) if self._stalls_s else None
        background_s = max(self._backgrounds_s, default=0.0)
        share = missed_share(self._losses, market, window_s, save_s)
        wanted_s = choose_s(stall_s, background_s, missed_mtbf_s(hazard_per_h, nodes, share))
        self._current_s = settle_s(self._current_s, wanted_s, least_s(stall_s or 0.0, background_s))
        return self._current_s


def settle_s(current_s: float | None, wanted_s: float, least: float) -> float:
    """The interval to use: the current one unless it is below the least, or the wanted one differs from it by `FLAP`."""
    if current_s is None or current_s < least:
        return wanted_s
    return current_s if 1.0 / FLAP < wanted_s / current_s < FLAP else wanted_s
