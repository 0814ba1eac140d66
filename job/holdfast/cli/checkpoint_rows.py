"""`holdfast checkpoint ls` and `verify`."""

import functools
import json
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

from holdfast import manifest
from holdfast.cli.checkpoint_progress import display
from holdfast.cli.checkpoint_text import age, size, table
from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError
from holdfast.store.base import Folder, Progress, Store
from holdfast.store.location import open_store

_NUMBERS = re.compile(r"step-(\d+)\.a(\d+)", re.ASCII)
UNSOUND = ("bad", "unverifiable")


@dataclass(frozen=True)
class Row:
    """One checkpoint as shown: `state` is `published` (ls) or `good`, `bad`, `unfinished`, `unverifiable`, `quarantined`."""

    name: str
    state: str
    step: int | None = None
    attempt: int | None = None
    bytes: int | None = None
    world_size: int | None = None
    age_s: float | None = None
    tier: str | None = None
    partial: bool | None = None
    file: str | None = None
    reason: str | None = None


def opened(location: str) -> CheckpointDirectory:
    """The directory at a path or URL; what a user should know goes to stderr. Raises HoldfastError."""
    return CheckpointDirectory(open_store(location), lambda text: print(text, file=sys.stderr))


def chosen(store: Store, name: str | None) -> list[tuple[Folder, Checkpoint]]:
    """All checkpoints, newest first and those set aside last; or the one of that name. One listing of the store.

    Raises HoldfastError where there is none of that name, OSError.
    """
    found = []
    for folder in store.folders():
        match = _NUMBERS.search(folder.name)
        if match and name in (None, folder.name):
            found.append((folder, Checkpoint(int(match[1]), int(match[2]), folder.name, store)))
    if name is not None and not found:
        raise HoldfastError(f"there is no {name} in {store.location}")
    return sorted(found, key=lambda pair: (pair[0].bad, -pair[1].step, -pair[1].attempt))


def ls(options: Namespace) -> int:
    """List; 1 where a manifest is bad or cannot be read."""
    return _rows(options, lambda directory, one, _progress: directory.read(one), "published")


def verify(options: Namespace) -> int:
    """Verify; 1 where something is not sound, or there is nothing to verify."""
    return _rows(options, lambda directory, one, progress: directory.check(one, progress), "good")


Look = Callable[[CheckpointDirectory, Checkpoint, Progress | None], manifest.Manifest]


def _rows(options: Namespace, look: Look, sound: str) -> int:
    directory = opened(options.root)
    rows = []
    with display(getattr(options, "progress", False)) as progress:
        for folder, one in chosen(directory.store, options.checkpoint):
            if folder.bad and options.checkpoint is None:
                row = Row(one.name, "quarantined", one.step, one.attempt)
            elif not folder.published:
                row = Row(one.name, "unfinished", one.step, one.attempt, reason=f"no {manifest.NAME}")
            else:
                row = _row(one, functools.partial(look, directory, one, progress(one.name)), sound)
            rows.append(Row(**{**vars(row), "age_s": _age_s(one, options.clock.wall()), "tier": directory.store.tier}))
    _print(rows, options.json)
    if not rows:
        print(f"there is no checkpoint in {directory.store.location}", file=sys.stderr)
    unsound = any(row.state in UNSOUND for row in rows)
    return int(unsound or (sound == "good" and not any(row.state == "good" for row in rows)))


def _row(one: Checkpoint, look: Callable[[], manifest.Manifest], sound: str) -> Row:
    try:
        content = look()
    except BadCheckpointError as fault:
        return Row(one.name, "bad", one.step, one.attempt, file=fault.file, reason=fault.reason)
    except (HoldfastError, OSError) as fault:
        return Row(one.name, "unverifiable", one.step, one.attempt, reason=str(fault))
    reason = f"holds {', '.join(content.parts or ())} only" if content.partial else None
    return Row(one.name, sound, one.step, one.attempt, content.size_bytes, content.world_size, partial=content.partial, reason=reason)


def _age_s(one: Checkpoint, now: float) -> float | None:
    """Since the manifest was written (or, without one, the folder changed); None where the store does not tell."""
    for name in (f"{one.name}/{manifest.NAME}", one.name):
        try:
            return round(max(0.0, now - one.store.written_at(name)), 1)
        except OSError:
            continue
    return None


def _print(rows: list[Row], as_json: bool) -> None:
    if as_json:
        print(json.dumps([vars(row) for row in rows], indent=1))
        return
    if not rows:
        return
    cells = [["CHECKPOINT", "STATE", "STEP", "ATTEMPT", "SIZE", "AGE", "RANKS", "TIER", ""]]
    for row in rows:
        numbers = ["-" if value is None else str(value) for value in (row.step, row.attempt)]
        more = ["-" if row.bytes is None else size(row.bytes), "-" if row.age_s is None else age(row.age_s), str(row.world_size or "-")]
        cells.append([row.name, row.state, *numbers, *more, row.tier or "-", ": ".join(part for part in (row.file, row.reason) if part)])
    print(table(cells, right=(2, 3, 4, 5, 6)))
