"""The two hashes that a manifest may name."""

import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import Protocol, cast

from holdfast.errors import HoldfastError

XXH3 = "xxh3-128"
SHA256 = "sha256"
DIGEST_DIGITS = {XXH3: 32, SHA256: 64}
"""Each algorithm's digest is that many hexadecimal digits."""
ALGORITHMS = tuple(DIGEST_DIGITS)
CHUNK_BYTES = 4 * 1024 * 1024
"""Both release the GIL; chunks of 1 MiB and more keep training threads from being woken a thousand times a second."""


class Hasher(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in hexadecimal."""


def default_algorithm() -> str:
    """xxh3-128 (about ten times SHA-256's speed) where xxhash is installed, else sha256."""
    return XXH3 if importlib.util.find_spec("xxhash") is not None else SHA256


def hasher(algorithm: str) -> Hasher:
    """A fresh hasher. Raises HoldfastError for an algorithm that is unknown or not installed."""
    if algorithm == SHA256:
        return cast(Hasher, hashlib.sha256())
    if algorithm == XXH3:
        try:
            return cast(Hasher, importlib.import_module("xxhash").xxh3_128())
        except ImportError as fault:
            raise HoldfastError("the checkpoint was hashed with xxh3-128: pip install xxhash") from fault
    raise HoldfastError(f"unknown hash algorithm {algorithm!r}")


def file_hash(path: Path, algorithm: str) -> str:
    """Hash of a file's content. Raises OSError, HoldfastError."""
    state = hasher(algorithm)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()
