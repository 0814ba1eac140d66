"""Readings and the driver's words in, findings out: by the rules, and by nothing else.

Pure and deterministic: time comes with the samples and as an argument. What a sample does not tell (`failed`) neither begins nor ends a
finding; what a GPU does not have (`unsupported`) is over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from holdfast_common.health.blows import Blow, Strikes
from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.levels import UNREAD_S, Level
from holdfast_common.health.memory import dumped, loaded
from holdfast_common.health.model import Action, Finding, GpuEvent, Sample
from holdfast_common.health.rules import EventRule, ReadingRule, Rule, Rules

MOST_PLACES = 4096
"""Pairs of rule and GPU that are remembered: lines of the kernel's log may name GPUs that there are not."""
JUST_AFTER_S = 0.001
"""What stands for some time stands at the end of that time, and not after it."""
MOST_NAMED = 8
"""So many GPUs or jobs are named in a sentence."""

Place = tuple[str, str]
"""Rule, and the GPU's uuid (empty: the node)."""


class Judge:
    """Remembers what the rules need, and no more."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._levels: dict[Place, Level] = {}
        self._blows: dict[Place, Blow] = {}
        self._strikes: dict[Place, Strikes] = {}

    def use(self, rules: Rules) -> None:
        """Judge by other rules from now on; what is remembered of a rule stays where one of its name judges the same reading or kind."""
        known = {(rule.name, rule.reading) for rule in self._rules.reading} | {(rule.name, rule.kind) for rule in self._rules.event}
        readings = {rule.name for rule in rules.reading if (rule.name, rule.reading) in known}
        events = {rule.name for rule in rules.event if (rule.name, rule.kind) in known}
        self._rules = rules
        self._levels = {place: level for place, level in self._levels.items() if place[0] in readings}
        self._blows = {place: blow for place, blow in self._blows.items() if place[0] in events}
        self._strikes = {place: strikes for place, strikes in self._strikes.items() if place[0] in readings | events}

    def take(self, sample: Sample) -> None:
        """Take a reading in."""
        for rule in self._rules.by_reading.get(sample.name, ()):
            place = (rule.name, sample.gpu)
            level = self._levels.get(place)
            if level is None:
                if not self._has_room():
                    continue
                level = self._levels[place] = Level()
            if level.take(rule, sample):
                self._strike(place, sample.at)

    def hear(self, event: GpuEvent) -> None:
        """Take in what the driver said by itself."""
        rule = self._rules.for_event(event.kind, event.code, event.fatal)
        if rule is None:
            return
        place = (rule.name, event.gpu)
        blow = self._blows.get(place)
        if blow is None:
            if not self._has_room():
                return
            blow = self._blows[place] = Blow(event.at, event.at)
        if blow.take(event, stands=self._stands(rule, place, event.at)):
            self._strike(place, event.at)

    def resolve(self, rule: str, gpu: str) -> None:
        """Forget what a rule (`*`: every rule) found on a GPU (empty: on all, and the node). What still holds comes back by a reading."""
        for place in [*self._levels, *self._blows, *self._strikes]:
            if rule in {"*", "", place[0]} and gpu in {"", place[1]}:
                self._blows.pop(place, None)
                self._strikes.pop(place, None)
                if place in self._levels:
                    self._levels[place].forget()

    def findings(self, now: float) -> tuple[Finding, ...]:
        """Return what holds, the gravest first."""
        found = [*self._level_findings(now), *self._event_findings(now)]
        return tuple(sorted(found, key=lambda each: (each.dry_run, -each.action.rank, each.since, each.key)))

    def next_due(self, after: float) -> float | None:
        """Return the first time later than `after` at which something may be over without a word of anybody; None: never."""
        rules: dict[str, Rule] = {rule.name: rule for rule in self._rules.all}
        times = [level.read_at + UNREAD_S for level in self._levels.values() if level.since is not None]
        for (name, _), blow in self._blows.items():
            times += blow.ends(rules[name])
        for (name, _), strikes in self._strikes.items():
            times += strikes.ends(rules[name])
        return min((at + JUST_AFTER_S for at in times if at + JUST_AFTER_S > after), default=None)

    def saved(self) -> dict[str, Any]:
        """Return what a restart must not lose, as JSON takes it."""
        return dumped(self._levels, self._blows, self._strikes)

    def restore(self, saved: Mapping[str, Any]) -> bool:
        """Take up what was saved. Returns False, and changes nothing, where it is not what `saved` gives."""
        found = loaded(saved)
        if found is None:
            return False
        self._levels, self._blows, self._strikes = found
        self.use(self._rules)
        return True

    def _has_room(self) -> bool:
        return len(self._levels) + len(self._blows) < MOST_PLACES

    def _strike(self, place: Place, at: float) -> None:
        self._strikes.setdefault(place, Strikes()).times.append(at)

    def _level_findings(self, now: float) -> Iterator[Finding]:
        rules = {rule.name: rule for rule in self._rules.reading}
        for place, level in self._levels.items():
            if level.since is not None and not level.is_over(now):
                rule = rules[place[0]]
                yield self._finding(rule, place, level.since, now, _level_text(rule, level))

    def _event_findings(self, now: float) -> Iterator[Finding]:
        rules = {rule.name: rule for rule in self._rules.event}
        own_fault = {rule.name: self._own_fault(rule, now) for rule in self._rules.event if rule.blame == "either"}
        for place, blow in self._blows.items():
            rule = rules[place[0]]
            if not self._stands(rule, place, now):
                continue
            if rule.blame == "gpu":
                yield self._finding(rule, place, blow.first_at, now, _event_text(rule, blow))
            else:
                yield self._shared_blame(rule, place, now, own_fault.get(rule.name, {}))
        for name, jobs in own_fault.items():
            yield from self._blamed_jobs(rules[name], now, jobs)

    def _stands(self, rule: EventRule, place: Place, now: float) -> bool:
        """Whether a finding stands: for its time, and as long as its strikes ask for the graver action."""
        return self._blows[place].stands(rule, now) or self._strikes.get(place, Strikes()).are_enough(rule, now)

    def _shared_blame(self, rule: EventRule, place: Place, now: float, own_fault: Mapping[int, int]) -> Finding:
        blow = self._blows[place]
        jobs = blow.blamed(rule, now)
        others = jobs - own_fault.keys()
        text = _event_text(rule, blow)
        if rule.blame == "either" and len(others) >= rule.jobs:
            return self._finding(rule, place, blow.first_at, now, f"{text}, under {len(others)} jobs: {_named(others)}")
        why = f"{text}, of job {_named(jobs)}" if jobs else f"{text}, of no known job"
        found = self._finding(rule, place, blow.first_at, now, why, tuple(sorted(jobs)))
        return found if rule.blame == "job" else replace(found, action=Action.NOTE)

    def _own_fault(self, rule: EventRule, now: float) -> dict[int, int]:
        """Return the jobs that had such events on several GPUs, and on how many: it is their own fault, and says nothing against a GPU."""
        gpus: dict[int, set[str]] = {}
        for (name, gpu), blow in self._blows.items():
            if name == rule.name and blow.stands(rule, now):
                for job_id in blow.blamed(rule, now):
                    gpus.setdefault(job_id, set()).add(gpu)
        return {job_id: len(seen) for job_id, seen in gpus.items() if len(seen) > 1}

    def _blamed_jobs(self, rule: EventRule, now: float, jobs: Mapping[int, int]) -> Iterator[Finding]:
        """Yield one note that names the jobs whose own fault it is."""
        if jobs:
            standing = [blow for (name, _), blow in self._blows.items() if name == rule.name and blow.stands(rule, now)]
            since = min(blow.first_at for blow in standing if blow.blamed(rule, now) & jobs.keys())
            text = f"on {max(jobs.values())} GPUs under one job: it is the job's own fault ({_named(frozenset(jobs))})"
            yield Finding(rule.name, Action.NOTE, since, "", text, rule.advice, rule.dry_run, 1, tuple(sorted(jobs)))

    def _finding(self, rule: Rule, place: Place, since: float, now: float, text: str, job_ids: tuple[int, ...] = ()) -> Finding:
        strikes = self._strikes.get(place, Strikes())
        count = max(1, strikes.count(rule, now))
        return Finding(rule.name, strikes.action(rule, now), since, place[1], text, rule.advice, rule.dry_run, count, job_ids)


def _level_text(rule: ReadingRule, level: Level) -> str:
    unit = READINGS[rule.reading].unit
    value = f"{level.value:.3g}" if abs(level.value) < 1000 else f"{level.value:.0f}"
    what = f"{rule.reading} {value}{'' if unit == '1' else f' {unit}'}"
    if rule.growth_over_s:
        what = f"{rule.reading} grew by {value} within {rule.growth_over_s:.0f} s"
    elif rule.share is not None:
        what = f"{rule.reading} in {level.value:.0%} of the last {rule.over_s:.0f} s"
    return f"{what} ({level.detail})" if level.detail else what


def _event_text(rule: EventRule, blow: Blow) -> str:
    what = {"xid": f"XID {blow.code}", "sxid": f"SXid {blow.code}", "off_bus": "fallen off the bus"}[rule.kind]
    return what if blow.count == 1 else f"{what}, {blow.count} times"


def _named(jobs: frozenset[int]) -> str:
    shown = ", ".join(str(job) for job in sorted(jobs)[:MOST_NAMED])
    return shown if len(jobs) <= MOST_NAMED else f"{shown} and {len(jobs) - MOST_NAMED} more"
