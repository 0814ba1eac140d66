"""Sealed files: written beside their place, durable, renamed into it, with size and hash in a sidecar.

The hook loads this file by its path into the user's Python, so it needs nothing but the standard library, of Python 3.9 or later.

The sidecar of `DIR/name` is `DIR/.holdfast/name.json`: a folder, because frameworks that look for their newest checkpoint match substrings
of the names next to it (Lightning takes `hpc_ckpt_3.ckpt.old` for one). It describes the file that is there and the one that is about to
replace it, so that it is right whichever side of the rename the process dies on. A write in progress is `DIR/.holdfast-<writer>/name`: of
the same name, which torch writes into the file.

Sidecar: {"v": 1, "entries": [{"bytes", "algorithm", "hash", "mtime_ns", "inode"}, …newest first], "digest": SHA-256 of the entries}.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

FOLDER = ".holdfast"
WRITING = ".holdfast-"
CHUNK_BYTES = 4 * 1024 * 1024
SIDECAR_LIMIT_BYTES = 64 * 1024
_DIGITS = {"xxh3-128": 32, "sha256": 64}
_numbers = itertools.count()

fault: Callable[[str], None] | None = None
"""Called at each write boundary where a test has set it."""


class DamagedFile(Exception):  # noqa: N818 - the name is what the user reads
    """A checkpoint's file is not what was saved. Names the file and the reason."""


def _point(name: str) -> None:
    if fault is not None:
        fault(name)


def _hasher(algorithm: str) -> Any:
    """Raises ImportError where the algorithm's module is missing."""
    return hashlib.sha256() if algorithm == "sha256" else importlib.import_module("xxhash").xxh3_128()


def _default() -> str:
    try:
        _hasher("xxh3-128")
    except ImportError:
        return "sha256"
    return "xxh3-128"


def digest(path: str, algorithm: str) -> str:
    """Hash of a file's content. Raises OSError, ImportError."""
    state = _hasher(algorithm)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return str(state.hexdigest())


def sidecar(path: str) -> str:
    """Where the sidecar of a file is."""
    folder, name = os.path.split(path)
    return os.path.join(folder, FOLDER, name + ".json")


