"""ListObjectsV2, ListParts and ListMultipartUploads."""

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from holdfast_sandbox.objects.buckets import Bucket, Stored, Upload
from holdfast_sandbox.objects.errors import StoreError
from holdfast_sandbox.objects.wire import Content, iso, number

KEYS_MAX = 1000


def objects(name: str, bucket: Bucket, query: Mapping[str, str]) -> dict[str, Content]:
    """One page of ListObjectsV2. Raises StoreError."""
    if query.get("list-type") != "2":
        raise StoreError("NotImplemented", "Only list-type=2 is served.")
    prefix, delimiter, most = query.get("prefix", ""), query.get("delimiter", ""), number(query, "max-keys", KEYS_MAX, KEYS_MAX)
    after = _from_token(query["continuation-token"]) if "continuation-token" in query else query.get("start-after", "")
    page: list[tuple[str, Stored | None]] = []
    more = False
    for name_or_prefix, stored in _names(bucket, prefix, delimiter, after):
        if len(page) == most:
            more = True
            break
        page.append((name_or_prefix, stored))
    escape = (lambda text: quote(text, safe="/")) if query.get("encoding-type") == "url" else str
    return {
        "Name": name,
        "Prefix": escape(prefix),
        "Delimiter": escape(delimiter) or None,
        "EncodingType": query.get("encoding-type"),
        "MaxKeys": most,
        "KeyCount": len(page),
        "IsTruncated": "true" if more else "false",
        "ContinuationToken": query.get("continuation-token"),
        "NextContinuationToken": _token(page[-1][0]) if more and page else None,
        "StartAfter": query.get("start-after"),
        "Contents": [_entry(escape(key), stored) for key, stored in page if stored is not None],
        "CommonPrefixes": [{"Prefix": escape(key)} for key, stored in page if stored is None],
    }


def _names(bucket: Bucket, prefix: str, delimiter: str, after: str) -> Iterator[tuple[str, Stored | None]]:
    """Keys with their objects, and common prefixes (None), in the order of their UTF-8, each once."""
    last = None
    for key in sorted((key for key in bucket.objects if key.startswith(prefix)), key=str.encode):
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        found = key if end < 0 else key[: end + len(delimiter)]
        if found != last and found.encode() > after.encode():
            last = found
            yield found, (bucket.objects[key] if end < 0 else None)


def _entry(key: str, stored: Stored) -> dict[str, Content]:
    return {
        "Key": key,
        "LastModified": iso(stored.modified),
        "ETag": stored.etag,
        "ChecksumAlgorithm": stored.algorithm.upper(),
        "ChecksumType": stored.checksum_type,
        "Size": stored.size,
        "StorageClass": "STANDARD",
        "Generation": stored.generation,
    }


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _from_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError:
        raise StoreError("InvalidArgument", "The continuation token provided is incorrect") from None


def parts(name: str, upload_id: str, upload: Upload, query: Mapping[str, str]) -> dict[str, Content]:
    """One page of ListParts. Raises StoreError."""
    most, marker = number(query, "max-parts", KEYS_MAX, KEYS_MAX), number(query, "part-number-marker", 0, 10_000)
    found = [item for item in sorted(upload.parts.items()) if item[0] > marker]
    page = found[:most]
    return {
        "Bucket": name,
        "Key": upload.key,
        "UploadId": upload_id,
        "PartNumberMarker": marker,
        "NextPartNumberMarker": page[-1][0] if page else None,
        "MaxParts": most,
        "IsTruncated": "true" if len(found) > most else "false",
        "Part": [
            {"PartNumber": part, "LastModified": iso(when), "ETag": received.etag, "Size": received.piece.length}
            for part, (received, when) in page
        ],
        "StorageClass": "STANDARD",
    }


def uploads(name: str, bucket: Bucket, query: Mapping[str, str]) -> dict[str, Content]:
    """ListMultipartUploads, in one page."""
    prefix = query.get("prefix", "")
    found = sorted((upload.key, upload.started, upload_id) for upload_id, upload in bucket.uploads.items() if upload.key.startswith(prefix))
    return {
        "Bucket": name,
        "Prefix": prefix,
        "MaxUploads": KEYS_MAX,
        "IsTruncated": "false",
        "Upload": [{"Key": key, "UploadId": upload_id, "Initiated": iso(started)} for key, started, upload_id in found],
    }
