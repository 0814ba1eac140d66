"""`holdfast checkpoint copy`: from any store to any other, checked while it is read, its manifest last."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable

from holdfast import manifest
from holdfast.cli.checkpoint import split
from holdfast.cli.checkpoint_progress import display
from holdfast.cli.checkpoint_rows import chosen, opened
from holdfast.cli.checkpoint_text import size
from holdfast.clock import Clock
from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError
from holdfast.store.base import Progress
from holdfast.store.transfer import copy_files
from holdfast.store.verification import check_sizes

COPIED, THERE = "copied", "there already"


def copy(options: Namespace) -> int:
    """Copy; 1 where the one that was asked for is bad, one of --all is, or there is none. Raises HoldfastError, OSError."""
    if split(options.target)[1] is not None:
        raise HoldfastError(f"DST is a directory or a prefix, in which checkpoints keep their names: {split(options.target)[0]}")
    source, target = opened(options.root), opened(options.target)
    if source.store.location == target.store.location:
        raise HoldfastError("SRC and DST are the same place")
    wanted = [one for _, one in chosen(source.store, options.checkpoint)] if options.checkpoint else source.published()
    done: list[dict[str, object]] = []
    bad = 0
    with display(options.progress) as progress:
        for checkpoint in wanted:
            try:
                said = _one(source, target, checkpoint, progress, options.clock)
            except BadCheckpointError as fault:
                bad += 1
                print(f"holdfast checkpoint: {checkpoint.name} is bad and is not copied: {fault}", file=sys.stderr)
                continue
            done.append(said)
            if not options.json:
                print(f"{said['name']}: {said['state']}, {size(int(str(said['bytes'])))}", flush=True)
            if not options.all:
                break
    if options.json:
        print(json.dumps(done, indent=1))
    if not done:
        print(f"holdfast checkpoint: no good checkpoint in {source.store.location}", file=sys.stderr)
    return int(not done or (options.all and bad > 0))


def _one(
    source: CheckpointDirectory,
    target: CheckpointDirectory,
    checkpoint: Checkpoint,
    progress: Callable[[str], Progress | None],
    clock: Clock,
) -> dict[str, object]:
    """Copy one checkpoint. Raises BadCheckpointError where the source is bad; nothing of it stays in the destination then."""
    name, content = checkpoint.name, source.read(checkpoint)
    data = source.store.read(f"{name}/{manifest.NAME}", manifest.LIMIT_BYTES)
    if manifest.parse(data) != content:
        raise HoldfastError(f"{checkpoint.location} changes while it is read")
    said: dict[str, object] = {"name": name, "location": target.store.place(name), "bytes": content.size_bytes, "state": COPIED}
    there = {one.name for one in target.set_aside()}
    if name in there:
        raise HoldfastError(f"{target.store.place(name)} was set aside as bad; remove it before another is copied there")
    if name in {one.name for one in target.published()}:
        if target.store.read(f"{name}/{manifest.NAME}", manifest.LIMIT_BYTES) != data:
            raise HoldfastError(f"{target.store.place(name)} is another checkpoint of the same name; nothing is overwritten")
        return said | {"state": THERE}
    try:
        copy_files(source.store, target.store, name, content, progress=progress(name))
    except BadCheckpointError:
        target.store.remove(name)
        raise
    with target.store.locked(clock):
        try:
            check_sizes(target.store, name, content.files)
        except BadCheckpointError as fault:
            raise HoldfastError(f"{target.store.place(name)}: {fault}: somebody else deletes files there; run it again") from fault
        target.store.publish(name, data)
    return said
