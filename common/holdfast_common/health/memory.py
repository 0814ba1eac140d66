"""What a judge keeps over an agent's restart, as JSON: checked as strictly as anything else that is read."""

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from holdfast_common.health.blows import MOST_EVENTS, MOST_STRIKES, Blow, Strikes
from holdfast_common.health.levels import Level
from holdfast_common.health.rules import MOST_SAMPLES
from holdfast_common.settings import Section

Word = Annotated[str, Field(max_length=200)]
Time = Annotated[float, Field(ge=0, le=1e11)]
Times = Annotated[tuple[Time, ...], Field(strict=False, max_length=MOST_STRIKES)]


class _Pair(Section):
    at: Time
    value: float


class _Level(Section):
    rule: Word
    gpu: Word
    since: Time | None = None
    read_at: Time = 0.0
    value: float = 0.0
    detail: Word = ""
    began: Time | None = None
    quiet_since: Time | None = None
    history: Annotated[tuple[_Pair, ...], Field(strict=False, max_length=MOST_SAMPLES)] = ()


class _Blow(Section):
    rule: Word
    gpu: Word
    first_at: Time
    last_at: Time
    count: Annotated[int, Field(ge=1)]
    code: Annotated[int, Field(ge=0)]
    text: Annotated[str, Field(max_length=500)] = ""
    jobs: Annotated[tuple[_Pair, ...], Field(strict=False, max_length=MOST_EVENTS)] = ()


class _Strikes(Section):
    rule: Word
    gpu: Word
    times: Times = ()


class _Saved(Section):
    version: Annotated[int, Field(ge=1, le=1)]
    levels: Annotated[tuple[_Level, ...], Field(strict=False, max_length=4096)] = ()
    blows: Annotated[tuple[_Blow, ...], Field(strict=False, max_length=4096)] = ()
    strikes: Annotated[tuple[_Strikes, ...], Field(strict=False, max_length=8192)] = ()


Place = tuple[str, str]


def dumped(levels: Mapping[Place, Level], blows: Mapping[Place, Blow], strikes: Mapping[Place, Strikes]) -> dict[str, Any]:
    """Return all of it; levels that have nothing to tell are left out, since the next reading makes them anew."""
    saved = _Saved(
        version=1,
        levels=tuple(
            _Level(
                rule=rule,
                gpu=gpu,
                since=level.since,
                read_at=level.read_at,
                value=level.value,
                detail=level.detail[:200],
                began=level.began,
                quiet_since=level.quiet_since,
                history=tuple(_Pair(at=at, value=value) for at, value in level.history),
            )
            for (rule, gpu), level in levels.items()
            if level.since is not None or level.began is not None
        ),
        blows=tuple(
            _Blow(
                rule=rule,
                gpu=gpu,
                first_at=blow.first_at,
                last_at=blow.last_at,
                count=blow.count,
                code=blow.code,
                text=blow.text[:500],
                jobs=tuple(_Pair(at=at, value=float(job)) for at, job in blow.jobs),
            )
            for (rule, gpu), blow in blows.items()
        ),
        strikes=tuple(_Strikes(rule=rule, gpu=gpu, times=tuple(each.times)) for (rule, gpu), each in strikes.items()),
    )
    return saved.model_dump(mode="json")


def loaded(saved: Mapping[str, Any]) -> tuple[dict[Place, Level], dict[Place, Blow], dict[Place, Strikes]] | None:
    """Return what was kept, None where it is nothing that `dumped` makes."""
    try:
        found = _Saved.model_validate(saved)
    except ValidationError:
        return None
    levels = {
        (each.rule, each.gpu): Level(
            each.since,
            each.read_at,
            each.value,
            each.detail,
            each.began,
            each.quiet_since,
            deque(((pair.at, pair.value) for pair in each.history), maxlen=MOST_SAMPLES),
        )
        for each in found.levels
    }
    blows = {
        (each.rule, each.gpu): Blow(
            each.first_at,
            each.last_at,
            each.count,
            each.code,
            each.text,
            deque(((pair.at, int(pair.value)) for pair in each.jobs), maxlen=MOST_EVENTS),
        )
        for each in found.blows
    }
    strikes = {(each.rule, each.gpu): Strikes(deque(each.times, maxlen=MOST_STRIKES)) for each in found.strikes}
    return levels, blows, strikes
