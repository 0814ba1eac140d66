"""Files of ours that are replaced as a whole: a crash leaves the old one or the new one."""

import os
from pathlib import Path

from holdfast_common.faults import fault_point


def replace_file(path: Path, content: bytes, mode: int, point: str = "", *, durable: bool) -> None:
    """Write beside it, then rename. `durable`: it outlives a power cut; `point`: the fault point before the rename. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if point:
        fault_point(point)
    temporary.replace(path)
