"""GetObject and HeadObject: headers, conditions, ranges, and bodies straight from the file to the socket."""

import asyncio
import re
from collections.abc import Mapping

from aiohttp import web

from holdfast_sandbox.objects.blob import sliced
from holdfast_sandbox.objects.buckets import Stored
from holdfast_sandbox.objects.errors import HungUpError, StoreError
from holdfast_sandbox.objects.faults import Fault, Limits
from holdfast_sandbox.objects.wire import http_date

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
SEND_BYTES = 8 * 1024 * 1024
LIMITED_SEND_BYTES = 256 * 1024


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and length that a Range header asks for; None for the whole object. Raises StoreError InvalidRange."""
    match = _RANGE.fullmatch(header or "")
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        start = size - length
    else:
        start = int(match[1])
        length = min(int(match[2]) + 1 if match[2] else size, size) - start
    if start >= size or length <= 0:
        raise StoreError("InvalidRange", "The requested range is not satisfiable")
    return start, length


def check(stored: Stored, headers: Mapping[str, str]) -> None:
    """Raises StoreError where the conditions of a read do not hold."""
    etag = stored.etag.strip('"')
    wanted, unwanted = headers.get("If-Match"), headers.get("If-None-Match")
    if wanted is not None and wanted != "*" and etag not in [each.strip(' "') for each in wanted.split(",")]:
        raise StoreError("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
    if unwanted is not None and (unwanted == "*" or etag in [each.strip(' "') for each in unwanted.split(",")]):
        raise StoreError("NotModified", "Not Modified")


def described(stored: Stored, *, checksum: bool) -> dict[str, str]:
    """The headers of an object, for both dialects; with `checksum` the one that S3 keeps."""
    found = {
        "ETag": stored.etag,
        "Last-Modified": http_date(stored.modified),
        "Accept-Ranges": "bytes",
        "content-type": "binary/octet-stream",
        "x-goog-generation": str(stored.generation),
        "x-goog-hash": f"crc32c={stored.crc32c}",
        **stored.headers,
    }
    if checksum:
        found |= {f"x-amz-checksum-{stored.algorithm}": stored.checksum, "x-amz-checksum-type": stored.checksum_type}
    return found


async def send(request: web.Request, stored: Stored, limits: Limits, fault: Fault | None) -> web.StreamResponse:
    """Answer a GetObject or HeadObject. Raises StoreError, HungUpError."""
    check(stored, request.headers)
    part = span(request.headers.get("Range"), stored.size)
    start, length = part or (0, stored.size)
    asked = request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"
    headers = described(stored, checksum=asked and part is None) | {"Content-Length": str(length)}
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{stored.size}"
    response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
    writer = await response.prepare(request)
    if request.method == "HEAD" or writer is None:
        return response
    writer.send_headers()
    cut = fault.bytes if fault is not None and fault.mode == "cut" else None
    await _send_body(request, stored, (start, length if cut is None else min(length, cut)), limits)
    if cut is not None and cut < length:
        raise HungUpError
    await response.write_eof()
    return response


async def _send_body(request: web.Request, stored: Stored, part: tuple[int, int], limits: Limits) -> None:
    loop, step = asyncio.get_running_loop(), SEND_BYTES if limits.bytes_per_s is None else LIMITED_SEND_BYTES
    for piece in sliced(stored.pieces, *part):
        with piece.blob.path.open("rb") as file:
            for done in range(0, piece.length, step):
                size = min(step, piece.length - done)
                await limits.take(size)
                if request.transport is None:
                    raise HungUpError
                await loop.sendfile(request.transport, file, piece.offset + done, size)
