"""What NVIDIA's driver writes into the kernel's log: XIDs, SXids of NVSwitches, and GPUs that have fallen off the bus.

The forms are those of the driver's releases since 2014, as quoted in NVIDIA's "XID Errors" and the Fabric Manager's user guide. A line
must begin with them: lines of others have names in them that users choose, such as that of a control group whose memory is used up.
"""

import re

from holdfast_common.health.model import GpuEvent

MAX_LINE = 2000
_PCI = r"(?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-9a-fA-F])?)"
_BEGIN = r"(?:<\d{1,3}>)?(?:\[ {0,12}\d{1,10}\.\d{1,9}\] ?)?"
_XID = re.compile(rf"{_BEGIN}NVRM: Xid \({_PCI}(?:[^()]{{0,80}})?\): (\d{{1,6}})(?:,|\b)(.*)")
_SXID = re.compile(rf"{_BEGIN}(?:nvidia-)?nvswitch\d{{0,3}}: SXid \({_PCI}\): (\d{{1,6}}),?(.*)")
_OFF_BUS = re.compile(rf"{_BEGIN}NVRM: (?:The )?(?:NVIDIA )?GPU (?:at )?{_PCI}:?\s?.{{0,120}}fallen off the bus", re.DOTALL)
"""A driver that is loaded and finds the GPU gone says it in one message of three lines."""
_PID = re.compile(r"\bpid='?(\d{1,10})'?")
_NAME = re.compile(r"\bname=([^,]{1,64})")
_FATAL = re.compile(r"(?<![-\w])fatal\b", re.IGNORECASE)
_NOT_FATAL = re.compile(r"\bnon-?\s?fatal\b", re.IGNORECASE)


def parse_line(text: str, at: float) -> GpuEvent | None:
    """Return what a line of the kernel's log says of a GPU, None where it says nothing of one. `at`: when it was logged, Unix seconds."""
    text = text[:MAX_LINE]
    if "NVRM" not in text and "SXid" not in text:
        return None
    shown = "".join(char for char in text if char.isprintable())[:400]
    match = _XID.match(text)
    if match is not None:
        rest = match[3]
        pid, name = _PID.search(rest), _NAME.search(rest)
        return GpuEvent(
            at,
            "xid",
            int(match[2]),
            _address(match[1]),
            shown,
            fatal=_is_fatal(_NAME.sub("", rest)),
            pid=int(pid[1]) if pid else 0,
            process="".join(char for char in name[1].strip() if char.isprintable()) if name else "",
        )
    match = _SXID.match(text)
    if match is not None:
        return GpuEvent(at, "sxid", int(match[2]), _address(match[1]), shown, fatal=_is_fatal(match[3]))
    match = _OFF_BUS.match(text)
    if match is not None:
        return GpuEvent(at, "off_bus", 0, _address(match[1]), shown, fatal=True)
    return None


def _address(text: str) -> str:
    return f"PCI:{text.lower()}"


def _is_fatal(text: str) -> bool:
    return _FATAL.search(text) is not None and _NOT_FATAL.search(text) is None
