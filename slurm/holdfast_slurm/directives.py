"""What a job asks of Holdfast: `sbatch --comment "holdfast: deadline=36h budget=200 tail=5%"`.

A comment that does not begin with `holdfast:` is the user's own and says nothing to us. The text is untrusted: bounded, parsed
strictly, every fault reported at once in a sentence that the user can act on.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final, TypeVar

from holdfast_common.errors import ConfigError

PREFIX: Final = "holdfast:"
MAX_CHARACTERS: Final = 1024
"""Slurm's own limit on a comment."""
MAX_FAULTS: Final = 10
"""So many are told; whoever made more reads the documentation."""
MAX_DURATION_S: Final = 3650 * 86_400

_T = TypeVar("_T")
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?\Z", re.ASCII)
_AMOUNT = re.compile(r"\$?(\d{1,9}(?:\.\d{1,2})?)\Z", re.ASCII)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%\Z", re.ASCII)
_SIGNAL = re.compile(r"(B:)?(?:SIG)?(HUP|INT|QUIT|USR1|USR2|TERM|CONT|URG|WINCH)(?:@(\d{1,5}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Directives:
    """What the job said. None is what it did not say: the partition's policy holds."""

    deadline_s: int | None = None
    """Seconds after submission by which the job must have ended. At most one of this and `deadline_at`."""
    deadline_at: float | None = None
    """The same as Unix seconds."""
    budget_usd: float | None = None
    tail_fraction: float | None = None
    """Last part of the work, 0 to 1, that shall run on on-demand capacity."""
    ondemand: str | None = None
    """`never`, `when_refused` or `when_late`."""
    signal: str | None = None
    """Signal to send on a notice, such as `USR1`."""
    signal_batch: bool = False
    """To the batch shell only (`B:`), as in `sbatch --signal`."""
    signal_before_s: int | None = None
    """Seconds before the deadline at which to send it; None: at once."""
    exit_code: int | None = None
    """A job that ends by itself after our signal with this code wants to be requeued."""
    grace_s: int | None = None
    """Longest time that the job may need to save."""
    checkpoint: str | None = None
    """`off` or `auto`."""
    requeues: int | None = None
    """Most requeues that the job accepts."""


def parse_directives(comment: str) -> Directives:
    """Return the directives in a job's comment. Raises `ConfigError` with one sentence for each fault."""
    if not comment.startswith(PREFIX):
        return Directives()
    if len(comment) > MAX_CHARACTERS:
        raise ConfigError("comment", [f"is {len(comment)} characters long; at most {MAX_CHARACTERS} are allowed"])
    found: dict[str, object] = {}
    seen: set[str] = set()
    faults: list[str] = []
    for word in comment.removeprefix(PREFIX).split():
        key, equals, value = word.partition("=")
        try:
            if not equals:
                raise ValueError(f"{word[:80]!r} is not of the form key=value")
            if key not in _READERS:
                raise ValueError(_unknown(key))
            if key in seen:
                raise ValueError(f"{key} is given twice")
            seen.add(key)
            found.update(_READERS[key](key, value))
        except ValueError as fault:
            faults.append(str(fault))
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"and {len(faults) - MAX_FAULTS} more"]
    if faults:
        raise ConfigError("comment", faults)
    return Directives(**found)  # type: ignore[arg-type]


def format_directives(directives: Directives) -> str:
    """Return the comment that `parse_directives` reads as `directives`; an empty string if they say nothing."""
    words = []
    for field in fields(directives):
        value = getattr(directives, field.name)
        if value is not None and field.name in _WRITERS:
            words.append(_WRITERS[field.name](value))
    if directives.signal is not None:
        before = "" if directives.signal_before_s is None else f"@{directives.signal_before_s}"
        words.append(f"signal={'B:' if directives.signal_batch else ''}{directives.signal}{before}")
    return f"{PREFIX} {' '.join(words)}" if words else ""


def parse_duration(value: str) -> int:
    """Return the seconds in `36h`, `90m`, `2d12h` or `45s`. Raises `ValueError`."""
    match = _DURATION.match(value)
    if not value or match is None:
        raise ValueError("not a duration")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total = days * 86_400 + hours * 3600 + minutes * 60 + seconds
    if not 0 < total <= MAX_DURATION_S:
        raise ValueError("out of range")
    return total


