"""The files that objects write themselves (`save_files`): a folder for each object in the checkpoint's, made durable and hashed."""

import os
from pathlib import Path
from typing import Any

from holdfast.errors import SaveError
from holdfast.files import fsync_directory
from holdfast.hashing import file_hash
from holdfast.manifest import FileEntry


def save(folder: Path, objects: dict[str, Any]) -> None:
    """Have each object write its files. What it raises passes through."""
    for name, value in objects.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        value.save_files(own)


def names(folder: Path, objects: dict[str, Any]) -> list[str]:
    """All files of the objects, relative to `folder`, in order; their folders are made durable. Raises SaveError for what is no file."""
    found = sorted(path for name in objects for path in [folder / name, *(folder / name).rglob("*")])
    files = []
    for path in found:
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise SaveError(f"{path.relative_to(folder)} is no regular file: an object's files are copied and hashed as they are")
        if path.is_dir():
            fsync_directory(path)
        else:
            files.append(path.relative_to(folder).as_posix())
    return files


def entries(folder: Path, files: list[str], algorithm: str, rank: int) -> dict[str, FileEntry]:
    """The manifest's entries of these files, which are made durable. Raises OSError."""
    found = {}
    for name in files:
        path = folder / name
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        found[name] = FileEntry(bytes=path.stat().st_size, hash=file_hash(path, algorithm), rank=rank)
    return found
