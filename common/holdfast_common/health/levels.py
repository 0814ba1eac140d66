"""One reading rule for one GPU or node: when it begins to hold, and when it is over. Pure; times are the samples' own, Unix seconds."""

import itertools
import math
from collections import deque
from dataclasses import dataclass, field

from holdfast_common.health.catalogue import READINGS, TIER_S
from holdfast_common.health.model import Sample
from holdfast_common.health.rules import MOST_SAMPLES, ReadingRule

COVERED = 0.9
"""A share is known once the readings span so much of its window …"""
MOST_HOLE = 0.25
"""… and no hole between two of them is longer than this part of it (or two rounds of its tier)."""
SET_BACK_S = 300.0
"""A reading that is so much older than the newest is no late one: the clock was set back."""
UNREAD_S = 3600.0
"""A finding whose reading has not been got for so long is dropped: it is known of no more."""


@dataclass(slots=True)
class Level:
    """What is remembered of it."""

    since: float | None = None
    """It fired then, and is not over."""
    read_at: float = 0.0
    """The newest reading that gave a value."""
    value: float = 0.0
    """What the condition was on: the value, its growth, or the share; of a finding, when a reading said so last."""
    detail: str = ""
    began: float | None = None
    """It has held since then, without a reading that says otherwise."""
    quiet_since: float | None = None
    """It has fired, and no reading has said so since then."""
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))

    def take(self, rule: ReadingRule, sample: Sample) -> bool:
        """Take a sample in; return whether the rule fires by it."""
        if self.read_at - sample.at > SET_BACK_S:
            self._set_back(sample.at)
        if sample.state == "unsupported":
            self._quiet(rule, sample.at)
            return False
        if sample.state != "ok" or sample.value is None or not math.isfinite(sample.value) or sample.at < self.read_at:
            return False
        if sample.at - self.read_at > UNREAD_S:
            self.forget()  # else a good reading would bring back what was dropped
        self.read_at = sample.at
        held, value = self._measured(rule, sample)
        if held or self.since is None:
            self.value, self.detail = value, sample.detail
        if not held:
            self.began = None
            self._quiet(rule, sample.at)
            return False
        self.quiet_since = None
        self.began = sample.at if self.began is None else self.began
        if self.since is None and sample.at - self.began >= rule.for_s:
            self.since = self.began
            return True
        return False

    def is_over(self, now: float) -> bool:
        """Whether nobody has read it for so long that it is known of no more."""
        return self.since is not None and now - self.read_at > UNREAD_S

    def forget(self) -> None:
        """Start anew, with the history that there is: a condition that still holds fires again."""
        self.since = self.began = self.quiet_since = None

    def _set_back(self, at: float) -> None:
        """Keep what was found, and measure all times anew: else nothing would be taken until the clock is where it was."""
        self.read_at, self.began, self.quiet_since = at, None, None
        self.since = None if self.since is None else min(self.since, at)
        self.history.clear()

    def _quiet(self, rule: ReadingRule, at: float) -> None:
        if self.since is None:
            return
        self.quiet_since = at if self.quiet_since is None else self.quiet_since
        if at - self.quiet_since >= rule.clear_s:
            self.since = self.quiet_since = None

    def _measured(self, rule: ReadingRule, sample: Sample) -> tuple[bool, float]:
        """Return whether the condition holds, and what it is on."""
        assert sample.value is not None
        if rule.growth_over_s:
            # The reading before the window's begin is its baseline: one round of the tier may lie between.
            self._remember(sample, rule.growth_over_s + TIER_S[READINGS[rule.reading].tier] / 2)
            growth = self._growth()
            return rule.holds(growth), growth
        if rule.share is not None:
            self._remember(sample, rule.over_s)
            held = [rule.holds(value) for _, value in self.history]
            share = sum(held) / len(held)
            return share >= rule.share and self._is_covered(rule), share
        return rule.holds(sample.value), sample.value

    def _remember(self, sample: Sample, window_s: float) -> None:
        assert sample.value is not None
        if self.history and self.history[-1][0] == sample.at:
            self.history.pop()
        self.history.append((sample.at, sample.value))
        while self.history[0][0] < sample.at - window_s:
            self.history.popleft()

    def _is_covered(self, rule: ReadingRule) -> bool:
        times = [at for at, _ in self.history]
        hole_s = max((after - before for before, after in itertools.pairwise(times)), default=0.0)
        most_s = max(MOST_HOLE * rule.over_s, 2 * TIER_S[READINGS[rule.reading].tier])
        return times[-1] - times[0] >= COVERED * rule.over_s and hole_s <= most_s

    def _growth(self) -> float:
        values = [value for _, value in self.history]
        return sum(max(0.0, after - before) for before, after in itertools.pairwise(values))
