"""The GPUs of one machine as a file describes them: this writes the file, and the fake libnvidia-ml.so.1 reads it after each change."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from holdfast_sandbox.nvml.profiles import PROFILES, Profile

XID_EVENT = 0x8
"""nvmlEventTypeXidCriticalError."""
GPU_IS_LOST = 15
RESET_REQUIRED = 16
DRIVER_NOT_LOADED = 9
EVENTS_KEPT = 64

_FAULTS = "# faults"
_EVENT = "event."
_NEWEST = "event_newest"
_MIG_DEVICES = 2

Lines = dict[str, str]


class FakeGpus:
    """The GPUs. Every change is one atomic replacement of the file, whoever else changes it at the same time.

    Values for `set`, besides the profiles' keys: `!3` instead of a number makes what reads it give that error; `fail.FUNCTION` makes a
    function give an error; `delay_ms` and `delay_ms.FUNCTION` make calls slow; `max_version.FUNCTION` is the newest version of its struct
    that the driver knows; `field.NUMBER` answers for any field, and fields from `fields_known` on are unknown; `init_error` is nvmlInit's;
    `nvlink_down` lists links (`3,5`), and `nvlink_crc.5` is one link's count (`nvlink_crc` the first's); `processes` lists
    `PID:BYTES` or `PID:BYTES:GPU_INSTANCE:COMPUTE_INSTANCE`; `error` is the answer to everything about a GPU.
    """

    def __init__(self, state_file: Path) -> None:
        self.state_file = state_file

    def install(self, profile: Profile | str, machine: str = "") -> None:
        """Make it a healthy machine of that profile. `machine`: two machines of different names have GPUs of different uuids."""
        chosen = PROFILES[profile] if isinstance(profile, str) else profile
        healthy = {"profile": chosen.name, "count": str(chosen.count), **{key: str(value) for key, value in chosen.values.items()}}
        for gpu in range(chosen.count):
            healthy |= _identity(chosen, machine, gpu)
        with self._changing() as (old, faults):
            old.clear()
            old.update(healthy)
            _clear(faults)

    def set(self, key: str, value: int | float | str | None, gpu: int | None = None) -> None:
        """Set a value, of one GPU or of all that have none of their own; None: the reading is not supported."""
        with self._changing() as (_, faults):
            faults[_key(key, gpu)] = "unsupported" if value is None else str(value)

    def unset(self, key: str, gpu: int | None = None) -> None:
        """Take back what `set` did; the profile's value holds again."""
        with self._changing() as (_, faults):
            faults.pop(_key(key, gpu), None)

    def clear(self) -> None:
        """Take back everything since `install`: healthy again. Events that were not yet fetched are gone."""
        with self._changing() as (_, faults):
            _clear(faults)

    def xid(self, gpu: int, number: int) -> None:
        """Give an XID as an NVML event, once, to every event set for which the GPU is registered now."""
        self.event(gpu, XID_EVENT, number)

    def event(self, gpu: int, kind: int, data: int = 0) -> None:
        """Give an event of any type (nvmlEventType…)."""
        with self._changing() as (_, faults):
            number = int(faults.get(_NEWEST, "0")) + 1
            faults[_NEWEST] = str(number)
            faults[f"{_EVENT}{number}"] = f"{gpu} {kind:#x} {data}"
            faults.pop(f"{_EVENT}{number - EVENTS_KEPT}", None)

    def lose(self, gpu: int, *, listed: bool = True) -> None:
        """Lose a GPU: every call about it says NVML_ERROR_GPU_IS_LOST. Not `listed`: NVML's count drops, too, and later indexes move up."""
        self.set("error", GPU_IS_LOST, gpu)
        if not listed:
            self.set("gone", 1, gpu)

    def need_reset(self, gpu: int) -> None:
        """Let readings say NVML_ERROR_RESET_REQUIRED, and the driver ask for a reset; what the GPU is, it still tells."""
        self.set("error", RESET_REQUIRED, gpu)
        self.set("recovery_action", 1, gpu)

    def unload_driver(self) -> None:
        """Let nvmlInit say NVML_ERROR_DRIVER_NOT_LOADED (a process that has begun goes on)."""
        self.set("init_error", DRIVER_NOT_LOADED)

    def hang(self, on: bool, *, gpu: int | None = None, functions: str = "1") -> None:
        """Let calls block, with all signals but SIGKILL held off, until it is taken back.

        `functions`: names with commas between them; by default all. A thread in a call that does not hang goes on.
        """
        self.set("hang", functions if on else "0", gpu)

    def processes(self, gpu: int, memory_bytes: Mapping[int, int]) -> None:
        """Set which processes compute on a GPU: pid → memory. The GPU's memory in use becomes their sum."""
        self.set("processes", ",".join(f"{pid}:{size}" for pid, size in memory_bytes.items()), gpu)
        self.set("memory_used", sum(memory_bytes.values()), gpu)

    def uuid(self, gpu: int) -> str:
        """Return a GPU's uuid. Raises KeyError where the machine has no such GPU."""
        return self._read()[0][_key("uuid", gpu)]

    def pci(self, gpu: int) -> str:
        """Return a GPU's PCI address as the kernel writes it: `0000:3b:00.0`. Raises KeyError."""
        return self._read()[0][_key("pci", gpu)][4:].lower()

    @property
    def count(self) -> int:
        """How many GPUs the machine should have."""
        return int(self._read()[0].get("count", "0"))

    def _read(self) -> tuple[Lines, Lines]:
        try:
            text = self.state_file.read_text()
        except FileNotFoundError:
            return {}, {}
        healthy, _, faults = text.partition(f"{_FAULTS}\n")
        return _parse(healthy), _parse(faults)

    @contextmanager
    def _changing(self) -> Iterator[tuple[Lines, Lines]]:
        with _locked(self.state_file.with_name(self.state_file.name + ".lock")):
            healthy, faults = self._read()
            yield healthy, faults
            _replace(self.state_file, f"{_format(healthy)}{_FAULTS}\n{_format(faults)}")