def _digest_of(entries: list[Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def entries(path: str) -> list[dict[str, Any]]:
    """What the sidecar of a file says, newest first; empty where there is none. Raises DamagedFile if it is damaged itself."""
    try:
        with open(sidecar(path), "rb") as file:
            data = file.read(SIDECAR_LIMIT_BYTES + 1)
    except OSError:
        return []
    try:
        content = json.loads(data)
        found = content["entries"]
        right = content["v"] == 1 and content["digest"] == _digest_of(found) and all(_well_formed(entry) for entry in found)
    except (ValueError, KeyError, TypeError, RecursionError):
        right = False
    if not right:
        raise DamagedFile(f"{sidecar(path)}: the sidecar is damaged")
    return list(found)


def _well_formed(entry: Any) -> bool:
    numbers = all(type(entry[key]) is int for key in ("bytes", "mtime_ns", "inode"))
    return numbers and _DIGITS.get(entry["algorithm"]) == len(entry["hash"])


def _fsync(path: str, flags: int = os.O_RDONLY) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_sidecar(path: str, newest: dict[str, Any]) -> None:
    place = sidecar(path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    try:
        before = entries(path)
    except DamagedFile:
        before = []
    found = [newest, *_standing(path, before)]
    temporary = f"{os.path.dirname(place)}/.{os.getpid()}.{next(_numbers)}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"v": 1, "entries": found, "digest": _digest_of(found)}, file)
            file.flush()
            os.fsync(file.fileno())
        _point("sidecar-written")
        os.replace(temporary, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _fsync(os.path.dirname(place))


def _standing(path: str, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entry of the file that is in place until the rename."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return [entry for entry in before if (entry["mtime_ns"], entry["inode"]) == (status.st_mtime_ns, status.st_ino)][:1]
    return []


def publish(temporary: str, path: str) -> int:
    """Put a whole file that stands on the same file system in its place, durably and with a sidecar; its size in bytes.

    Raises OSError. Dies the process on the way, the old file stands in its place, or the new one; either is described by its sidecar.
    """
    _fsync(temporary)
    _point("file-durable")
    algorithm = _default()
    status = os.stat(temporary)
    entry = {"bytes": status.st_size, "algorithm": algorithm, "hash": digest(temporary, algorithm)}
    entry |= {"mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    try:
        _write_sidecar(path, entry)
    except OSError:  # a name that is too long with its suffix, a folder that may not be made: the file is worth more than its sidecar
        with contextlib.suppress(OSError):
            os.unlink(sidecar(path))
    _point("sidecar-published")
    os.replace(temporary, path)
    _point("file-published")
    _fsync(os.path.dirname(path) or ".")
    return int(status.st_size)


def writer() -> str:
    """This process, in the name of what it writes: job, attempt, host, pid."""
    job, attempt = os.environ.get("SLURM_JOB_ID") or "0", os.environ.get("SLURM_RESTART_COUNT") or "0"
    host = os.uname().nodename.replace("/", "_")[:64]
    return f"{job}-{attempt}-{host}-{os.getpid()}-{next(_numbers)}"


def replaceable(path: str) -> str | None:
    """The real path that a write to `path` would change; None where it is no regular file (a pipe, /dev/null, a directory)."""
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target if os.path.basename(target) else None
    except OSError:
        return None
    return target if stat.S_ISREG(mode) else None


@contextlib.contextmanager
def writing(target: str) -> Iterator[str]:
    """A path to write to in place of `target`; published at the end of the block, and removed if it raises.

    Raises OSError where no folder can be made next to the target.
    """
    folder = os.path.join(os.path.dirname(target), WRITING + writer())
    os.mkdir(folder)
    temporary = os.path.join(folder, os.path.basename(target))
    try:
        _point("begun")
        yield temporary
        _point("file-written")
        _keep_mode(temporary, target)
        publish(temporary, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_mode(temporary: str, target: str) -> None:
    with contextlib.suppress(OSError):
        os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))


def zip_fault(path: str) -> str | None:
    """What is wrong with a zip file (torch's format), by its own CRCs; None: nothing. Raises OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = archive.testzip()
            return f"the CRC of its record {name!r} does not match" if name else None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OverflowError) as trouble:
        return f"it is no whole zip file: {trouble}"


def is_zip(path: str) -> bool:
    """Whether a file begins as torch's files do. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def untouched(path: str) -> bool:
    """Whether a file is, by its time, size and inode, the one that its sidecar describes; it is not read."""
    try:
        status = os.stat(path)
        known = entries(path)
    except (OSError, DamagedFile):
        return False
    return any((entry["mtime_ns"], entry["inode"], entry["bytes"]) == _identity(status) for entry in known)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def check(path: str) -> bool:
    """Compare a file with its sidecar; False where that says nothing of it. Raises DamagedFile, OSError.

    A file that was rewritten since by something else, and whose own CRCs are right, is whole: of that its sidecar says nothing. One whose
    hash needs a module that is not installed is not compared either.
    """
    status = os.stat(path)
    try:
        known = entries(path) or _moved(path, status)
    except DamagedFile:
        if is_zip(path):
            return _judged_by_itself(path, "its sidecar is damaged, and ")
        raise
    if not known:
        return False
    try:
        if any(entry["bytes"] == status.st_size and digest(path, entry["algorithm"]) == entry["hash"] for entry in known):
            return True
    except ImportError:
        return False
    reason = f"it is not what was saved ({status.st_size} bytes, saved were {known[0]['bytes']}; hash {known[0]['hash'][:8]}…)"
    untouched = any(entry["mtime_ns"] == status.st_mtime_ns for entry in known)
    if not untouched and is_zip(path):
        return _judged_by_itself(path, f"{reason}, and ")
    raise DamagedFile(f"{path}: {reason}")


def _judged_by_itself(path: str, told: str) -> bool:
    trouble = zip_fault(path)
    if trouble is not None:
        raise DamagedFile(f"{path}: {told}{trouble}")
    return False


def _moved(path: str, status: os.stat_result) -> list[dict[str, Any]]:
    """The entry of a file that was renamed since (`torch.save(state, tmp); os.replace(tmp, path)`): found by what a rename keeps."""
    folder = os.path.dirname(sidecar(path))
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder))[:1000]:
            if not name.endswith(".json") or name.startswith("."):
                continue
            with contextlib.suppress(DamagedFile):
                for entry in entries(os.path.join(os.path.dirname(path), name[: -len(".json")])):
                    if (entry["mtime_ns"], entry["inode"]) == (status.st_mtime_ns, status.st_ino):
                        return [entry]
    return []
