"""File systems: how full, whether read-only, and whether the checkpoint store is mounted and answers."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast_common.health.model import Sample

from holdfast_nodeagent.health.calls import Calls
from holdfast_nodeagent.health.mounts import is_mounted, turned_read_only

LIMIT_S = 5.0
"""A file system that takes longer to answer is taken to be gone."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One file system, by one path on it."""

    path: Path
    free_ratio: float
    free_bytes: int
    read_only: bool
    """The kernel has made it so."""


def look(path: Path) -> Disk:
    """Return how the path's file system is. May hang. Raises OSError.

    What users can have counts: blocks that are reserved for root are neither free nor there, as `df` has it. A file system without
    blocks (an overlay of nothing, a pseudo one) is empty.
    """
    found = os.statvfs(path)
    usable = found.f_blocks - found.f_bfree + found.f_bavail
    ratio = found.f_bavail / usable if usable else 1.0
    return Disk(path, ratio, found.f_bavail * found.f_frsize, turned_read_only(path))


def mount_fault(path: Path) -> str:
    """Return why the store is not there, empty: it is. May hang.

    statvfs goes to the server, where stat may be answered from what the client remembers; it also has an automounter mount.
    """
    try:
        os.statvfs(path)
        return "" if is_mounted(path) else "nothing is mounted there"
    except OSError as error:
        return error.strerror or str(error)


async def disk_samples(calls: Calls, paths: Sequence[Path], at: float) -> list[Sample]:
    """Look at all paths at once."""
    if not paths:
        return []
    disks, faults = [], []
    for path, found in zip(paths, await asyncio.gather(*(_look(calls, path) for path in paths)), strict=True):
        if isinstance(found, Disk):
            disks.append(found)
        else:
            faults.append(f"{path}: {found}")
    detail = "; ".join(faults)[:200]
    if not disks:
        names = ("disk_free_ratio", "disk_free_bytes", "read_only_filesystems")
        return [Sample(at, name, state="failed", detail=detail) for name in names]
    fullest = min(disks, key=lambda disk: disk.free_ratio)
    smallest = min(disks, key=lambda disk: disk.free_bytes)
    read_only = [str(disk.path) for disk in disks if disk.read_only]
    return [
        Sample(at, "disk_free_ratio", fullest.free_ratio, detail=str(fullest.path)),
        Sample(at, "disk_free_bytes", float(smallest.free_bytes), detail=str(smallest.path)),
        Sample(at, "read_only_filesystems", float(len(read_only)), detail=", ".join(read_only)[:200] or detail),
    ]


async def _look(calls: Calls, path: Path) -> Disk | str:
    try:
        return await calls.make(f"disk {path}", lambda: look(path), LIMIT_S)
    except TimeoutError:
        return "does not answer"
    except OSError as error:
        return error.strerror or str(error)


async def store_samples(calls: Calls, mounts: Sequence[Path], at: float) -> list[Sample]:
    """Look at all mounts of the checkpoint store at once."""
    if not mounts:
        return []
    faults = await asyncio.gather(*(_store(calls, path) for path in mounts))
    missing = [f"{path}: {fault}" for path, fault in zip(mounts, faults, strict=True) if fault]
    return [Sample(at, "checkpoint_store_missing", float(len(missing)), detail="; ".join(missing)[:200])]


async def _store(calls: Calls, path: Path) -> str:
    try:
        return await calls.make(f"mount {path}", lambda: mount_fault(path), LIMIT_S)
    except TimeoutError:
        return f"does not answer within {LIMIT_S:g} s"