def _key(key: str, gpu: int | None) -> str:
    return key if gpu is None else f"gpu{gpu}.{key}"


def _clear(faults: Lines) -> None:
    """Events never begin anew: a set that has had number 7 would not take another 1."""
    newest = faults.get(_NEWEST, "0")
    faults.clear()
    faults[_NEWEST] = newest


def _parse(text: str) -> Lines:
    return {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}


def _format(lines: Mapping[str, str]) -> str:
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _identity(profile: Profile, machine: str, gpu: int) -> Lines:
    def digits(what: str) -> str:
        return hashlib.sha256(f"{machine}/{profile.name}/{gpu}/{what}".encode()).hexdigest()

    def uuid(prefix: str, text: str) -> str:
        return f"{prefix}-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"

    lines = {
        "uuid": uuid("GPU", digits("uuid")),
        "pci": f"00000000:{0x18 + 0x11 * gpu:02X}:00.0",
        "serial": str(int(digits("serial")[:10], 16)).zfill(13),
    }
    if profile.values.get("mig_mode"):
        lines |= {f"mig{index}.uuid": uuid("MIG", digits(f"mig{index}")) for index in range(_MIG_DEVICES)}
    return {_key(key, gpu): value for key, value in lines.items()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, text: str) -> None:
    """The time of change always grows, so that the library, which compares it, misses no change within one tick of the kernel's clock."""
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with open(descriptor, "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
    before_ns = path.stat().st_mtime_ns if path.exists() else 0
    now_ns = os.stat(scratch).st_mtime_ns
    if now_ns <= before_ns:
        os.utime(scratch, ns=(before_ns + 1, before_ns + 1))
    os.replace(scratch, path)
