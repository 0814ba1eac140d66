"""Fold and expand Slurm's host lists (`spot-[001-003,7]`), strictly and within bounds, with the standard library only.

ClusterShell was tried and left: its import takes 40 ms in a hook, it speaks a dialect of its own (`@groups`, wildcards, set operators,
steps; `[01-2]`, which Slurm takes, is an error) and it makes every name of a range before a bound could be checked. The tests
compare with `scontrol show hostnames` and `show hostlist` instead.
"""

import itertools
import re
from collections.abc import Iterable, Iterator

from holdfast_common.errors import InputError

MAX_NODES = 100_000
"""More names than this in one list are refused: no cluster that we know is a tenth as large."""
MAX_TEXT = 4_000_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_ELEMENT = re.compile(r"(?:[A-Za-z0-9._-]|\[\d{1,9}(?:-\d{1,9})?(?:,\d{1,9}(?:-\d{1,9})?)*\])+", re.ASCII)
_BRACKET = re.compile(r"\[([\d,-]+)\]", re.ASCII)
_LAST_NUMBER = re.compile(r"(.*?)(\d{1,9})(\D*)\Z", re.DOTALL | re.ASCII)


def check_name(name: str) -> str:
    """Return `name` if it can be the name of a node, else raise `InputError`."""
    if not _NAME.match(name):
        raise InputError(f"not a node name: {name[:80]!r}")
    return name


def expand(text: str) -> tuple[str, ...]:
    """Return the names in a host list, in its order, each once; `()` for an empty one or Slurm's `(null)`.

    Raises `InputError` where the text is no plain host list or holds more than `MAX_NODES` names.
    """
    text = text.strip()
    if not text or text == "(null)":
        return ()
    if len(text) > MAX_TEXT:
        raise InputError(f"a host list of {len(text)} characters is too long")
    count = 0
    names: dict[str, None] = {}
    for element in map(_parse, _elements(text)):
        count += _size(element)
        if count > MAX_NODES:
            raise InputError(f"a host list of more than {MAX_NODES} nodes: {text[:80]!r}")
        for parts in itertools.product(*map(_choices, element)):
            names.setdefault(check_name("".join(parts)))
    return tuple(names)


def fold(names: Iterable[str]) -> str:
    """Return a host list that names each of `names` once, such as `spot-[1-3]`. Raises `InputError` for a bad name."""
    unique = dict.fromkeys(check_name(name) for name in names)
    if len(unique) > MAX_NODES:
        raise InputError(f"more than {MAX_NODES} nodes")
    groups: dict[tuple[str, int], list[int]] = {}
    plain: list[str] = []
    for name in unique:
        match = _LAST_NUMBER.match(name)
        if match is None or match.group(3):  # scontrol 22.05 says "Invalid hostlist" to anything behind the last bracket
            plain.append(name)
            continue
        prefix, digits, _ = match.groups()
        # Numbers padded with 0 share a width; the others have none, as in Slurm's own folding.
        width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
        groups.setdefault((prefix, width), []).append(int(digits))
    return ",".join([*(_fold_group(key, numbers) for key, numbers in groups.items()), *plain])


# One part of an element: plain text, or the ranges of a bracket as (low, high, width).
_Part = str | tuple[tuple[int, int, int], ...]


def _elements(text: str) -> Iterator[str]:
    """Yield what stands between the commas outside brackets, in one pass."""
    at = 0
    while at <= len(text):
        element = _ELEMENT.match(text, at)
        if element is None or text[element.end() : element.end() + 1] not in {"", ","}:
            raise InputError(f"not a host list: {text[at : at + 80]!r}")
        yield element.group()
        at = element.end() + 1


def _parse(element: str) -> tuple[_Part, ...]:
    pieces = _BRACKET.split(element)
    return tuple(_ranges(piece) if index % 2 else piece for index, piece in enumerate(pieces))


def _ranges(text: str) -> tuple[tuple[int, int, int], ...]:
    ranges = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        first, last = int(low), int(high or low)
        if last < first:
            raise InputError(f"not a host list: the range {part!r} runs backwards")
        ranges.append((first, last, len(low)))
    return tuple(ranges)


def _size(element: tuple[_Part, ...]) -> int:
    total = 1
    for part in element:
        if not isinstance(part, str):
            total *= sum(last - first + 1 for first, last, _ in part)
    return total


def _choices(part: _Part) -> tuple[str, ...]:
    if isinstance(part, str):
        return (part,)
    return tuple(f"{number:0{width}d}" for first, last, width in part for number in range(first, last + 1))


def _fold_group(key: tuple[str, int], numbers: list[int]) -> str:
    prefix, width = key
    spans = [f"{low:0{width}d}" if low == high else f"{low:0{width}d}-{high:0{width}d}" for low, high in _spans(sorted(numbers))]
    if len(spans) == 1 and "-" not in spans[0]:
        return f"{prefix}{spans[0]}"
    return f"{prefix}[{','.join(spans)}]"


def _spans(numbers: list[int]) -> Iterator[tuple[int, int]]:
    start = previous = numbers[0]
    for number in numbers[1:]:
        if number != previous + 1:
            yield start, previous
            start = number
        previous = number
    yield start, previous
