"""The checksums that S3 and Cloud Storage know: of whole bodies, and of an object from those of its parts."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast

from awscrt import checksums as crt

from holdfast_sandbox.objects.errors import StoreError

CRCS: dict[str, tuple[int, Callable[..., int], Callable[[int, int, int], int]]] = {
    "crc32": (4, zlib.crc32, crt.combine_crc32),
    "crc32c": (4, crt.crc32c, crt.combine_crc32c),
    "crc64nvme": (8, crt.crc64nvme, crt.combine_crc64nvme),
}
"""Bytes of the value; the function; the one that gives a concatenation's value from both values and the second's length."""
ALGORITHMS = (*CRCS, "sha1", "sha256")
MD5 = "md5"


class Digest(Protocol):
    """What hashlib's objects and `Crc` have in common."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """The value of all bytes so far."""


class Crc:
    """A CRC in hashlib's manner."""

    def __init__(self, name: str) -> None:
        self._size, self._function, _ = CRCS[name]
        self._value = 0

    def update(self, data: bytes | memoryview) -> None:
        """Take in more bytes."""
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        """The value of all bytes so far, as it goes over the wire."""
        return self._value.to_bytes(self._size, "big")


def digest(name: str) -> Digest:
    """A fresh digest; raises StoreError for a name that is unknown."""
    if name in CRCS:
        return Crc(name)
    if name in ("sha1", "sha256", MD5):
        return cast(Digest, hashlib.new(name, usedforsecurity=False))
    raise StoreError("InvalidRequest", f"Value for x-amz-checksum-algorithm header is invalid: {name[:40]}")


def encoded(value: bytes) -> str:
    """A value as headers carry it."""
    return base64.b64encode(value).decode()


def decoded(name: str, text: str) -> bytes:
    """A value from a header; raises StoreError InvalidDigest where it is none of that algorithm."""
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        value = b""
    if len(value) != len(digest(name).digest()):
        raise StoreError("InvalidDigest", f"The value of the {name} checksum is invalid.")
    return value


def full_object(name: str, parts: Iterable[tuple[bytes, int]]) -> str:
    """The CRC of an object from the values and lengths of its parts."""
    size, _, combine = CRCS[name]
    total = 0
    for value, length in parts:
        total = combine(total, int.from_bytes(value, "big"), length)
    return encoded(total.to_bytes(size, "big"))


def composite(name: str, parts: Sequence[bytes]) -> str:
    """The checksum of the parts' checksums, as S3 writes it."""
    whole = digest(name)
    whole.update(b"".join(parts))
    return f"{encoded(whole.digest())}-{len(parts)}"