def format_duration(duration_s: int) -> str:
    """Return `duration_s` as `parse_duration` reads it, largest units first."""
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, duration_s = divmod(duration_s, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, _READERS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{key[:40]!r} is not a key{hint}; known are {', '.join(sorted(_READERS))}"


def _fault(key: str, value: str, allowed: str) -> ValueError:
    shown = "".join(char if char.isprintable() else "?" for char in value[:80])
    return ValueError(f"{key}={shown} is not allowed: {key} must be {allowed}")


def _checked(reader: Callable[[str], _T], allowed: str, field: str) -> Callable[[str, str], dict[str, object]]:
    def read(key: str, value: str) -> dict[str, object]:
        try:
            return {field: reader(value)}
        except ValueError:
            raise _fault(key, value, allowed) from None

    return read


def _choice(field: str, *allowed: str) -> Callable[[str, str], dict[str, object]]:
    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError
        return value

    return _checked(read, " or ".join([", ".join(allowed[:-1]), allowed[-1]]), field)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"\d{1,6}", value, re.ASCII) or not low <= int(value) <= high:
            raise ValueError
        return int(value)

    return read


def _deadline(key: str, value: str) -> dict[str, object]:
    try:
        return {"deadline_s": parse_duration(value)}
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return {"deadline_at": moment.timestamp()}
    except (ValueError, OverflowError):
        allowed = "a duration such as 36h, 90m or 2d12h, or a time with its zone such as 2027-01-31T18:00+01:00"
        raise _fault(key, value, allowed) from None


def _budget(value: str) -> float:
    match = _AMOUNT.match(value)
    if match is None or float(match.group(1)) <= 0:
        raise ValueError
    return float(match.group(1))


def _tail(value: str) -> float:
    match = _PERCENT.match(value)
    if match is None or float(match.group(1)) > 100:
        raise ValueError
    return float(match.group(1)) / 100


def _signal(key: str, value: str) -> dict[str, object]:
    match = _SIGNAL.match(value)
    if match is None:
        raise _fault(key, value, "[B:]NAME[@SECONDS], such as USR1 or B:USR1@60; no signal that cannot be caught")
    batch, name, before = match.groups()
    return {
        "signal": name,
        "signal_batch": batch is not None,
        "signal_before_s": None if before is None else int(before),
    }


_READERS: Final[dict[str, Callable[[str, str], dict[str, object]]]] = {
    "deadline": _deadline,
    "budget": _checked(_budget, "an amount in US dollars above 0, such as 200 or 49.50", "budget_usd"),
    "tail": _checked(_tail, "a percentage from 0% to 100%", "tail_fraction"),
    "ondemand": _choice("ondemand", "never", "when_refused", "when_late"),
    "signal": _signal,
    "exit_code": _checked(_whole(0, 255), "a whole number from 0 to 255", "exit_code"),
    "grace": _checked(parse_duration, "a duration such as 90s or 10m", "grace_s"),
    "checkpoint": _choice("checkpoint", "off", "auto"),
    "requeues": _checked(_whole(0, 100_000), "a whole number from 0 to 100000", "requeues"),
}


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.3f}".rstrip("0").rstrip(".")


def _amount(value: float) -> str:
    return str(math.floor(value)) if value == math.floor(value) else f"{value:.2f}"


_WRITERS: Final[dict[str, Callable[..., str]]] = {
    "deadline_s": lambda value: f"deadline={format_duration(value)}",
    "deadline_at": lambda value: f"deadline={datetime.fromtimestamp(value, UTC).isoformat()}",
    "budget_usd": lambda value: f"budget={_amount(value)}",
    "tail_fraction": lambda value: f"tail={_percent(value)}%",
    "ondemand": lambda value: f"ondemand={value}",
    "exit_code": lambda value: f"exit_code={value}",
    "grace_s": lambda value: f"grace={format_duration(value)}",
    "checkpoint": lambda value: f"checkpoint={value}",
    "requeues": lambda value: f"requeues={value}",
}
