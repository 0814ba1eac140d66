"""The body of an upload: from the socket to a file, decoded and hashed on the way, and compared with what its headers and trailers say."""

import asyncio
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from holdfast_sandbox.objects import checksums
from holdfast_sandbox.objects.blob import Blob, Piece
from holdfast_sandbox.objects.chunked import AwsChunked
from holdfast_sandbox.objects.errors import HungUpError, StoreError
from holdfast_sandbox.objects.faults import Fault, Limits

BATCH_BYTES = 1024 * 1024
"""What is written and hashed at once, in another thread while the socket is read; smaller bodies need no thread."""
MD5_MAX_BYTES = 1024 * 1024
MAX_BYTES = 5 * 1024**3
DEFAULT = "crc64nvme"
"""What S3 adds of itself where a client sends no checksum."""
_CHECKSUM = "x-amz-checksum-"
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Received:
    """A body that is stored: `values` has each checksum that was computed, `named` says which the client gave (or S3 adds)."""

    piece: Piece
    etag: str
    values: Mapping[str, bytes]
    named: str


class Expectations:
    """What a request says about its body, before the body or after it."""

    def __init__(self, headers: Mapping[str, str], also: str | None) -> None:
        self._headers = headers
        self.chunked = headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
        length = headers.get("x-amz-decoded-content-length" if self.chunked else "Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise StoreError("MissingContentLength", "You must provide the Content-Length HTTP header.")
        self.length = int(length)
        if self.length > MAX_BYTES:
            raise StoreError("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        self._values = dict(self._given())
        self._announced = headers.get("x-amz-trailer", "").lower().removeprefix(_CHECKSUM)
        given = [name for name in (*self._values, self._announced) if name in checksums.ALGORITHMS]
        self.named = also or (given[0] if given else DEFAULT)
        self.names = {*self._values, *given, self.named, DEFAULT, "crc32c"}
        if self.length <= MD5_MAX_BYTES:
            self.names.add(checksums.MD5)

    def _given(self) -> list[tuple[str, bytes]]:
        found = {name.lower().removeprefix(_CHECKSUM): value for name, value in self._headers.items() if name.lower().startswith(_CHECKSUM)}
        wanted = [(name, value) for name, value in found.items() if name not in ("algorithm", "type", "mode")]
        if "Content-MD5" in self._headers:
            wanted.append((checksums.MD5, self._headers["Content-MD5"]))
        for each in filter(None, self._headers.get("x-goog-hash", "").split(",")):
            name, _, value = each.strip().partition("=")
            wanted.append((name, value))
        return [(name, checksums.decoded(name, value)) for name, value in wanted]

    def compare(self, length: int, values: Mapping[str, bytes], sha256: bytes | None, trailers: Mapping[str, str]) -> None:
        """Raises StoreError where the body is not the one that was meant."""
        if length != self.length:
            raise StoreError("IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header")
        said = self._headers.get("x-amz-content-sha256", "")
        if sha256 is not None and sha256.hex() != said:
            raise StoreError("XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
        wanted = dict(self._values)
        if self._announced:
            if _CHECKSUM + self._announced not in trailers:
                raise StoreError("MalformedTrailerError", "The trailer that x-amz-trailer announced is missing.")
            wanted[self._announced] = checksums.decoded(self._announced, trailers[_CHECKSUM + self._announced])
        for name, value in wanted.items():
            if values[name] != value:
                what = "Content-MD5" if name == checksums.MD5 else name.upper()
                raise StoreError("BadDigest", f"The {what} you specified did not match the calculated checksum.")

    @property
    def sha256_wanted(self) -> bool:
        """Whether the signature covers the body."""
        return _SHA256.fullmatch(self._headers.get("x-amz-content-sha256", "")) is not None


class Sink:
    """A file that is being written, with its digests. `write` may run in another thread, one at a time."""

    def __init__(self, directory: Path, wanted: Expectations) -> None:
        self.blob = Blob(directory)
        self.length = 0
        self._wanted = wanted
        self._fd = os.open(self.blob.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._decoder = AwsChunked() if wanted.chunked else None
        self._digests = {name: checksums.digest(name) for name in wanted.names}
        self._sha256 = checksums.digest("sha256") if wanted.sha256_wanted else None

    def write(self, batch: list[bytes]) -> None:
        """Take in more of the body. Raises StoreError, OSError."""
        digests = [*self._digests.values(), *([self._sha256] if self._sha256 is not None else [])]
        for data in batch:
            for piece in self._decoder.feed(data) if self._decoder is not None else (memoryview(data),):
                for digest in digests:
                    digest.update(piece)
                self.length += len(piece)
                while piece:
                    piece = piece[os.write(self._fd, piece) :]  # noqa: PLW2901 - what is left of it

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def received(self) -> Received:
        """What came in; raises StoreError where that is not what was meant."""
        values = {name: digest.digest() for name, digest in self._digests.items()}
        if self._decoder is not None and not self._decoder.finished:
            raise StoreError("IncompleteBody", "The aws-chunked body ends before its last chunk.")
        sha256 = self._sha256.digest() if self._sha256 is not None else None
        self._wanted.compare(self.length, values, sha256, self._decoder.trailers if self._decoder is not None else {})
        md5 = values.pop(checksums.MD5, None)
        etag = secrets.token_hex(16) if md5 is None else md5.hex()
        return Received(Piece(self.blob, 0, self.length), f'"{etag}"', values, self._wanted.named)


async def receive(request: web.Request, sink: Sink, limits: Limits, fault: Fault | None) -> None:
    """Pour the body into `sink`, reading on while a batch is written. Raises StoreError, OSError, HungUpError."""
    loop, stream = asyncio.get_running_loop(), request.content
    busy: asyncio.Future[None] | None = None
    batch: list[bytes] = []
    waiting = seen = 0
    try:
        while data := await stream.readany():
            seen += len(data)
            if fault is not None and fault.mode == "cut" and seen >= fault.bytes:
                raise HungUpError
            await limits.take(len(data))
            batch.append(data)
            waiting += len(data)
            if waiting >= BATCH_BYTES and (busy is None or busy.done() or waiting >= 4 * BATCH_BYTES):
                if busy is not None:
                    await busy
                busy = loop.run_in_executor(None, sink.write, batch)
                batch, waiting = [], 0
        if busy is not None:
            await busy
        sink.write(batch)
    except (ClientPayloadError, ConnectionError) as fault_of_client:
        raise HungUpError from fault_of_client
    finally:
        if busy is not None and not busy.done():
            await asyncio.wait([busy])
        sink.close()
