"""Copying a checkpoint's files from one store to another, checked against the manifest on the way."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from holdfast.errors import StoreError
from holdfast.manifest import NAME, FileEntry, Manifest
from holdfast.store.base import Progress, Store
from holdfast.store.verification import Meter, hashed, read_manifest, wanted

SMALL_BYTES = 4 * 1024 * 1024
SMALL_AT_ONCE = 8
"""Small files cost round trips, not bandwidth: several at once. Large ones go one by one, each in parts that are on the way at once."""


def copy_files(
    source: Store, target: Store, folder: str, content: Manifest, names: Collection[str] | None = None, progress: Progress | None = None
) -> None:
    """Copy a checkpoint's files (or those of `names`), not its manifest: publishing is the caller's, once all ranks' files are there.

    Nothing is done where the target has published this very checkpoint, and a file that it has already, complete, is not sent again.
    Raises BadCheckpointError where the source is bad, StoreError or OSError where either store fails; what was copied before stays there,
    for the next try.
    """
    if target.exists(f"{folder}/{NAME}"):
        if read_manifest(target, folder) != content:
            raise StoreError(f"{target.place(folder)} is published already, with other content, and never written again")
        return
    entries = wanted(content, names)
    meter = Meter(sum(entry.bytes for entry in entries.values()), progress)
    there = target.files(folder)

    def copy(name: str, entry: FileEntry) -> None:
        place, digest = f"{folder}/{name}", f"{content.algorithm}:{entry.hash}"
        if there.get(name) == entry.bytes and target.holds(place, entry.bytes, digest):
            meter.add(entry.bytes)
        else:
            target.write(place, hashed(source, folder, name, entry, content.algorithm, meter), entry.bytes, digest)

    small = {name: entry for name, entry in entries.items() if entry.bytes <= SMALL_BYTES}
    if len(small) > 1:
        with ThreadPoolExecutor(min(SMALL_AT_ONCE, len(small)), "holdfast-copy") as threads:
            outcomes = [threads.submit(copy, name, entry) for name, entry in small.items()]
            try:
                for outcome in outcomes:
                    outcome.result()
            finally:
                threads.shutdown(cancel_futures=True)
    for name, entry in entries.items():
        if len(small) <= 1 or name not in small:
            copy(name, entry)
