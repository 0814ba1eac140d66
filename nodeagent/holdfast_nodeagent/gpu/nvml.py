"""One GPU in NVML's hands, and what NVML's errors mean. Part of the NVML process: nothing here may import more than it must.

Memory is the reason: the process and the agent share 60 MiB, and `dataclasses`, `typing` or our own models would cost it one in six.
"""

from collections.abc import Callable, Sequence

import pynvml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Value = int | float

UNSUPPORTED = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,  # we are root: a hypervisor or a container withholds it, which says nothing of the GPU
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,  # a driver that is older than the call
        pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,  # … than the structure
        pynvml.NVML_ERROR_DEPRECATED,  # or newer than it
    }
)
"""Errors that say that this GPU or driver does not tell. Every other one is a failure."""
LOST = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})
"""Errors that say, whatever was asked, that the GPU is of no use."""
DEAD_PULSE = LOST | {pynvml.NVML_ERROR_IRQ_ISSUE, pynvml.NVML_ERROR_UNKNOWN}
"""Errors that say so where the temperature was asked for, which every GPU tells; drivers say UNKNOWN of odd things for less. Those that
are not LOST must come twice in a row: a job would be moved for one slip of the driver's."""

_NAMES: dict[int, str] = {value: name[11:] for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}


class UnsupportedError(Exception):
    """A reading that has no value now, and why."""


class Device:
    """One GPU that NVML has given a handle for, and what is remembered of it between two rounds."""

    def __init__(self, index: int, handle: object) -> None:
        """Raises NVMLError where the GPU does not even tell its uuid."""
        self.index = index
        self.handle = handle
        self.uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        self.model = text(pynvml.nvmlDeviceGetName, handle)
        self.dead = 0
        """The error that its last pulse gave; 0: it lives."""
        self.doubt = 0
        """The error of its last pulse that would say so if it came again."""
        self.links: int | None = None
        """How many NVLinks it has; None: it was not asked yet."""
        self.links_up: frozenset[int] = frozenset()
        """When last asked."""
        self.links_seen_up: frozenset[int] = frozenset()
        """Ever."""

    def describe(self) -> dict[str, object]:
        """Return it as the protocol's inventory has it: what is not told is left out."""
        said: dict[str, object] = {"index": self.index, "uuid": self.uuid, "model": self.model}
        pci = ask(pynvml.nvmlDeviceGetPciInfo_v3, self.handle)
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, self.handle)
        mig = ask(pynvml.nvmlDeviceGetMigMode, self.handle)
        said["pci"] = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0" if pci is not None else ""
        said["serial"] = text(pynvml.nvmlDeviceGetSerial, self.handle)
        said["vbios"] = text(pynvml.nvmlDeviceGetVbiosVersion, self.handle)
        said["memory_bytes"] = memory.total if memory is not None else 0
        said["mig"] = mig is not None and mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        return said


def error_name(code: int) -> str:
    """Return `GPU_IS_LOST` for 15: as NVML's header has it, without its prefix."""
    return _NAMES.get(code, f"error {code}")


def ask(call: "Callable[..., Any]", *arguments: object) -> "Any":
    """Return what a call gives; None where it gives an error."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def text(call: "Callable[..., Any]", *arguments: object) -> str:
    """Return what a call says, as at most 128 printable characters; empty where it gives an error. UnicodeDecodeError is one as well."""
    try:
        said = call(*arguments)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return ""
    return "".join(letter for letter in str(said)[:128] if letter.isprintable())


def field(device: Device, number: int) -> Value:
    """Return the value of one NVML field: the call succeeds where the field itself gives an error."""
    return fields(device, [number])[0]


def fields(device: Device, numbers: Sequence[int] | Sequence[tuple[int, int]]) -> list[Value]:
    """Return the values of fields, or of (field, scope) pairs. Raises NVMLError of the first that gives an error.

    INVALID_ARGUMENT is then NOT_SUPPORTED: an older driver says so of a field that it does not know.
    """
    values: list[Value] = []
    for value in pynvml.nvmlDeviceGetFieldValues(device.handle, numbers):
        code = value.nvmlReturn
        if code != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED if code == pynvml.NVML_ERROR_INVALID_ARGUMENT else code)
        values.append(_value(value.valueType, value.value))
    return values


def _value(kind: int, value: pynvml.c_nvmlValue_t) -> Value:
    """Return the member of the union that NVML says holds the value (nvmlValueType_t)."""
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    number: Value = getattr(value, members[kind] if 0 <= kind < len(members) else "ullVal")
    return number
