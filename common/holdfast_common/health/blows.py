"""One event rule for one GPU: its events, who is to blame, and how often it has fired. Pure; times are the events' own, Unix seconds."""

from collections import deque
from dataclasses import dataclass, field

from holdfast_common.health.model import Action, GpuEvent
from holdfast_common.health.rules import EventRule, Rule

BURST_S = 180.0
"""What comes within this time of one before it is the same trouble, and no second strike (NVSentinel's burst window)."""
MOST_EVENTS = 256
MOST_STRIKES = 1000


@dataclass(slots=True)
class Blow:
    """What is remembered of it."""

    first_at: float
    last_at: float
    count: int = 0
    code: int = 0
    text: str = ""
    jobs: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    """When, at last, and the job that the event is blamed on (0: not known)."""

    def take(self, event: GpuEvent, *, stands: bool) -> bool:
        """Take an event in; return whether it is new trouble. `stands`: the finding did when it came."""
        fresh = self.count == 0 or event.at - self.last_at > BURST_S
        if not stands:
            self.first_at, self.count = event.at, 0
        self.count += 1
        self.first_at, self.last_at = min(self.first_at, event.at), max(self.last_at, event.at)
        self.code, self.text = event.code, event.text
        again = self.jobs.pop()[0] if self.jobs and self.jobs[-1][1] == event.job_id else event.at
        self.jobs.append((max(again, event.at), event.job_id))  # one job's many lines must not push out another job
        return fresh

    def stands(self, rule: EventRule, now: float) -> bool:
        """Whether the finding still stands."""
        return rule.stands_s == 0 or now - self.last_at <= rule.stands_s

    def ends(self, rule: Rule) -> list[float]:
        """Return the times at which it is over, or blames a job less, if no event comes."""
        if not isinstance(rule, EventRule):
            return []
        forgotten = [at + rule.within_s for at, job_id in self.jobs if job_id] if rule.blame != "gpu" else []
        return [*forgotten, *([self.last_at + rule.stands_s] if rule.stands_s else [])]

    def blamed(self, rule: EventRule, now: float) -> frozenset[int]:
        """Return the jobs that are known to have had such events on this GPU within the rule's window."""
        return frozenset(job_id for at, job_id in self.jobs if job_id and now - at <= rule.within_s)


@dataclass(slots=True)
class Strikes:
    """When a rule fired for one GPU."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_STRIKES))

    def count(self, rule: Rule, now: float) -> int:
        """Return how often within the rule's window (without one: ever)."""
        within_s = rule.strikes.within_s if rule.strikes is not None else float("inf")
        return sum(now - at <= within_s for at in self.times)

    def ends(self, rule: Rule) -> list[float]:
        """Return the times at which one counts no more."""
        return [at + rule.strikes.within_s for at in self.times] if rule.strikes is not None else []

    def action(self, rule: Rule, now: float) -> Action:
        """Return the action that it has come to."""
        return rule.strikes.action if rule.strikes is not None and self.are_enough(rule, now) else rule.action

    def are_enough(self, rule: Rule, now: float) -> bool:
        """Whether the graver action holds."""
        return rule.strikes is not None and self.count(rule, now) >= rule.strikes.count
