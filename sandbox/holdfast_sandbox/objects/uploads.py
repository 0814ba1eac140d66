"""Multipart uploads: from their parts to an object."""

import hashlib
from collections.abc import Mapping, Sequence

from holdfast_sandbox.objects import checksums
from holdfast_sandbox.objects.body import DEFAULT, Received
from holdfast_sandbox.objects.buckets import Stored, Upload
from holdfast_sandbox.objects.errors import StoreError
from holdfast_sandbox.objects.wire import number

PART_NUMBER_MAX = 10_000
FULL_OBJECT = "FULL_OBJECT"


def begun(key: str, headers: Mapping[str, str], own: Mapping[str, str], now: float) -> Upload:
    """An upload as a request's headers ask for it; `own` are those that stay with the object. Raises StoreError."""
    algorithm = headers.get("x-amz-checksum-algorithm", "").lower() or None
    if algorithm is not None:
        checksums.digest(algorithm)
    kind = headers.get("x-amz-checksum-type", "").upper() or (FULL_OBJECT if algorithm in (None, DEFAULT) else "COMPOSITE")
    if kind not in (FULL_OBJECT, "COMPOSITE") or (kind == FULL_OBJECT) > (algorithm is None or algorithm in checksums.CRCS):
        raise StoreError("InvalidRequest", f"The {kind[:20]} checksum type cannot be used with the {algorithm} checksum algorithm.")
    return Upload(key, algorithm, kind, own, now)


def part_number(query: Mapping[str, str]) -> int:
    """The part number of a query. Raises StoreError."""
    part = number(query, "partNumber", 0, PART_NUMBER_MAX + 1)
    if not 1 <= part <= PART_NUMBER_MAX:
        raise StoreError("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    return part


def completed(upload: Upload, wanted: Sequence[Mapping[str, str]], headers: Mapping[str, str], min_part_bytes: int) -> Stored:
    """The object that CompleteMultipartUpload asks for. Raises StoreError."""
    parts = _parts(upload, wanted)
    if any(part.piece.length < min_part_bytes for part in parts[:-1]):
        raise StoreError("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    algorithm, kind = upload.algorithm or DEFAULT, upload.checksum_type or FULL_OBJECT
    if kind == FULL_OBJECT:
        value = checksums.full_object(algorithm, [(part.values[algorithm], part.piece.length) for part in parts])
    else:
        value = checksums.composite(algorithm, [part.values[algorithm] for part in parts])
    said = headers.get(f"x-amz-checksum-{algorithm}", value)
    if said.partition("-")[0] != value.partition("-")[0]:
        raise StoreError("BadDigest", f"The {algorithm.upper()} you specified did not match the calculated checksum.")
    size = headers.get("x-amz-mp-object-size")
    if size is not None and size != str(sum(part.piece.length for part in parts)):
        raise StoreError("InvalidRequest", "The provided 'x-amz-mp-object-size' header does not match what was computed.")
    crc32c = checksums.full_object("crc32c", [(part.values["crc32c"], part.piece.length) for part in parts])
    joined = hashlib.md5("".join(part.etag for part in parts).encode(), usedforsecurity=False).hexdigest()
    return Stored([part.piece for part in parts], f'"{joined}-{len(parts)}"', algorithm, value, kind, crc32c, upload.headers)


def _parts(upload: Upload, wanted: Sequence[Mapping[str, str]]) -> list[Received]:
    if not wanted:
        raise StoreError("MalformedXML", "You must specify at least one part")
    numbers = [number(each, "PartNumber", 0, PART_NUMBER_MAX) for each in wanted]
    if numbers != sorted(set(numbers)):
        raise StoreError("InvalidPartOrder", "The list of parts was not in ascending order.")
    found: list[Received] = []
    for part, each in zip(numbers, wanted, strict=True):
        if part not in upload.parts:
            raise StoreError("InvalidPart", f"Part {part} could not be found.")
        received = upload.parts[part][0]
        named = {name.lower().removeprefix("checksum"): value for name, value in each.items() if name.startswith("Checksum")}
        wrong = [
            name for name, value in named.items() if name in received.values and received.values[name] != checksums.decoded(name, value)
        ]
        if each.get("ETag", "").strip('"') != received.etag.strip('"') or wrong:
            raise StoreError("InvalidPart", f"Part {part} is not the one that was uploaded.")
        found.append(received)
    return found
