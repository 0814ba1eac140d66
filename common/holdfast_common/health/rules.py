"""The rules by which readings and the driver's own words are judged: a table in TOML that an admin can read and change."""

import hashlib
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from holdfast_common.errors import ConfigError
from holdfast_common.health.catalogue import READINGS, TIER_S
from holdfast_common.health.model import Action
from holdfast_common.settings import Section, did_you_mean, parse_toml, validated, worded

MOST_SAMPLES = 2000
"""So many readings are remembered for a share or a growth."""

RuleName = Annotated[str, worded(r"[a-z][a-z0-9-]{0,47}", "write 1 to 48 of a-z, 0-9 and -, a letter first")]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Span = Annotated[float, Field(ge=0, le=2_592_000)]
"""Seconds, up to 30 days."""
Verdict = Annotated[Action, Field(strict=False)]
Codes = Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(strict=False, max_length=200)]

_CONDITION = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(-?\d{1,15}(?:\.\d{1,9})?)\s*|\s*in((?:\s+\d{1,9}){1,20})\s*")
_COMPARES: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


def _condition(text: str) -> str:
    if not _CONDITION.fullmatch(text):
        raise ValueError("is no condition such as '>= 1', '< 0.05', '== 3' or 'in 1 2 4'")
    return text


def _reading(name: str) -> str:
    if name not in READINGS:
        raise ValueError(f"is no reading{did_you_mean(name, READINGS)}")
    return name


class Strikes(Section):
    """What follows when a rule has fired so often for one GPU."""

    count: Annotated[int, Field(ge=2, le=1000)]
    within_s: Annotated[float, Field(gt=0, le=2_592_000)]
    action: Verdict
    """The graver action that then holds."""


class Rule(Section):
    """What all rules have."""

    name: RuleName
    action: Verdict
    advice: Text
    """Whose advice it is, and who differs."""
    next: Text
    """The next step for an admin."""
    dry_run: bool = False
    """It is only said what would be done."""
    strikes: Strikes | None = None


class ReadingRule(Rule):
    """Judges a reading of the catalogue."""

    reading: Annotated[str, AfterValidator(_reading)]
    when: Annotated[str, AfterValidator(_condition)]
    """`>= 1`, `< 0.05`, `in 1 2 4`: on the value, on its growth where `growth_over_s` is given."""
    for_s: Span = 0.0
    """It must hold so long without a reading that says otherwise."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """It must hold in this share of the readings of the last `over_s`."""
    over_s: Span = 0.0
    growth_over_s: Span = 0.0
    """The condition is on how much the counter grew in this time. A counter that restarts has not grown."""
    clear_s: Span = 30.0
    """It is over when no reading has said so for this long."""

    def holds(self, value: float) -> bool:
        """Whether the condition holds for a value (or a growth)."""
        return self._test(value)

    @cached_property
    def _test(self) -> Callable[[float], bool]:
        match = _CONDITION.fullmatch(self.when)
        assert match is not None
        if match[3] is not None:
            values = frozenset(float(word) for word in match[3].split())
            return lambda value: value in values
        compare, limit = _COMPARES[match[1]], float(match[2])
        return lambda value: compare(value, limit)


class EventRule(Rule):
    """Judges what the driver says by itself."""

    kind: Literal["xid", "sxid", "off_bus"]
    codes: Codes = ()
    """XIDs or SXids; none: every one that no other rule of this kind names (with the same `fatal`)."""
    fatal: bool | None = None
    """Only events that call themselves fatal, or only those that do not."""
    stands_s: Span = 0.0
    """How long after the last event the finding stands; 0: until it is resolved, or the machine is gone."""
    blame: Literal["gpu", "job", "either"] = "gpu"
    """`job`: the program's own fault, as a rule. `either`: one GPU under several jobs is the GPU's fault, and `action` follows; several
    GPUs under one job are the job's, and it is noted."""
    jobs: Annotated[int, Field(ge=2, le=100)] = 2
    """`either`: so many jobs on one GPU …"""
    within_s: Annotated[float, Field(gt=0, le=2_592_000)] = 86_400.0
    """… within this time."""


