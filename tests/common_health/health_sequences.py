"""For each rule what fires it, and what just does not: made from the rule's own definition."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast_common.health.judge import Judge
from holdfast_common.health.model import Finding, GpuEvent, Sample
from holdfast_common.health.rules import EventRule, ReadingRule, Rule, Rules

T0 = 1_000_000.0
GPU = "GPU-0"
STEP_S = 5.0
CANDIDATES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1e3, 1e12, -1.0)


@dataclass(frozen=True)
class Case:
    """What a judge is told, and when it is looked at."""

    told: tuple[Sample | GpuEvent, ...]
    now: float

    def findings(self, *rules: Rule) -> tuple[Finding, ...]:
        table = Rules(
            version=1,
            reading=tuple(rule for rule in rules if isinstance(rule, ReadingRule)),
            event=tuple(rule for rule in rules if isinstance(rule, EventRule)),
        )
        return told(Judge(table), *self.told).findings(self.now)


def told(judge: Judge, *entries: Sample | GpuEvent) -> Judge:
    for entry in entries:
        judge.take(entry) if isinstance(entry, Sample) else judge.hear(entry)
    return judge


def limits(rule: ReadingRule) -> tuple[float, float]:
    """The value nearest to the limit that holds, and the one that does not."""
    operator, _, figure = rule.when.partition(" ")
    if operator == "in":
        codes = [float(word) for word in figure.split()]
        return codes[-1], next(value for value in CANDIDATES if value not in codes)
    limit = float(figure)
    near = 1e-6 if abs(limit) < 1 else 1.0
    holds = {">=": limit, "<=": limit, "==": limit, ">": limit + near, "<": limit - near, "!=": limit + near}[operator]
    fails = {">=": limit - near, "<=": limit + near, "==": limit + near, ">": limit, "<": limit, "!=": limit}[operator]
    return holds, fails


def series(rule: ReadingRule, values: list[tuple[float, float]]) -> Case:
    return Case(tuple(Sample(T0 + after_s, rule.reading, value, GPU) for after_s, value in values), T0 + values[-1][0])


def steady(rule: ReadingRule, value: float, span_s: float) -> Case:
    whole = [(step * STEP_S, value) for step in range(int(span_s // STEP_S) + 1)]
    return series(rule, whole if whole[-1][0] == span_s else [*whole, (span_s, value)])


def shared(rule: ReadingRule, held: int, of: int) -> Case:
    """So many of the readings hold, spread over a window that is full."""
    assert rule.share is not None
    yes, no = limits(rule)
    step_s = rule.over_s / (of - 1)
    marks = [(place * held) // of != ((place + 1) * held) // of for place in range(of)]
    return series(rule, [(place * step_s, yes if mark else no) for place, mark in enumerate(marks)])


def fires(rule: Rule) -> Iterator[tuple[str, Case]]:
    """Cases in which the rule holds at the end."""
    if isinstance(rule, EventRule):
        yield from ((f"code {event.code}", Case(tuple(hits), T0 + 1)) for event in events(rule) for hits in [blows(rule, event)])
        return
    holds, fails = limits(rule)
    if rule.growth_over_s:
        yield "grows within the time", series(rule, [(0, 100.0), (rule.growth_over_s, 100.0 + holds)])
    elif rule.share is not None:
        yield "in the share of the readings", shared(rule, int(rule.share * 100), 100)
    else:
        yield "for its time", steady(rule, holds, rule.for_s)
        yield (
            "begins after the other value",
            Case(
                tuple(Sample(each.at, each.name, each.value, GPU) for each in (Sample(T0 - 5, rule.reading, fails), *samples(rule, holds))),
                T0 + rule.for_s,
            ),
        )


def samples(rule: ReadingRule, value: float) -> tuple[Sample, ...]:
    return tuple(each for each in steady(rule, value, rule.for_s).told if isinstance(each, Sample))


def spares(rule: Rule) -> Iterator[tuple[str, Case]]:
    """Cases that just do not fire it."""
    if isinstance(rule, EventRule):
        yield from event_spares(rule)
        return
    holds, fails = limits(rule)
    if rule.growth_over_s:
        yield "grows a little less", series(rule, [(0, 100.0), (rule.growth_over_s, 100.0 + fails)])
        yield (
            "grew before",
            series(
                rule, [(0, 100.0), (60, 100.0 + holds), *((60 + 2 * rule.growth_over_s + n * rule.clear_s, 100.0 + holds) for n in (0, 1))]
            ),
        )
        yield "restarts", series(rule, [(0, 100.0 + 2 * holds), (rule.growth_over_s, fails)])
    elif rule.share is not None:
        yield "in a little less", shared(rule, int(rule.share * 100) - 1, 100)
        yield "always, for a part of the time", steady(rule, holds, rule.over_s / 2)
    else:
        yield "on the other side of the limit", steady(rule, fails, rule.for_s)
        if rule.for_s:
            yield "for a little less", steady(rule, holds, rule.for_s - 1)
            yield "with a break", series(rule, [(0, holds), (rule.for_s - 1, fails), (rule.for_s, holds)])
    yield (
        "is not read",
        Case((Sample(T0, rule.reading, None, GPU, "failed"), Sample(T0 + 9, rule.reading, None, GPU, "unsupported")), T0 + 9),
    )


def event_spares(rule: EventRule) -> Iterator[tuple[str, Case]]:
    event = next(events(rule))
    other_kind = "sxid" if rule.kind == "xid" else "xid"
    yield "of another kind", Case((GpuEvent(T0, other_kind, event.code or 1, GPU, fatal=event.fatal),), T0)
    if rule.codes:
        for code in {rule.codes[0] - 1, rule.codes[-1] + 1} - set(rule.codes):
            yield f"code {code}", Case((GpuEvent(T0, rule.kind, code, GPU, fatal=event.fatal),), T0)
    if rule.fatal is not None:
        yield "the other severity", Case((GpuEvent(T0, rule.kind, event.code, GPU, fatal=not rule.fatal),), T0)
    if rule.stands_s:
        yield "long ago", Case((event,), T0 + rule.stands_s + 1)


def events(rule: EventRule) -> Iterator[GpuEvent]:
    for code in rule.codes or ((0,) if rule.kind == "off_bus" else (999_999,)):
        yield GpuEvent(T0, rule.kind, code, GPU, fatal=bool(rule.fatal))


def blows(rule: EventRule, event: GpuEvent) -> Iterator[GpuEvent]:
    """The event, as often and under as many jobs as the rule's own action asks for."""
    for job_id in range(1, rule.jobs + 1) if rule.blame == "either" else (0,):
        yield GpuEvent(event.at, event.kind, event.code, event.gpu, fatal=event.fatal, job_id=job_id)


def striking(rule: Rule, count: int, apart_s: float) -> Case:
    """The rule fires so often."""
    told_: list[Sample | GpuEvent] = []
    for n in range(count):
        at = T0 + n * apart_s
        if isinstance(rule, EventRule):
            told_ += [GpuEvent(at, each.kind, each.code, GPU, fatal=each.fatal) for each in itertools.islice(events(rule), 1)]
        else:
            holds, fails = limits(rule)
            told_ += [Sample(at + after_s, rule.reading, fails, GPU) for after_s in (0, rule.clear_s + 1)]
            told_ += [Sample(at + rule.clear_s + 2 + after_s, rule.reading, holds, GPU) for after_s in (0, rule.for_s)]
    return Case(tuple(told_), told_[-1].at)
