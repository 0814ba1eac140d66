"""`manifest.json`: what a checkpoint consists of. It is written last, so a directory without one is not a checkpoint.

Keys: version (1), step, attempt, job_id, world_size, torch (version or null), algorithm (`xxh3-128` or `sha256`), write_s
(seconds that writing took), files {name: {bytes, hash, rank}}, parts (names of the objects saved, or null), partial (whether some
objects were left out for want of time), hash (of the canonical JSON of all the other keys). A reader ignores keys that it does not
know; the hash covers them. The name of a file may have parts, `model/weights.bin`; none leads out of the folder.
"""

import json
import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from holdfast.errors import BadCheckpointError, SaveError
from holdfast.hashing import DIGEST_DIGITS, hasher

NAME = "manifest.json"
VERSION = 1
LIMIT_BYTES = 64 * 1024 * 1024
MOST_FILES = 200_000
MOST_NAME_CHARACTERS = 500
MOST_NAME_PARTS = 16
MOST_PARTS = 1000
LARGEST = 2**63 - 1
_NAME_PART = re.compile(r"[A-Za-z0-9._+=@,() -]{1,200}", re.ASCII)
"""What every file system and object store takes as it is."""
_DIGEST = re.compile(r"[0-9a-f]+", re.ASCII)


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
    parts: tuple[str, ...] | None = None
    partial: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.bytes for entry in self.files.values())

    def to_bytes(self) -> bytes:
        """The file's content, its own hash included. Raises SaveError for what `parse` would refuse."""
        for name in self.files:
            if not safe_name(name):
                raise SaveError(
                    f"a file of a checkpoint cannot be called {name[:200]!r}: letters, digits and ._+=@,()- are understood everywhere"
                )
        if not 0 < len(self.files) <= MOST_FILES:
            raise SaveError(f"a checkpoint has 1 to {MOST_FILES} files, not {len(self.files)}")
        content = {"version": VERSION, **asdict(self)}
        return json.dumps({**content, "hash": _content_hash(content, self.algorithm)}, indent=1, sort_keys=True).encode()


def _content_hash(content: dict[str, Any], algorithm: str) -> str:
    state = hasher(algorithm)
    state.update(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
    return state.hexdigest()


def safe_name(name: str) -> bool:
    """Whether this can be a file of a checkpoint: a relative path that stays in the folder and is none of our own files' names."""
    parts = name.split("/")
    if len(name) > MOST_NAME_CHARACTERS or len(parts) > MOST_NAME_PARTS or parts[0] == NAME:
        return False
    if parts[0].startswith(".") and name != ".metadata":
        return False
    return all(_NAME_PART.fullmatch(part) and part.strip(".") for part in parts)


def _whole(content: dict[str, Any], key: str, least: int = 0) -> int:
    value = content.get(key)
    if type(value) is not int or not least <= value <= LARGEST:
        raise BadCheckpointError(NAME, f"{key} is not a whole number of at least {least}")
    return value


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or len(value) > 200:
        raise BadCheckpointError(NAME, f"{key} is not a short string")
    return value


def _entry(name: object, value: object, digits: int) -> FileEntry:
    if not isinstance(name, str) or not safe_name(name) or not isinstance(value, dict):
        raise BadCheckpointError(NAME, f"files has a bad entry {str(name)[:80]!r}")
    digest = _text(value, "hash")
    if len(digest) != digits or not _DIGEST.fullmatch(digest):
        raise BadCheckpointError(NAME, f"the hash of {name} is malformed")
    return FileEntry(bytes=_whole(value, "bytes"), hash=digest, rank=_whole(value, "rank"))


def _files(content: dict[str, Any], digits: int) -> dict[str, FileEntry]:
    files = content.get("files")
    if not isinstance(files, dict) or not files:
        raise BadCheckpointError(NAME, "it names no files")
    if len(files) > MOST_FILES:
        raise BadCheckpointError(NAME, f"it names more than {MOST_FILES} files")
    return {name: _entry(name, value, digits) for name, value in files.items()}


def _seconds(content: dict[str, Any], key: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadCheckpointError(NAME, f"{key} is not a number of seconds")
    return float(value)


def _parts(content: dict[str, Any]) -> tuple[str, ...] | None:
    parts = content.get("parts")
    if parts is None:
        return None
    if not isinstance(parts, list) or len(parts) > MOST_PARTS or not all(isinstance(part, str) and len(part) <= 200 for part in parts):
        raise BadCheckpointError(NAME, "parts is not a list of short strings")
    return tuple(parts)


def _load(data: bytes) -> tuple[dict[str, Any], str]:
    """The JSON object and its hash algorithm, once its own hash is right."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise BadCheckpointError(NAME, f"not JSON: {fault}") from fault
    if not isinstance(content, dict) or type(content.get("version")) is not int or content["version"] != VERSION:
        raise BadCheckpointError(NAME, f"not a version {VERSION} manifest")
    algorithm = _text(content, "algorithm")
    if algorithm not in DIGEST_DIGITS:
        raise BadCheckpointError(NAME, f"unknown hash algorithm {algorithm[:40]!r}")
    stated = content.pop("hash", None)
    try:
        right = stated == _content_hash(content, algorithm)
    except RecursionError:
        right = False
    if not right:
        raise BadCheckpointError(NAME, "its content does not match its own hash")
    return content, algorithm


def parse(data: bytes) -> Manifest:
    """Read manifest.json's content, strictly. Raises BadCheckpointError; HoldfastError if its hash is not installed."""
    content, algorithm = _load(data)
    torch, partial = content.get("torch"), content.get("partial", False)
    if torch is not None:
        torch = _text(content, "torch")
    if not isinstance(partial, bool):
        raise BadCheckpointError(NAME, "partial is neither true nor false")
    return Manifest(
        step=_whole(content, "step"),
        attempt=_whole(content, "attempt"),
        job_id=_text(content, "job_id"),
        world_size=_whole(content, "world_size", 1),
        torch=torch,
        algorithm=algorithm,
        write_s=_seconds(content, "write_s"),
        files=_files(content, DIGEST_DIGITS[algorithm]),
        parts=_parts(content),
        partial=partial,
    )
