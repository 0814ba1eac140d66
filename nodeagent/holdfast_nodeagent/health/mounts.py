"""The node's mounts, as process 1 has them.

The agent's own may be behind the sandbox of its service, where ProtectSystem= and ProtectHome= mount /usr and /home over themselves,
read-only. Format: Documentation/filesystems/proc.rst, 3.5.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def turned_read_only(path: Path, proc: Path = Path("/proc")) -> bool:
    """Whether the kernel has made the path's file system read-only, as it does after an error of the disk (errors=remount-ro). May hang.

    Then the file system is read-only while its mount still says `rw`. A mount that an admin or an image has made read-only says `ro`
    itself, and is meant so.
    """
    place, found, longest = os.fsencode(os.path.realpath(path)), False, -1
    for point, options, super_options in _mounts(proc):
        if len(point) >= longest and (place == point or place.startswith(point.rstrip(b"/") + b"/")):
            longest, found = len(point), b"ro" in super_options and b"ro" not in options
    return found


def is_mounted(path: Path, proc: Path = Path("/proc")) -> bool:
    """Whether something is mounted at the path. May hang."""
    place = os.fsencode(os.path.realpath(path))
    return any(point == place for point, _, _ in _mounts(proc))


def _mounts(proc: Path) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
    """Yield mount point, the mount's options and the file system's; of several at one point the last one is seen."""
    for owner in ("1", "self"):
        try:
            lines = (proc / owner / "mountinfo").read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            before, _, after = line.partition(b" - ")
            fields = before.split(b" ")
            if len(fields) >= 6:
                point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 255]), fields[4])
                yield point, fields[5].split(b","), after.split(b" ")[-1].split(b",")
        return
