"""`holdfast checkpoint prune`: a run's own retention, by hand."""

import contextlib
import json
import sys
from argparse import Namespace

from holdfast.cli.checkpoint_owner import live_owner
from holdfast.cli.checkpoint_progress import display
from holdfast.cli.checkpoint_text import plural
from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError
from holdfast.store.base import Progress, Store
from holdfast.store.location import open_store


class Pruner(CheckpointDirectory):
    """The library's rules; what goes is told before it goes, and with `dry` stays."""

    def __init__(self, store: Store, *, dry: bool, say: bool) -> None:
        super().__init__(store, lambda text: print(text, file=sys.stderr))
        self._dry = dry
        self._say = say
        self.gone: list[str] = []

    def is_sound(self, checkpoint: Checkpoint, progress: Progress | None) -> bool:
        """Whether a checkpoint is whole and verifies, by reading all of it; what is wrong with it is told."""
        try:
            return not self.check(checkpoint, progress).partial
        except (BadCheckpointError, OSError) as fault:
            print(f"{checkpoint.name}: {fault}", file=sys.stderr)
            return False

    def remove(self, checkpoint: Checkpoint) -> None:
        """Delete, and say so. Raises OSError."""
        if self._say:
            print(f"{'would delete' if self._dry else 'deleting'} {checkpoint.name}", flush=True)
        if not self._dry:
            super().remove(checkpoint)
        self.gone.append(checkpoint.name)


def prune(options: Namespace) -> int:
    """Prune; 1 where nothing may go because none of the newest verifies. Raises HoldfastError, OSError."""
    if options.checkpoint is not None:
        raise HoldfastError(f"prune takes a whole directory: {options.root}")
    store = open_store(options.root)
    if not options.force and not options.dry_run and (owner := live_owner(store)) is not None:
        raise HoldfastError(f"{store.location} belongs to a run that may be alive: {owner}; --force prunes all the same")
    pruner = Pruner(store, dry=options.dry_run, say=not options.json)
    with display(options.progress) as progress:  # reads for as long as it takes: not while others wait for the lock
        sound = any(pruner.is_sound(one, progress(f"verifying {one.name}")) for one in pruner.newest_whole(options.keep))
    if sound:
        with contextlib.nullcontext() if options.dry_run else store.locked(options.clock):
            pruner.prune(options.keep, options.keep_every)
    left = [one.name for one in pruner.published() if one.name not in pruner.gone]
    refused = not sound and len(left) > options.keep
    if options.json:
        print(json.dumps({"deleted": pruner.gone, "kept": left, "dry_run": options.dry_run}, indent=1))
    elif not refused:
        print(f"{plural(len(pruner.gone), 'checkpoint')} {'would be ' if options.dry_run else ''}deleted, {len(left)} kept")
    if refused:
        print("holdfast checkpoint: nothing is deleted: none of the newest is whole and verifies", file=sys.stderr)
    return int(refused)
