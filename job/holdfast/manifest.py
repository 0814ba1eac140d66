"""`manifest.json`: what a checkpoint consists of. It is written last, so a directory without one is not a checkpoint.

Keys: version (1), step, attempt, job_id, world_size, torch (version or null), algorithm (`xxh3-128` or `sha256`), write_s
(seconds that writing took), files {name: {bytes, hash, rank}}, hash (of the canonical JSON of all the other keys). A
reader ignores keys that it does not know, so that sharded checkpoints can add theirs; the hash covers them.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.errors import BadCheckpointError, ProtocolError
from holdfast.files import read_bounded
from holdfast.hashing import ALGORITHMS, file_hash, hasher

NAME = "manifest.json"
VERSION = 1
LIMIT_BYTES = 64 * 1024 * 1024
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{32,64}")


@dataclass(frozen=True)
class FileEntry:
    """One file: its size, its digest and the rank that wrote it."""

    bytes: int
    hash: str
    rank: int


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json, checked."""

    step: int
    attempt: int
    job_id: str
    world_size: int
    torch: str | None
    algorithm: str
    write_s: float
    files: dict[str, FileEntry]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.bytes for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """The file's content, its own hash included."""
        content = {"version": VERSION, **asdict(self)}
        return json.dumps({**content, "hash": _content_hash(content, self.algorithm)}, indent=1, sort_keys=True).encode()


def _content_hash(content: dict[str, Any], algorithm: str) -> str:
    state = hasher(algorithm)
    state.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    return state.hexdigest()


def _whole(content: dict[str, Any], key: str, least: int = 0) -> int:
    value = content.get(key)
    if type(value) is not int or value < least:
        raise BadCheckpointError(NAME, f"{key} is not a whole number of at least {least}")
    return value


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or len(value) > 200:
        raise BadCheckpointError(NAME, f"{key} is not a short string")
    return value


def _entry(name: object, value: object) -> FileEntry:
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or name == NAME or not isinstance(value, dict):
        raise BadCheckpointError(NAME, f"files has a bad entry {str(name)[:80]!r}")
    digest = _text(value, "hash")
    if not _DIGEST.fullmatch(digest):
        raise BadCheckpointError(NAME, f"the hash of {name} is malformed")
    return FileEntry(bytes=_whole(value, "bytes"), hash=digest, rank=_whole(value, "rank"))


def parse(data: bytes) -> Manifest:
    """Read manifest.json's content, strictly. Raises BadCheckpointError; HoldfastError if its hash is not installed."""
    try:
        content = json.loads(data)
    except ValueError as fault:
        raise BadCheckpointError(NAME, f"not JSON: {fault}") from fault
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise BadCheckpointError(NAME, f"not a version {VERSION} manifest")
    algorithm = _text(content, "algorithm")
    if algorithm not in ALGORITHMS:
        raise BadCheckpointError(NAME, f"unknown hash algorithm {algorithm[:40]!r}")
    stated = content.pop("hash", None)
    if stated != _content_hash(content, algorithm):
        raise BadCheckpointError(NAME, "its content does not match its own hash")
    files, torch, write_s = content.get("files"), content.get("torch"), content.get("write_s")
    if not isinstance(files, dict) or not files:
        raise BadCheckpointError(NAME, "it names no files")
    if not isinstance(torch, str | None) or isinstance(write_s, bool) or not isinstance(write_s, int | float):
        raise BadCheckpointError(NAME, "torch or write_s has a wrong type")
    return Manifest(
        step=_whole(content, "step"),
        attempt=_whole(content, "attempt"),
        job_id=_text(content, "job_id"),
        world_size=_whole(content, "world_size", 1),
        torch=torch,
        algorithm=algorithm,
        write_s=float(write_s),
        files={name: _entry(name, value) for name, value in files.items()},
    )


def read(directory: Path) -> Manifest:
    """The manifest of a checkpoint. Raises FileNotFoundError where there is none, BadCheckpointError, HoldfastError."""
    try:
        return parse(read_bounded(directory / NAME, LIMIT_BYTES))
    except ProtocolError as fault:
        raise BadCheckpointError(NAME, str(fault)) from fault


def verify(directory: Path, manifest: Manifest, names: set[str] | None = None) -> None:
    """Check sizes, then hashes, of all files (or of `names`). Raises BadCheckpointError naming the first faulty file.

    An OSError other than a missing file passes through: a file that cannot be read now is not known to be bad.
    """
    wanted = {name: entry for name, entry in manifest.files.items() if names is None or name in names}
    for name, entry in wanted.items():
        try:
            size_bytes = (directory / name).lstat().st_size
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise BadCheckpointError(name, "the file is missing") from fault
        if size_bytes != entry.bytes:
            raise BadCheckpointError(name, f"{size_bytes} bytes where the manifest says {entry.bytes}")
    for name, entry in wanted.items():
        if file_hash(directory / name, manifest.algorithm) != entry.hash:
            raise BadCheckpointError(name, f"its {manifest.algorithm} hash is not the manifest's")
