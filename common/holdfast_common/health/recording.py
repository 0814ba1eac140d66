"""Recordings of a node: lines of JSON, or what `dmesg` and `journalctl -k` print. Pure.

JSON lines, in the order of their times (`at`: Unix seconds):

    {"at": 1e9, "kmsg": "NVRM: Xid (PCI:0000:3b:00): 79, …"}
    {"at": 1e9, "reading": "up", "gpu": "GPU-…", "value": 0}            also "state": "unsupported" or "failed", "detail"
    {"at": 1e9, "job": {"job_id": 7, "pids": [411], "gpus": ["GPU-…"]}}  what the job has from now on; nothing: it has ended
    {"at": 1e9, "gpus": {"GPU-…": "0000:3b:00.0"}}                       where GPUs are: the kernel names them by their PCI address
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from holdfast_common.health.catalogue import READINGS
from holdfast_common.health.model import Sample
from holdfast_common.settings import Section, did_you_mean

MAX_LINE = 65_536
INDENT = " " * 8
"""dmesg and journalctl print so, and further in, what a message has in its second line and those after it."""
_SINCE_BOOT = re.compile(r"(?:<\d{1,3}>)?\[ {0,12}(\d{1,10}\.\d{1,9})\] ?(.*)", re.DOTALL)
_RECORD = re.compile(r"\d{1,4},\d{1,19},(\d{1,16}),[^;]{0,40};(.*)", re.DOTALL)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d) (.*)", re.DOTALL)
_JOURNAL = re.compile(r"\S{1,255} kernel: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the kernel's log."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What a job has from now on; nothing: it has ended."""

    at: float
    job_id: int
    pids: frozenset[int]
    gpus: frozenset[str]


@dataclass(frozen=True, slots=True)
class Places:
    """Uuid → PCI address."""

    at: float
    pci: dict[str, str]


Entry = Said | Sample | Tenancy | Places


def _known(name: str) -> str:
    if name not in READINGS:
        raise ValueError(f"is no reading{did_you_mean(name, READINGS)}")
    return name


Time = Annotated[float, Field(ge=0, le=1e11)]
Word = Annotated[str, Field(max_length=200)]
GpuWord = Annotated[str, Field(max_length=96)]


class _Said(Section):
    at: Time
    kmsg: Annotated[str, Field(max_length=8192)]

    def entry(self) -> Entry:
        return Said(self.at, self.kmsg)


class _Reading(Section):
    at: Time
    reading: Annotated[str, AfterValidator(_known)]
    gpu: GpuWord = ""
    value: float | None = None
    state: Literal["ok", "unsupported", "failed"] = "ok"
    detail: Word = ""

    def entry(self) -> Entry:
        if (self.value is None) is (self.state == "ok"):
            raise ValueError("a reading has a value where its state is ok, and only there")
        return Sample(self.at, self.reading, self.value, self.gpu, self.state, self.detail)


class _Holding(Section):
    job_id: Annotated[int, Field(ge=1, le=2**32 - 1)]
    pids: Annotated[tuple[Annotated[int, Field(ge=1, le=2**32 - 1)], ...], Field(strict=False, max_length=1024)] = ()
    gpus: Annotated[tuple[GpuWord, ...], Field(strict=False, max_length=64)] = ()


class _Job(Section):
    at: Time
    job: _Holding

    def entry(self) -> Entry:
        return Tenancy(self.at, self.job.job_id, frozenset(self.job.pids), frozenset(self.job.gpus))


class _Gpus(Section):
    at: Time
    gpus: Annotated[dict[GpuWord, Word], Field(max_length=64)]

    def entry(self) -> Entry:
        return Places(self.at, self.gpus)


_MODELS: dict[str, type[_Said] | type[_Reading] | type[_Job] | type[_Gpus]] = {
    "kmsg": _Said,
    "reading": _Reading,
    "job": _Job,
    "gpus": _Gpus,
}
_OBJECT = TypeAdapter(dict[str, object])


def whole(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield each line with its number, a message of several lines as one."""
    held: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith(INDENT) and not _is_json(line):
            if held is not None and not _is_json(held[1]) and len(held[1]) + len(line) < MAX_LINE:
                held = (held[0], f"{held[1].rstrip()}\n{line.strip()}")
            continue
        if held is not None:
            yield held
        held = (number, line)
    if held is not None:
        yield held


def _is_json(line: str) -> bool:
    return line.lstrip().startswith("{")


def parse_entry(line: str) -> Entry | None:
    """Return what a line records, None for one that is empty or a heading of journalctl. Raises ValueError, which says what is wrong."""
    if len(line) > MAX_LINE:
        raise ValueError(f"is longer than {MAX_LINE} characters")
    line = line.rstrip("\r\n")
    if not line.strip() or line.startswith("-- "):
        return None
    return _of_json(line) if _is_json(line) else _of_log(line)


def _of_json(line: str) -> Entry:
    try:
        found = _OBJECT.validate_json(line)
    except ValidationError as error:
        raise ValueError(f"is no JSON object: {error.errors()[0]['msg']}"[:300]) from error
    keys = [key for key in _MODELS if key in found]
    if len(keys) != 1:
        raise ValueError(f"must have one of {', '.join(_MODELS)}")
    try:
        return _MODELS[keys[0]].model_validate(found).entry()
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:300]) from error


def _of_log(line: str) -> Entry:
    forms: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Said]], ...] = (
        (_SINCE_BOOT, lambda match: Said(float(match[1]), _without_host(match[2]))),
        (_RECORD, lambda match: Said(int(match[1]) / 1e6, match[2])),
        (_ISO, _of_iso),
    )
    for form, made in forms:
        match = form.fullmatch(line)
        if match is not None:
            return made(match)
    raise ValueError("has no time such as dmesg or journalctl -o short-iso write")


def _of_iso(match: re.Match[str]) -> Said:
    zone = "+00:00" if match[4] == "Z" else match[4]
    moment = datetime.fromisoformat(f"{match[1]}T{match[2]}.{(match[3] or '0')[:6].ljust(6, '0')}{zone}")
    return Said(max(0.0, moment.timestamp()), _without_host(match[5]))


def _without_host(text: str) -> str:
    said = _JOURNAL.fullmatch(text)
    return said[1] if said is not None else text
