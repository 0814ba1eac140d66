"""Copying a checkpoint's files from one store to another, checked against the manifest on the way."""

from collections.abc import Collection

from holdfast.errors import StoreError
from holdfast.manifest import NAME, Manifest
from holdfast.store.base import Progress, Store
from holdfast.store.verification import Meter, hashed, read_manifest, wanted


def copy_files(
    source: Store, target: Store, folder: str, content: Manifest, names: Collection[str] | None = None, progress: Progress | None = None
) -> None:
    """Copy a checkpoint's files (or those of `names`), not its manifest: publishing is the caller's, once all ranks' files are there.

    Nothing is done where the target has published this very checkpoint. A file that the target has already, complete, is not sent again. Raises BadCheckpointError where the source is bad, StoreError or
    OSError where either store fails; what was copied before stays there, for the next try.
    """
    if target.exists(f"{folder}/{NAME}"):
        if read_manifest(target, folder) != content:
            raise StoreError(f"{target.place(folder)} is published already, with other content, and never written again")
        return
    entries = wanted(content, names)
    meter = Meter(sum(entry.bytes for entry in entries.values()), progress)
    for name, entry in entries.items():
        digest = f"{content.algorithm}:{entry.hash}"
        place = f"{folder}/{name}"
        if target.holds(place, entry.bytes, digest):
            meter.add(entry.bytes)
            continue
        target.write(place, hashed(source, folder, name, entry, content.algorithm, meter), entry.bytes, digest)
