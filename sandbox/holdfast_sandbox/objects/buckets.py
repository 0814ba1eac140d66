"""Buckets and what is in them: objects, multipart uploads, and the conditions under which they change. In memory; bodies are blobs."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast_sandbox.objects.blob import Piece
from holdfast_sandbox.objects.body import Received
from holdfast_sandbox.objects.errors import StoreError


@dataclass(frozen=True)
class Stored:
    """An object. Checksums are as headers carry them; `headers` are the client's own (Content-Type, x-amz-meta-…)."""

    pieces: Sequence[Piece]
    etag: str
    algorithm: str
    checksum: str
    checksum_type: str
    crc32c: str
    headers: Mapping[str, str]
    generation: int = 0
    modified: float = 0.0

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(piece.length for piece in self.pieces)


@dataclass
class Upload:
    """A multipart upload that is under way."""

    key: str
    algorithm: str | None
    checksum_type: str | None
    headers: Mapping[str, str]
    started: float
    parts: dict[int, tuple[Received, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """When a write may happen. Both None: always. `generation` is Cloud Storage's: 0 means that there is no object."""

    if_match: str | None = None
    if_none_match: str | None = None
    generation: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Condition":
        """The condition in a request's headers. Raises StoreError."""
        generation = headers.get("x-goog-if-generation-match")
        if generation is not None and not (generation.isascii() and generation.isdigit()):
            raise StoreError("InvalidArgument", "x-goog-if-generation-match is not a number.")
        return cls(headers.get("If-Match"), headers.get("If-None-Match"), None if generation is None else int(generation))

    def check(self, found: Stored | None) -> None:
        """Raises StoreError where it does not hold."""
        if self.if_none_match not in (None, "*"):
            raise StoreError("NotImplemented", "A write takes If-None-Match: * only.")
        if self.if_match is not None and found is None:
            raise StoreError("NoSuchKey", "The specified key does not exist.")
        held = not (self.if_none_match is not None and found is not None)
        if self.if_match is not None and found is not None:
            held = held and (self.if_match == "*" or self.if_match.strip('"') == found.etag.strip('"'))
        if self.generation is not None:
            held = held and self.generation == (0 if found is None else found.generation)
        if not held:
            raise StoreError("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")


class Bucket:
    """Objects and uploads of one bucket."""

    def __init__(self) -> None:
        self.created = time.time()
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self._generation = time.time_ns() // 1000

    def get(self, key: str) -> Stored:
        """An object; raises StoreError NoSuchKey."""
        found = self.objects.get(key)
        if found is None:
            raise StoreError("NoSuchKey", "The specified key does not exist.")
        return found

    def put(self, key: str, stored: Stored, condition: Condition) -> Stored:
        """Store an object if the condition holds. Raises StoreError."""
        condition.check(self.objects.get(key))
        self._generation += 1
        fresh = replace(stored, generation=self._generation, modified=time.time())
        self.objects[key] = fresh
        return fresh

    def delete(self, key: str, condition: Condition) -> None:
        """Remove an object; harmless where there is none. Raises StoreError."""
        if condition != Condition():
            condition.check(self.objects.get(key))
        self.objects.pop(key, None)

    def begin(self, upload: Upload) -> str:
        """Start a multipart upload; returns its id."""
        upload_id = secrets.token_urlsafe(24)
        self.uploads[upload_id] = upload
        return upload_id

    def upload(self, upload_id: str, key: str) -> Upload:
        """An upload that is under way; raises StoreError NoSuchUpload."""
        found = self.uploads.get(upload_id)
        if found is None or found.key != key:
            raise StoreError("NoSuchUpload", "The specified upload does not exist. It may have been aborted or completed.")
        return found


class Buckets:
    """All buckets."""

    def __init__(self, names: Sequence[str]) -> None:
        self.all = {name: Bucket() for name in names}

    def get(self, name: str) -> Bucket:
        """A bucket; raises StoreError NoSuchBucket."""
        found = self.all.get(name)
        if found is None:
            raise StoreError("NoSuchBucket", "The specified bucket does not exist")
        return found

    def create(self, name: str) -> None:
        """Make a bucket. Raises StoreError."""
        if name in self.all:
            raise StoreError(
                "BucketAlreadyOwnedByYou", "Your previous request to create the named bucket succeeded and you already own it."
            )
        self.all[name] = Bucket()

    def remove(self, name: str) -> None:
        """Remove an empty bucket. Raises StoreError."""
        if self.get(name).objects:
            raise StoreError("BucketNotEmpty", "The bucket you tried to delete is not empty")
        del self.all[name]
