"""Verifying a checkpoint by all ranks together: each reads some of the files, rather those that it is going to load."""

from collections.abc import Callable, Collection

from holdfast.errors import BadCheckpointError
from holdfast.manifest import Manifest
from holdfast.peers import Peers

Check = Callable[[Collection[str]], None]
"""Verifies the files of these names; raises BadCheckpointError, or another exception where one cannot be read."""


def share(content: Manifest, rank: int, world_size: int) -> set[str]:
    """The files that a rank verifies: those of the ranks whose shares it is likely to load."""
    return {name for name, entry in content.files.items() if entry.rank % world_size == rank}


def verify(content: Manifest, peers: Peers, check: Check) -> None:
    """Verify all files of a checkpoint. Called by all ranks, and ends on all alike.

    Raises BadCheckpointError if a file is not as the manifest says, wherever that was found; OSError if one cannot be read on
    some rank, which is not to say that it is bad.
    """
    faults = [fault for fault in peers.gather(_fault(share(content, peers.place.rank, peers.place.world_size), check)) if fault]
    for name, reason in faults:
        if name is not None:
            raise BadCheckpointError(name, reason)
    for _, reason in faults:
        raise OSError(reason)


def _fault(names: set[str], check: Check) -> tuple[str | None, str] | None:
    """The faulty file and the reason; no file where reading failed."""
    try:
        check(names)
    except BadCheckpointError as fault:
        return fault.file, fault.reason
    except Exception as fault:
        return None, f"{type(fault).__name__}: {fault}"
    return None
