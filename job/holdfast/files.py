"""Files that survive a crash, and bounded reads of files that somebody else wrote."""

import errno
import os
import stat
from pathlib import Path

from holdfast.errors import ProtocolError

LIMIT_BYTES = 64 * 1024
"""Largest file of the job directory."""


def fsync_directory(path: Path) -> None:
    """Make the names in `path` durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def replace(path: Path, data: bytes) -> None:
    """Replace `path` as a whole; readers see the old or the new content. Not durable. Raises OSError."""
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def replace_durably(path: Path, data: bytes) -> None:
    """Like `replace`, and the new content survives a crash of the machine once this returns. Raises OSError."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def append_line(path: Path, line: str, *, durable: bool) -> None:
    """Append one line in one write. A torn last line (a crash) is closed first, so it costs itself only.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, (("\n" if torn else "") + line + "\n").encode())
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def read_regular(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most `limit_bytes`, without following a link or waiting on a pipe.

    Raises FileNotFoundError when there is none, ProtocolError where it is another kind of thing or larger, OSError where it cannot be read
    now, which says nothing about its content.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        if fault.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise ProtocolError(f"{path}: cannot be opened: {fault.strerror}") from fault
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ProtocolError(f"{path}: not a regular file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(fd)
    if len(data) > limit_bytes:
        raise ProtocolError(f"{path}: larger than {limit_bytes} bytes")
    return data


def read_bounded(path: Path, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Like `read_regular`, but raises ProtocolError for everything that cannot be used, except FileNotFoundError when there is none."""
    try:
        return read_regular(path, limit_bytes)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise ProtocolError(f"{path}: cannot be read: {fault.strerror}") from fault
