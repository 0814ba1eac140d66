"""What the kernel says about GPUs, and a regular file that stands for /dev/kmsg.

The lines are those of NVIDIA's driver (docs.nvidia.com/deploy/xid-errors) and of its NVSwitch driver; records are as in the kernel's
Documentation/ABI/testing/dev-kmsg.
"""

import fcntl
import os
import time
from pathlib import Path

_TAIL_BYTES = 64 * 1024

XID_TEXTS = {
    13: "Graphics SM Warp Exception on (GPC 0, TPC 1, SM 0): Out Of Range Address",
    31: "Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS GPC1 GPCCLIENT_T1_3 faulted @ 0x7f62_a4000000. "
    "Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
    43: "Ch 00000010",
    45: "Ch 00000008",
    48: "DBE (double bit error) ECC Error",
    63: "Row Remapper: New row (0x000000000a4c1d40) marked for remapping, reset gpu to activate.",
    64: "Row Remapper: Failed to record a row remapping event",
    74: "NVLink: fatal error detected on link 4(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
    79: "GPU has fallen off the bus.",
    94: "Contained: SM (0x1). RST: No, D-RST: No",
    95: "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20802a02 0x8).",
    149: "NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000 0x00000000 0x00000000 0x00000000)",
    154: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
}
"""What usually follows the process."""


def xid_line(pci: str, xid: int, pid: int = 0, process: str = "", text: str = "") -> str:
    """Return an XID's line. `pci`: `0000:3b:00.0`. Without a pid it is written as the driver does where it knows none.

    `text`: what follows the process; empty: what usually does.
    """
    place = f"PCI:{pci.rpartition('.')[0] or pci}"
    who = f"pid={pid}, name={process}" if pid else "pid='<unknown>', name=<unknown>"
    return f"NVRM: Xid ({place}): {xid}, {who}, {text or XID_TEXTS.get(xid, 'Reset Required')}"


def sxid_line(
    pci: str, sxid: int, *, fatal: bool = False, text: str = "Link 32 egress non-posted PRIV error (First)", switch: int = 0
) -> str:
    """Return an NVSwitch's line."""
    return f"nvidia-nvswitch{switch}: SXid (PCI:{pci}): {sxid}, {'Fatal' if fatal else 'Non-fatal'}, {text}"


def off_bus_line(pci: str) -> str:
    """Return the line without an XID that says that a GPU does not answer any more."""
    return f"NVRM: GPU {pci}: GPU has fallen off the bus."


def append(path: Path, line: str, at_us: int | None = None) -> int:
    """Append a record and return its sequence number. `at_us`: microseconds since boot; None: now.

    The numbers go on from the file's last record, whoever writes. As the kernel does, what is not printable ASCII is written as `\\xNN`.
    """
    when_us = time.monotonic_ns() // 1000 if at_us is None else at_us
    text = "".join(chr(byte) if _plain(byte) else f"\\x{byte:02x}" for byte in line.encode())
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sequence = _last_sequence(file.fileno()) + 1
        os.write(file.fileno(), f"6,{sequence},{when_us},-;{text}\n".encode())
    return sequence


def _plain(byte: int) -> bool:
    return 32 <= byte < 127 and byte != ord("\\")


def _last_sequence(descriptor: int) -> int:
    """-1: there is no record."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    records = [line for line in tail.splitlines() if line[:1].isdigit()]
    return int(records[-1].split(b",", 2)[1]) if records else -1
