"""The GPUs of one simulated machine: what NVML tells of them and what the kernel logs, changed together as a fault changes both.

`python -m holdfast_sandbox.machine_gpus PROFILE DIRECTORY NAME SPOILT` makes them at the machine's start (node_scripts/init.sh).
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from holdfast_sandbox.nvml import kernel_log
from holdfast_sandbox.nvml.gpus import FakeGpus

STATE, KERNEL_LOG = "nvml.state", "kmsg"
"""In the machine's directory."""

Fault = Literal["xid", "lose", "hang", "ecc", "remap", "throttle", "clear"]

_ECC = {"ecc_uncorrected_volatile": 1, "ecc_uncorrected_aggregate": 1}
_AFTER_XID: Mapping[int, Mapping[str, int]] = {
    46: {"recovery_action": 1},
    48: {**_ECC, "remap_pending": 1, "recovery_action": 1},
    62: {"recovery_action": 1},
    63: {"remap_pending": 1},
    64: {"remap_failed": 1},
    74: {"nvlink_recovery": 1},
    94: {**_ECC, "remap_pending": 1},
    95: {**_ECC, "recovery_action": 1},
    119: {"recovery_action": 1},
    120: {"recovery_action": 1},
}
"""What NVML tells after an XID, by docs.nvidia.com/deploy/xid-errors and a100-gpu-mem-error-mgmt. After 79 the GPU is lost."""
_HW_SLOWDOWN, _HW_THERMAL = 0x8, 0x40
"""nvmlClocksEventReason…"""


class MachineGpus:
    """The GPUs of the machine that lives in `directory`. Faults stay until `clear`."""

    def __init__(self, directory: Path) -> None:
        self.nvml = FakeGpus(directory / STATE)
        self.kernel_log = directory / KERNEL_LOG

    @classmethod
    def of(cls, directory: Path) -> "MachineGpus":
        """Return the GPUs of the machine in `directory`. Raises LookupError where it has none."""
        if not (directory / STATE).exists():
            raise LookupError(f"the machine in {directory} has no GPUs: `holdfast sandbox up --gpus PROFILE` gives it some")
        return cls(directory)

    def xid(self, number: int, gpu: int = 0, pid: int = 0, process: str = "", *, kernel: bool = True, event: bool = True) -> None:
        """Let the driver give an XID: the kernel's line first, then NVML's event, and what NVML tells from then on.

        Without `kernel` or `event` it comes by the other way only. Raises KeyError where there is no such GPU.
        """
        pci = self.nvml.pci(gpu)
        if kernel:
            kernel_log.append(self.kernel_log, kernel_log.xid_line(pci, number, pid, process))
        if event:
            self.nvml.xid(gpu, number)
        for key, value in _AFTER_XID.get(number, {}).items():
            self.nvml.set(key, value, gpu)
        if number == 79:
            self.nvml.lose(gpu)

    def lose(self, gpu: int = 0) -> None:
        """Let a GPU be gone without an XID: the driver's other line, and errors from every call about it. Raises KeyError."""
        kernel_log.append(self.kernel_log, kernel_log.off_bus_line(self.nvml.pci(gpu)))
        self.nvml.lose(gpu)

    def hang(self) -> None:
        """Let every call into NVML block."""
        self.nvml.hang(True)

    def ecc(self, gpu: int = 0) -> None:
        """Let memory have an error that could not be corrected: XID 48 and what follows. Raises KeyError."""
        self.xid(48, gpu)

    def remap(self, gpu: int = 0) -> None:
        """Let a row wait to be remapped: XID 63 and what follows. Raises KeyError."""
        self.xid(63, gpu)

    def throttle(self, gpu: int = 0) -> None:
        """Let a GPU be so hot that the hardware holds its clocks down."""
        self.nvml.set("clock_reasons", _HW_SLOWDOWN | _HW_THERMAL, gpu)
        self.nvml.set("temperature", 95, gpu)
        self.nvml.set("margin", -2, gpu)

    def inject(self, fault: Fault, gpu: int = 0, xid: int = 0) -> None:
        """Do what the method of that name does. Raises KeyError where there is no such GPU."""
        ways: dict[Fault, Callable[[], None]] = {
            "xid": lambda: self.xid(xid, gpu),
            "lose": lambda: self.lose(gpu),
            "hang": self.hang,
            "ecc": lambda: self.ecc(gpu),
            "remap": lambda: self.remap(gpu),
            "throttle": lambda: self.throttle(gpu),
            "clear": self.clear,
        }
        ways[fault]()

    def clear(self) -> None:
        """Heal them all; what the kernel has said stays said."""
        self.nvml.clear()


def main(arguments: list[str]) -> None:
    """Make a machine's GPUs, unless it has some. One machine takes the file `spoilt` away, and has a GPU less."""
    profile, directory, name, spoilt = arguments
    gpus = MachineGpus(Path(directory))
    if gpus.nvml.state_file.exists():
        return
    gpus.nvml.install(profile, name)
    try:
        Path(spoilt).rename(Path(directory, "spoilt"))
    except FileNotFoundError:
        return
    gpus.nvml.lose(gpus.nvml.count - 1, listed=False)


if __name__ == "__main__":
    main(sys.argv[1:])