class Rules(Section):
    """The whole table."""

    version: Literal[1]
    reading: Annotated[tuple[ReadingRule, ...], Field(strict=False, max_length=300)] = ()
    event: Annotated[tuple[EventRule, ...], Field(strict=False, max_length=300)] = ()

    @cached_property
    def revision(self) -> str:
        """12 hexadecimal digits of what the rules mean: comments and spaces do not change it."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def all(self) -> tuple[Rule, ...]:
        """Every rule."""
        return (*self.reading, *self.event)

    @cached_property
    def by_reading(self) -> dict[str, tuple[ReadingRule, ...]]:
        """Reading → the rules that judge it."""
        names = dict.fromkeys(rule.reading for rule in self.reading)
        return {name: tuple(rule for rule in self.reading if rule.reading == name) for name in names}

    @cached_property
    def _named(self) -> frozenset[tuple[str, int]]:
        return frozenset((rule.kind, code) for rule in self.event for code in rule.codes)

    def for_event(self, kind: str, code: int, fatal: bool) -> EventRule | None:
        """Return the rule for an event: the first that names its code, else the first without codes."""
        fits = [rule for rule in self.event if rule.kind == kind and rule.fatal in (None, fatal)]
        named = next((rule for rule in fits if code in rule.codes), None)
        if named is not None or (kind, code) in self._named:
            return named
        return next((rule for rule in fits if not rule.codes), None)


def parse_rules(text: str, where: str = "health rules") -> Rules:
    """Return the rules. Raises ConfigError with every fault at once, each with its TOML path."""
    return validated(Rules, parse_toml(text, where), where, _cross_faults)


@cache
def default_toml() -> str:
    """Return the table that Holdfast brings."""
    return (resources.files("holdfast_common.health") / "rules.toml").read_text(encoding="utf-8")


@cache
def default_rules() -> Rules:
    """Return the rules that hold where an admin has set none."""
    return parse_rules(default_toml(), "rules.toml")


def _cross_faults(data: Mapping[str, Any]) -> Iterator[str]:
    tables = [(f"{key}[{place}]", raw) for key in ("reading", "event") for place, raw in enumerate(_tables(data, key))]
    counts = Counter(raw.get("name") for _, raw in tables if isinstance(raw.get("name"), str))
    yield from (f"{where}.name: {raw['name']!r} is the name of another rule too" for where, raw in tables if counts[raw.get("name")] > 1)
    for where, raw in tables:
        yield from _window_faults(where, raw)
        yield from _strike_faults(where, raw)
    yield from _code_faults(data)


def _tables(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = data.get(key)
    return [raw for raw in found if isinstance(raw, dict)] if isinstance(found, list) else []


def _window_faults(where: str, raw: Mapping[str, Any]) -> Iterator[str]:
    if ("share" in raw) != bool(raw.get("over_s")):
        yield f"{where}: share and over_s belong together: in which share of the readings, and of how long"
    if sum(bool(raw.get(key)) for key in ("for_s", "share", "growth_over_s")) > 1:
        yield f"{where}: only one of for_s, share and growth_over_s can be given"
    reading = READINGS.get(str(raw.get("reading")))
    most_s = MOST_SAMPLES * TIER_S[reading.tier] if reading is not None else float("inf")
    for key in ("over_s", "growth_over_s"):
        if isinstance(raw.get(key), int | float) and raw[key] > most_s:
            every_s = most_s / MOST_SAMPLES
            yield f"{where}.{key}: at most {most_s:.0f} s of {raw['reading']} (read every {every_s:.0f} s) are remembered"


def _strike_faults(where: str, raw: Mapping[str, Any]) -> Iterator[str]:
    strikes = raw.get("strikes")
    if isinstance(strikes, dict) and raw.get("blame", "gpu") != "gpu":
        yield f"{where}.strikes: go with blame = 'gpu' only: one faulty program would have a GPU drained; blame = 'either' counts jobs"
    try:
        graver = isinstance(strikes, dict) and Action(strikes["action"]).rank <= Action(raw["action"]).rank
    except (KeyError, ValueError, TypeError):
        return
    if graver:
        yield f"{where}.strikes.action: must be graver than the rule's own action, {raw['action']}"


def _code_faults(data: Mapping[str, Any]) -> Iterator[str]:
    seen: dict[tuple[str, int, bool], str] = {}
    for place, raw in enumerate(_tables(data, "event")):
        kind, codes, fatal = raw.get("kind"), raw.get("codes", []), raw.get("fatal")
        if not isinstance(kind, str) or not isinstance(codes, list):
            continue
        sorts = (True, False) if fatal is None else (fatal is True,)
        for code in codes or [0]:
            keys = [(kind, code, sort) for sort in sorts] if isinstance(code, int) else []
            other = next((seen[key] for key in keys if key in seen), None)
            if other is not None:
                what = f"{kind} {code}" if code else f"every other {kind}"
                yield f"event[{place}].codes: {what} is named by {other} already"
            seen |= dict.fromkeys(keys, f"event[{place}]")


__all__ = ["ConfigError", "EventRule", "ReadingRule", "Rule", "Rules", "Strikes", "default_rules", "default_toml", "parse_rules"]
