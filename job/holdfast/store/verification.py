"""Reading a checkpoint's manifest from a store, and checking that its files are what the manifest says."""

import os
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

from holdfast import manifest
from holdfast.errors import BadCheckpointError, ProtocolError
from holdfast.hashing import hasher
from holdfast.manifest import FileEntry, Manifest
from holdfast.store.base import Chunk, Progress, Store

FILES_AT_ONCE = 4


class Meter:
    """Adds up bytes from several threads for a progress callback."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes, and tell."""
        with self._lock:
            self._done_bytes += count
            if self._progress is not None:
                self._progress(self._done_bytes, self._total_bytes)


def read_manifest(store: Store, folder: str) -> Manifest:
    """A checkpoint's manifest. Raises FileNotFoundError where there is none, BadCheckpointError, HoldfastError, OSError."""
    try:
        return manifest.parse(store.read(f"{folder}/{manifest.NAME}", manifest.LIMIT_BYTES))
    except ProtocolError as fault:
        raise BadCheckpointError(manifest.NAME, str(fault)) from fault


def wanted(content: Manifest, names: Collection[str] | None) -> dict[str, FileEntry]:
    """The manifest's entries of these names; all for None."""
    return {name: entry for name, entry in content.files.items() if names is None or name in names}


def hashed(store: Store, folder: str, name: str, entry: FileEntry, algorithm: str, meter: Meter) -> Iterator[Chunk]:
    """A file's content, checked on the way. Raises BadCheckpointError, at the latest after the last chunk."""
    state, size_bytes = hasher(algorithm), 0
    try:
        for chunk in store.chunks(f"{folder}/{name}"):
            state.update(chunk)
            size_bytes += len(chunk)
            if size_bytes > entry.bytes:
                raise BadCheckpointError(name, f"more bytes than the {entry.bytes} of the manifest")
            meter.add(len(chunk))
            yield chunk
    except (FileNotFoundError, NotADirectoryError) as fault:
        raise BadCheckpointError(name, "the file is missing") from fault
    if size_bytes != entry.bytes:
        raise BadCheckpointError(name, f"{size_bytes} bytes where the manifest says {entry.bytes}")
    if state.hexdigest() != entry.hash:
        raise BadCheckpointError(name, f"its {algorithm} hash is not the manifest's")


def check_sizes(store: Store, folder: str, entries: dict[str, FileEntry]) -> None:
    """Look for files that are missing or of another size, without reading any. Raises BadCheckpointError, OSError."""
    found = store.files(folder)
    for name, entry in entries.items():
        if name not in found:
            raise BadCheckpointError(name, "the file is missing")
        if found[name] is None:
            raise BadCheckpointError(name, "not a regular file")
        if found[name] != entry.bytes:
            raise BadCheckpointError(name, f"{found[name]} bytes where the manifest says {entry.bytes}")


def check_held(store: Store, folder: str, content: Manifest) -> None:
    """Check that the store holds all files, without reading them where it knows their digests. Raises BadCheckpointError, OSError."""
    for name, entry in content.files.items():
        if not store.holds(f"{folder}/{name}", entry.bytes, f"{content.algorithm}:{entry.hash}"):
            raise BadCheckpointError(name, "the file is missing, or another one")


def verify(store: Store, folder: str, content: Manifest, names: Collection[str] | None = None, progress: Progress | None = None) -> None:
    """Check sizes, then hashes, of all files (or of `names`), several at a time.

    Raises BadCheckpointError naming the first faulty file of the manifest's order, HoldfastError where a hash is not installed. Another
    OSError passes through: a file that cannot be read now is not known to be bad.
    """
    entries = wanted(content, names)
    check_sizes(store, folder, entries)
    meter = Meter(sum(entry.bytes for entry in entries.values()), progress)
    stop = threading.Event()

    def one(name: str) -> None:
        for _ in hashed(store, folder, name, entries[name], content.algorithm, meter):
            if stop.is_set():
                return

    threads = min(FILES_AT_ONCE, len(entries), (os.cpu_count() or 1) + 1)
    if threads < 2:
        for name in entries:
            one(name)
        return
    with ThreadPoolExecutor(threads, "holdfast-verify") as pool:
        outcomes = [pool.submit(one, name) for name in sorted(entries, key=lambda name: -entries[name].bytes)]
        try:
            for outcome in outcomes:
                outcome.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
