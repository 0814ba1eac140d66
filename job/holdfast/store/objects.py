"""Checkpoints in an object store, through obstore. Imported only where one is used.

Objects appear whole or not at all, there is no rename and no lock. So a manifest is created exclusively, the fence is replaced only if it
is still the one that was read, and a bad checkpoint is marked by an object beside it. An answer that is lost leaves open whether the
call took effect: then what is there is read and compared. obstore repeats what may be repeated (5xx, cut connections, time-outs).

Memory: 8 MiB parts, four on the way and one being filled, per file being copied (larger parts above 70 GiB per file).
"""

import contextlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

from holdfast import faults
from holdfast.clock import Clock
from holdfast.errors import ProtocolError, StoreError
from holdfast.hashing import hasher
from holdfast.store.base import MANIFEST, Chunk, Folder
from holdfast.store.files import FOLDER

PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 4
MOST_PARTS = 9000
MARK = "bad.json"
_CODE = re.compile(r"<Code>(\w{1,60})</Code>", re.ASCII)
DIGEST = "holdfast"
"""The metadata key under which an object's digest stands."""


class ObjectStore:
    """A bucket's prefix. `client` is one of obstore's stores.

    `checked`: the store compares each request's bytes with a checksum sent along (S3), so that an upload that it has accepted is right.
    Otherwise (Google, Azure: obstore sends them no checksum) `write` reads the object back once and hashes it.
    """

    durable = True

    def __init__(self, client: Any, location: str, tier: str, *, checked: bool = False) -> None:
        self._client = client
        self._checked = checked
        self.location = location
        self.tier = tier

    def place(self, name: str) -> str:
        """The URL."""
        return f"{self.location}/{name}"

    def folders(self) -> list[Folder]:
        """One listing of the prefix, and one for each checkpoint."""
        with self._naming(""):
            prefixes = obstore.list_with_delimiter(self._client)["common_prefixes"]
        found = []
        for name in prefixes:
            if FOLDER.fullmatch(name):
                files = self.files(name)
                found.append(Folder(name, MANIFEST in files, MARK in files))
        return found

    def files(self, folder: str) -> dict[str, int | None]:
        """Every object is a regular file."""
        with self._naming(folder):
            objects = obstore.list(self._client, folder, chunk_size=1000).collect()
        return {entry["path"].removeprefix(f"{folder}/"): entry["size"] for entry in objects}

    def exists(self, name: str) -> bool:
        """HEAD."""
        return self._head(name) is not None

    def written_at(self, name: str) -> float:
        """HEAD."""
        found = self._head(name)
        if found is None:
            raise FileNotFoundError(2, "no such object", self.place(name))
        return float(found.meta["last_modified"].timestamp())

    def read(self, name: str, limit_bytes: int) -> bytes:
        """One GET, given up where the answer says that it is too large."""
        return self._get(name, limit_bytes)[0]

    def chunks(self, name: str) -> Iterator[Chunk]:
        """Ranges of 8 MiB, four at once, all of the same version of the object."""
        with ThreadPoolExecutor(1, "holdfast-head") as thread:  # `write` may ask for chunks in a thread of obstore's, where it panics
            found = thread.submit(self._head, name).result()
        if found is None:
            raise FileNotFoundError(2, "no such object", self.place(name))
        size_bytes, e_tag = found.meta["size"], found.meta["e_tag"]

        def part(start: int) -> Chunk:
            end = min(start + PART_BYTES, size_bytes)
            with self._naming(name):
                options: Any = {"range": (start, end), "if_match": e_tag}
                data: Chunk = memoryview(obstore.get(self._client, name, options=options).bytes())
            if len(data) != end - start:
                raise StoreError(f"{self.place(name)}: {len(data)} bytes came where {end - start} were asked for")
            return data

        starts = deque(range(0, size_bytes, PART_BYTES))
        waiting: deque[Future[Chunk]] = deque()
        with ThreadPoolExecutor(PARTS_AT_ONCE, "holdfast-get") as threads:
            try:
                while starts or waiting:
                    while starts and len(waiting) < PARTS_AT_ONCE:
                        waiting.append(threads.submit(part, starts.popleft()))
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def holds(self, name: str, size_bytes: int, digest: str) -> bool:
        """By size and the digest in its metadata, which `write` gives it. HEAD."""
        found = self._head(name)
        return found is not None and found.meta["size"] == size_bytes and found.attributes.get(DIGEST) == digest

    def write(self, name: str, chunks: Iterator[Chunk], size_bytes: int, digest: str) -> None:
        """One PUT up to 8 MiB, else a multipart upload, which is aborted when it fails.

        S3 refuses a part that does not match its checksum; elsewhere the object is read back.
        """
        keys: dict[str, Any] = {"attributes": {DIGEST: digest}}
        pieces = (bytes(chunk) for chunk in chunks)  # obstore holds on to them while it sends
        if size_bytes > PART_BYTES:
            part_bytes = max(PART_BYTES, -(-size_bytes // MOST_PARTS))
            keys |= {"chunk_size": part_bytes, "max_concurrency": PARTS_AT_ONCE}
            content: Any = _pointed(pieces)
        else:
            content = b"".join(_pointed(pieces))
            keys |= {"use_multipart": False}
        try:
            with self._naming(name):
                obstore.put(self._client, name, content, **keys)
        except (StoreError, FileNotFoundError) as fault:  # the latter where the answer to an upload's end was lost, and it was asked again
            if not self._arrived(name, size_bytes, digest):
                self._give_up(name, fault)
        faults.point("copy-written")
        if not self.holds(name, size_bytes, digest):
            raise StoreError(
                f"{self.place(name)} is not there as it was sent, although the store accepted it; another client writes there?"
            )
        if not self._checked:
            self._read_back(name, digest)
        faults.point("copied")

    def _arrived(self, name: str, size_bytes: int, digest: str) -> bool:
        """Whether an upload that ended in an error took effect all the same."""
        with contextlib.suppress(OSError):
            return self.holds(name, size_bytes, digest)
        return False

    def _give_up(self, name: str, fault: OSError) -> NoReturn:
        if isinstance(fault, StoreError):
            raise fault
        raise StoreError(f"{self.place(name)}: there is no such bucket, or the upload is gone") from fault

    def _read_back(self, name: str, digest: str) -> None:
        algorithm, _, value = digest.partition(":")
        state = hasher(algorithm)
        for chunk in self.chunks(name):
            state.update(chunk)
        if state.hexdigest() != value:
            self._delete([name])
            raise StoreError(f"{self.place(name)} came back with another {algorithm} hash than was sent; deleted")

    def publish(self, folder: str, data: bytes) -> None:
        """An exclusive create (If-None-Match: *); where that fails, what is there decides."""
        name = f"{folder}/{MANIFEST}"
        faults.point("manifest-synced")
        if not self._put_if(name, data, "create"):
            if not self.exists(name):
                raise StoreError(f"{self.place(name)}: another request for it was under way; nothing was written")
            raise FileExistsError(17, "published already, and never written again", self.place(name))
        faults.point("published")

    def load(self, name: str, limit_bytes: int) -> tuple[bytes, dict[str, str]] | None:
        """The version is the object's e-tag, and its generation where it has one."""
        try:
            data, meta = self._get(name, limit_bytes)
        except FileNotFoundError:
            return None
        return data, {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}

    def swap(self, name: str, data: bytes, version: dict[str, str] | None) -> bool:
        """A conditional PUT (If-Match, or x-goog-if-generation-match)."""
        return self._put_if(name, data, "create" if version is None else version)

    def _put_if(self, name: str, data: bytes, mode: Any) -> bool:
        """Whether this content is what the store has now. Content must be nobody else's, for that to mean that we put it there."""
        try:
            with self._naming(name):
                obstore.put(self._client, name, data, mode=mode)
        except (FileExistsError, FileNotFoundError, StoreError) as fault:
            try:
                there = self.load(name, len(data))
            except ProtocolError:  # larger, so another's
                return False
            except OSError as trouble:
                raise StoreError(f"{fault}; and whether it was written cannot be seen: {trouble}") from fault
            if there is not None and there[0] == data:
                return True
            if isinstance(fault, FileExistsError):
                return False
            self._give_up(name, fault)
        return True

    def locked(self, clock: Clock) -> AbstractContextManager[None]:
        """There are no locks: `swap` and `publish` are exclusive by themselves."""
        return contextlib.nullcontext()

    def set_aside(self, folder: str, reason: bytes) -> str:
        """A mark beside it: there is no rename."""
        with self._naming(folder):
            obstore.put(self._client, f"{folder}/{MARK}", reason)
        faults.point("set-aside")
        return f"marked by {folder}/{MARK}"

    def remove(self, folder: str) -> None:
        """Manifest first, a mark last."""
        self._delete([f"{folder}/{MANIFEST}"])
        faults.point("removal-unpublished")
        names = self.files(folder)
        self._delete([f"{folder}/{name}" for name in names if name != MARK])
        if MARK in names:
            self._delete([f"{folder}/{MARK}"])
        faults.point("removal-done")

    def _delete(self, names: Sequence[str]) -> None:
        if names:
            with self._naming(names[0]), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._client, list(names))

    def _get(self, name: str, limit_bytes: int) -> tuple[bytes, Any]:
        with self._naming(name):
            found = obstore.get(self._client, name)
            if found.meta["size"] > limit_bytes:
                raise ProtocolError(f"{self.place(name)}: larger than {limit_bytes} bytes")
            return bytes(found.bytes()), found.meta

    def _head(self, name: str) -> Any:
        try:
            with self._naming(name):
                return obstore.get(self._client, name, options={"head": True})
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Faults of obstore as ours: FileNotFoundError, FileExistsError for an unmet condition, StoreError for the rest."""
        place = self.place(name).rstrip("/")
        try:
            yield
        except FileNotFoundError as fault:
            raise FileNotFoundError(2, "no such object", place) from fault
        except (AlreadyExistsError, PreconditionError) as fault:
            raise FileExistsError(17, "it is another one by now", place) from fault
        except (PermissionDeniedError, UnauthenticatedError) as fault:
            raise StoreError(f"{place}: the store refuses these credentials: {_cause(fault)}") from fault
        except BaseError as fault:
            raise StoreError(f"{place}: {_cause(fault)}") from fault


def _cause(fault: BaseException) -> str:
    """obstore's first line (the rest is debugging output), and the code that the store gave."""
    text = str(fault).strip()
    code = _CODE.search(text)
    first = text.split("\n", 1)[0].removeprefix("Generic ").partition(": <?xml")[0][:400]
    return first if code is None or code[1] in first else f"{first}: {code[1]}"


def _pointed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        faults.point("copy-partial")
