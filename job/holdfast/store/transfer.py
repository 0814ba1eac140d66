"""Copying a checkpoint's files from one store to another, checked against the manifest on the way."""

from collections.abc import Collection

from holdfast.manifest import Manifest
from holdfast.store.base import Progress, Store
from holdfast.store.verification import Meter, hashed, wanted


def copy_files(
    source: Store, target: Store, folder: str, content: Manifest, names: Collection[str] | None = None, progress: Progress | None = None
) -> None:
    """Copy a checkpoint's files (or those of `names`), not its manifest: publishing is the caller's, once all ranks' files are there.

    A file that the target has already, complete, is not sent again. Raises BadCheckpointError where the source is bad, StoreError or
    OSError where either store fails; what was copied before stays there, for the next try.
    """
    entries = wanted(content, names)
    meter = Meter(sum(entry.bytes for entry in entries.values()), progress)
    for name, entry in entries.items():
        digest = f"{content.algorithm}:{entry.hash}"
        place = f"{folder}/{name}"
        if target.holds(place, entry.bytes, digest):
            meter.add(entry.bytes)
            continue
        target.write(place, hashed(source, folder, name, entry, content.algorithm, meter), entry.bytes, digest)
