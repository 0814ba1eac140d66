"""One round of a tier over all GPUs, as the protocol's lines. Part of the NVML process."""

import ctypes
import time
from collections.abc import Iterator

import pynvml

from holdfast_nodeagent.gpu import nvlink, readings
from holdfast_nodeagent.gpu.nvml import DEAD_PULSE, LOST, UNSUPPORTED, Device, UnsupportedError, Value, ask, error_name, text

Line = dict[str, object]
Entry = list[object]


def entry(name: str, gpu: str, value: Value | Exception, detail: str = "") -> Entry:
    """Return a sample as the protocol has it."""
    match value:
        case UnsupportedError():
            return [name, gpu, None, "unsupported", str(value)]
        case pynvml.NVMLError():
            return [name, gpu, None, "unsupported" if value.value in UNSUPPORTED else "failed", error_name(value.value)]
        case Exception():
            return [name, gpu, None, "failed", type(value).__name__]
        case _:
            return [name, gpu, value, "ok", detail]


class Gpus:
    """The GPUs that NVML gives a handle for; those that it does not are asked for again in each slow round."""

    def __init__(self) -> None:
        """Raises NVMLError where they cannot be listed."""
        self.devices: list[Device] = []
        self.listed = 0
        """How many NVML counts, reached or not."""
        self.find()

    def find_more(self) -> bool:
        """Look for those that NVML lists and that could not be reached; returns whether there are new ones."""
        try:
            return self.listed > len(self.devices) and self.find()
        except pynvml.NVMLError:  # the driver is in trouble, and the readings say so
            return False

    def find(self) -> bool:
        """Look for GPUs that have no handle yet; returns whether there are new ones. Raises NVMLError where they cannot be listed."""
        self.listed = pynvml.nvmlDeviceGetCount()
        known = {device.uuid for device in self.devices}
        found = [device for index in range(self.listed) if (device := self._reach(index)) is not None and device.uuid not in known]
        self.devices = sorted([*self.devices, *found], key=lambda device: device.index)
        return bool(found)

    def _reach(self, index: int) -> Device | None:
        try:
            return Device(index, pynvml.nvmlDeviceGetHandleByIndex(index))
        except (pynvml.NVMLError, ValueError):
            return None

    def uuid(self, handle: object) -> str:
        """Return the uuid of the GPU that an event is of; empty: of none of ours. A lost GPU would not tell it."""
        address = _address(handle)
        return next((device.uuid for device in self.devices if _address(device.handle) == address), "")

    def inventory(self) -> Line:
        """Return the protocol's inventory."""
        driver, nvml = text(pynvml.nvmlSystemGetDriverVersion), text(pynvml.nvmlSystemGetNVMLVersion)
        return {"kind": "inventory", "driver": driver, "nvml": nvml, "gpus": [device.describe() for device in self.devices]}

    def round(self, tier: str) -> Line:
        """Read a tier of every GPU."""
        began = time.monotonic()
        samples = [sample for device in self.devices for sample in self._read(tier, device)]
        if tier == "fast":
            samples.append(self._visible())
        elif tier == "medium":
            samples += [self._links_down(device) for device in self.devices]
        return {"kind": "samples", "tier": tier, "took_s": time.monotonic() - began, "samples": samples}

    def processes(self) -> Line:
        """Return which processes compute on which GPU; a GPU that does not tell is left out."""
        told = {device.uuid: ask(readings.processes, device) for device in self.devices if not device.dead}
        return {"kind": "processes", "gpus": {uuid: pids for uuid, pids in told.items() if pids is not None}}

    def _visible(self) -> Entry:
        reached = sum(not device.dead for device in self.devices)
        listed = ask(pynvml.nvmlDeviceGetCount)
        self.listed = self.listed if listed is None else listed
        return entry("gpus_visible", "", reached, "" if reached == self.listed else f"NVML lists {self.listed}")

    def _read(self, tier: str, device: Device) -> Iterator[Entry]:
        if tier == "fast":
            device.dead = _pulse(device)
        for names, read in readings.TIERS[tier].items():
            if device.dead:
                values: tuple[Value | Exception, ...] = (pynvml.NVMLError(device.dead),) * len(names)
            else:
                values = _values(read, device, len(names))
            device.dead = device.dead or next(
                (value.value for value in values if isinstance(value, pynvml.NVMLError) and value.value in LOST), 0
            )
            yield from (entry(name, device.uuid, value) for name, value in zip(names, values, strict=True))
        if tier == "fast":
            yield _up(device)

    def _links_down(self, device: Device) -> Entry:
        if device.dead:
            return entry("nvlinks_down", device.uuid, pynvml.NVMLError(device.dead))
        if not device.links:
            return entry("nvlinks_down", device.uuid, UnsupportedError("no NVLink"))
        count, which = nvlink.down(device, self.devices)
        return entry("nvlinks_down", device.uuid, count, which)


def _address(handle: object) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value  # type: ignore[arg-type]


def _up(device: Device) -> Entry:
    if device.doubt and not device.dead:
        return entry("up", device.uuid, pynvml.NVMLError(device.doubt))
    return entry("up", device.uuid, int(not device.dead), error_name(device.dead) if device.dead else "")


def _pulse(device: Device) -> int:
    """Return the error that says that the GPU is of no use; 0: it is, or there is doubt for the first time."""
    before, device.doubt = device.doubt, 0
    try:
        readings.temperature(device)
    except pynvml.NVMLError as error:
        if error.value in DEAD_PULSE:
            device.doubt = int(error.value)
        return device.doubt if before or error.value in LOST else 0
    return 0


def _values(read: readings.Read, device: Device, count: int) -> tuple[Value | Exception, ...]:
    try:
        values = read(device)
    except Exception as error:  # a driver or a binding that is another than ours: it is this reading that fails
        return (error,) * count
    return values if isinstance(values, tuple) else (values,)
