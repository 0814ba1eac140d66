"""Verifying a checkpoint by all ranks together: each hashes some of the files, with several threads."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdfast import manifest
from holdfast.errors import BadCheckpointError
from holdfast.manifest import Manifest
from holdfast.peers import Peers

MAX_THREADS = 4


def share(content: Manifest, rank: int, world_size: int) -> set[str]:
    """The files that a rank verifies: rather those that it wrote, since it is likely to read them, too."""
    return {name for name, entry in content.files.items() if entry.rank % world_size == rank}


def verify(folder: Path, content: Manifest, peers: Peers) -> None:
    """Verify all files of a checkpoint. Called by all ranks, and ends on all alike.

    Raises BadCheckpointError if a file is not as the manifest says (the first one in order of name, wherever it was found);
    OSError if one cannot be read on some rank, which is not to say that it is bad.
    """
    names = share(content, peers.place.rank, peers.place.world_size)
    faults = [fault for found in peers.gather(_faults(folder, content, names)) for fault in found]
    for name, reason, bad in sorted(faults):
        if bad:
            raise BadCheckpointError(name, reason)
    for name, reason, _ in sorted(faults):
        raise OSError(f"{name} cannot be read: {reason}")


def _faults(folder: Path, content: Manifest, names: set[str]) -> list[tuple[str, str, bool]]:
    """Name, reason, and whether it is bad or only unreadable, of each faulty file among `names`."""
    largest_first = sorted(names, key=lambda name: -content.files[name].bytes)
    with ThreadPoolExecutor(min(MAX_THREADS, len(os.sched_getaffinity(0)))) as pool:
        found = pool.map(lambda name: _fault(folder, content, name), largest_first)
        return [fault for fault in found if fault is not None]


def _fault(folder: Path, content: Manifest, name: str) -> tuple[str, str, bool] | None:
    try:
        manifest.verify(folder, content, {name})
    except BadCheckpointError as fault:
        return fault.file, fault.reason, True
    except Exception as fault:
        return name, f"{type(fault).__name__}: {fault}", False
    return None
