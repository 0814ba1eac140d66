"""`holdfast checkpoint ls|verify DIR [--json]`: what stands in a checkpoint directory, and whether it is sound.

DIR is a run's checkpoint directory or, for verify, one checkpoint in it. Reading only: nothing is renamed or deleted.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import manifest
from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError


@dataclass(frozen=True)
class Row:
    """One checkpoint as shown: `state` is `good`, `bad`, `unfinished`, `unverifiable`, `published` (ls) or `quarantined`."""

    name: str
    state: str
    step: int | None = None
    attempt: int | None = None
    bytes: int | None = None
    world_size: int | None = None
    file: str | None = None
    reason: str | None = None


def _row(directory: CheckpointDirectory, checkpoint: Checkpoint, *, whole: bool) -> Row:
    name, step, attempt = checkpoint.name, checkpoint.step, checkpoint.attempt
    if not checkpoint.published:
        return Row(name, "unfinished", step, attempt, reason=f"no {manifest.NAME}")
    try:
        content = directory.check(checkpoint) if whole else manifest.read(checkpoint.path)
    except BadCheckpointError as fault:
        return Row(name, "bad", step, attempt, file=fault.file, reason=fault.reason)
    except (HoldfastError, OSError) as fault:
        return Row(name, "unverifiable", step, attempt, reason=str(fault))
    return Row(name, "good" if whole else "published", step, attempt, content.size_bytes, content.world_size)


def _quarantined(path: Path) -> list[Row]:
    return [Row(found.name, "quarantined") for found in sorted(path.glob("bad-step-*")) if found.is_dir()]


def _rows(path: Path, *, whole: bool) -> list[Row]:
    single = re.fullmatch(r"step-(\d{8,18})\.a(\d{1,9})", path.name)
    if single:
        around = CheckpointDirectory(path.parent, lambda _text: None)
        return [_row(around, around.place(int(single[1]), int(single[2])), whole=whole)]
    directory = CheckpointDirectory(path, lambda _text: None)
    return [_row(directory, checkpoint, whole=whole) for checkpoint in directory.all()] + _quarantined(path)


def _print(rows: list[Row]) -> None:
    for row in rows:
        size = "" if row.bytes is None else f"{row.bytes:>14,} bytes, {row.world_size} rank{'s' if row.world_size != 1 else ''}"
        trouble = ": ".join(part for part in (row.file, row.reason) if part)
        print(f"{row.name:<28} {row.state:<12} {size}{trouble}".rstrip())


def main(argv: Sequence[str]) -> int:
    """Run `holdfast checkpoint`; 0 if all is sound, 1 if something is not (verify) or cannot be read."""
    parser = argparse.ArgumentParser(prog="holdfast checkpoint", description="List or verify the checkpoints of a run.")
    parser.add_argument("action", choices=("ls", "verify"), help="ls reads the manifests; verify reads and hashes every file")
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run's checkpoint directory; for verify also one checkpoint")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args(argv)
    path = options.directory.absolute()
    if not path.is_dir():
        print(f"holdfast checkpoint: {path} is not a directory", file=sys.stderr)
        return 1
    try:
        rows = _rows(path, whole=options.action == "verify")
    except OSError as fault:
        print(f"holdfast checkpoint: {path} cannot be read: {fault}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([vars(row) for row in rows], indent=1))
    else:
        _print(rows)
    return int(any(row.state in ("bad", "unverifiable") for row in rows))
