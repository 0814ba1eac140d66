"""What the NVML process says to the agent: one JSON object per line, decoded strictly, since a driver's bug may garble anything.

`{"kind": "beat"}`, `{"kind": "unavailable", "reason": …}`, `{"kind": "inventory", "driver", "nvml", "gpus": [{…}]}`,
`{"kind": "samples", "tier", "took_s", "samples": [[name, uuid, value or null, state, detail], …]}`,
`{"kind": "event", "code", "gpu"}` (an XID) and `{"kind": "processes", "gpus": {uuid: {pid: bytes}}}`.
Unknown keys and kinds are ignored. It says no times: a line counts from when it is read, by the agent's clock.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from holdfast_common.health.catalogue import READINGS, TIER_S, Tier
from holdfast_common.health.model import GpuEvent, Sample

from holdfast_nodeagent.gpu.inventory import Gpu, Inventory

MAX_LINE_BYTES = 1024 * 1024
MAX_TEXT = 256
MAX_GPUS = 64
MAX_SAMPLES = MAX_GPUS * len(READINGS)
MAX_PROCESSES = 4096
"""Of one GPU."""
_STATES = ("ok", "unsupported", "failed")


class ProtocolError(ValueError):
    """A line that the NVML process should not have written."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The polling thread has finished a fast round."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """NVML cannot be loaded or begun; the process leaves."""

    reason: str


@dataclass(frozen=True, slots=True)
class Samples:
    """One round of a tier."""

    tier: Tier
    samples: tuple[Sample, ...]
    took_s: float


@dataclass(frozen=True, slots=True)
class GpuProcesses:
    """GPU's uuid → pid → bytes in use."""

    gpus: Mapping[str, Mapping[int, int]]


Message = Beat | Unavailable | Samples | GpuProcesses | Inventory | GpuEvent


def decode(line: bytes, at: float) -> Message | None:
    """Return what a line says that was read `at` (Unix seconds), None for a kind that is not known. Raises ProtocolError."""
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError("a line of more than 1 MiB")
    try:
        said = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(said, dict):
        raise ProtocolError("not an object")
    kind = said.get("kind")
    return _KINDS[kind](said, at) if isinstance(kind, str) and kind in _KINDS else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _text(said: Mapping[str, Any], key: str) -> str:
    return _as_text(said.get(key, ""), key)


def _as_text(value: object, key: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise ProtocolError(f"{key}: not a printable text of at most {MAX_TEXT} characters")
    return value


def _as_number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 2**64:
        raise ProtocolError(f"{key}: not a number")
    return float(value)


def _as_count(value: object, key: str, limit: int = 2**64) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise ProtocolError(f"{key}: not a whole number from 0 to {limit}")
    return value


def _list(said: Mapping[str, Any], key: str, limit: int) -> list[Any]:
    value = said.get(key)
    if not isinstance(value, list) or len(value) > limit:
        raise ProtocolError(f"{key}: not a list of at most {limit}")
    return value


def _dict(value: object, key: str, limit: int) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > limit:
        raise ProtocolError(f"{key}: not an object of at most {limit} entries")
    return value


def _unavailable(said: Mapping[str, Any], at: float) -> Unavailable:
    return Unavailable(_text(said, "reason"))


def _inventory(said: Mapping[str, Any], at: float) -> Inventory:
    gpus = [_gpu(_dict(gpu, "gpus", 64)) for gpu in _list(said, "gpus", MAX_GPUS)]
    return Inventory(_text(said, "driver"), _text(said, "nvml"), tuple(gpus))


def _gpu(said: Mapping[str, Any]) -> Gpu:
    mig = said.get("mig", False)
    if not isinstance(mig, bool):
        raise ProtocolError("mig: not true or false")
    return Gpu(
        index=_as_count(said.get("index"), "index", MAX_GPUS),
        uuid=_text(said, "uuid"),
        pci=_text(said, "pci"),
        model=_text(said, "model"),
        serial=_text(said, "serial"),
        vbios=_text(said, "vbios"),
        memory_bytes=_as_count(said.get("memory_bytes", 0), "memory_bytes"),
        mig=mig,
    )


def _samples(said: Mapping[str, Any], at: float) -> Samples:
    tier = next((tier for tier in TIER_S if tier == said.get("tier")), None)
    if tier is None:
        raise ProtocolError("tier: not a tier")
    samples = tuple(_sample(at, entry) for entry in _list(said, "samples", MAX_SAMPLES))
    return Samples(tier, samples, _as_number(said.get("took_s"), "took_s"))


def _sample(at: float, entry: object) -> Sample:
    if not isinstance(entry, list) or len(entry) != 5:
        raise ProtocolError("samples: not five entries")
    name, gpu, value, state, detail = entry
    if not isinstance(name, str) or name not in READINGS:
        raise ProtocolError("samples: not a reading")
    if state not in _STATES or (value is None) is (state == "ok"):
        raise ProtocolError(f"{name}: a value if and only if the state is ok")
    number = None if value is None else _as_number(value, name)
    return Sample(at, name, number, _as_text(gpu, "gpu"), state, _as_text(detail, "detail"))


def _event(said: Mapping[str, Any], at: float) -> GpuEvent:
    code = _as_count(said.get("code"), "code", 2**32)
    return GpuEvent(at, "xid", code, _text(said, "gpu"), source="nvml")


def _processes(said: Mapping[str, Any], at: float) -> GpuProcesses:
    gpus = _dict(said.get("gpus"), "gpus", MAX_GPUS)
    return GpuProcesses({_as_text(uuid, "gpus"): _pids(_dict(pids, "gpus", MAX_PROCESSES)) for uuid, pids in gpus.items()})


def _pids(said: Mapping[str, Any]) -> dict[int, int]:
    if not all(pid.isascii() and pid.isdecimal() and len(pid) <= 10 for pid in said):
        raise ProtocolError("gpus: not a pid")
    return {int(pid): _as_count(size, "bytes") for pid, size in said.items()}


_KINDS: dict[str, Callable[[Mapping[str, Any], float], Message]] = {
    "beat": lambda said, at: Beat(),
    "unavailable": _unavailable,
    "inventory": _inventory,
    "samples": _samples,
    "event": _event,
    "processes": _processes,
}
