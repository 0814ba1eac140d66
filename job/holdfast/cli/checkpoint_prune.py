"""`holdfast checkpoint prune`: a run's own retention, by hand."""

import contextlib
import json
import sys
from argparse import Namespace

from holdfast.cli.checkpoint_owner import live_owner
from holdfast.cli.checkpoint_progress import Progress, display
from holdfast.cli.checkpoint_text import plural
from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import HoldfastError
from holdfast.manifest import Manifest
from holdfast.store.base import Store
from holdfast.store.location import open_store


class Pruner(CheckpointDirectory):
    """The library's rules: at first a rehearsal, which verifies; then what goes is told before it goes, and with `dry` stays."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, lambda text: print(text, file=sys.stderr))
        self._dry = True
        self._say = False
        self.progress: Progress | None = None
        self.gone: list[str] = []

    def goes_on(self, *, dry: bool, say: bool) -> None:
        """The rehearsal is over."""
        self._dry, self._say, self.gone = dry, say, []

    def check(self, checkpoint: Checkpoint, progress: Progress | None = None) -> Manifest:
        """Verify, with progress. Raises as the library's does."""
        return super().check(checkpoint, progress or self.progress)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Delete, and say so. Raises OSError."""
        if self._say:
            print(f"{'would delete' if self._dry else 'deleting'} {checkpoint.name}", flush=True)
        if not self._dry:
            super().remove(checkpoint)
        self.gone.append(checkpoint.name)


def prune(options: Namespace) -> int:
    """Prune; 1 where nothing may go because none of those that stay verifies. Raises HoldfastError, OSError."""
    if options.checkpoint is not None:
        raise HoldfastError(f"prune takes a whole directory: {options.root}")
    store = open_store(options.root)
    if not options.force and not options.dry_run and (owner := live_owner(store)) is not None:
        raise HoldfastError(f"{store.location} belongs to a run that may be alive: {owner}; --force prunes all the same")
    pruner = Pruner(store)
    with display(options.progress) as progress:
        pruner.progress = progress("verifying one that stays")
        old = [one for one in pruner.published()[options.keep :] if not options.keep_every or one.step % options.keep_every]
        pruner.prune(options.keep, options.keep_every)  # reads for as long as it takes: not while others wait for the lock
    with contextlib.nullcontext() if options.dry_run else store.locked(options.clock):
        pruner.goes_on(dry=options.dry_run, say=not options.json)
        pruner.prune(options.keep, options.keep_every)
        left = [one.name for one in pruner.published() if one.name not in pruner.gone]
    refused = bool(old) and not pruner.gone
    if options.json:
        print(json.dumps({"deleted": pruner.gone, "kept": left, "dry_run": options.dry_run}, indent=1))
    elif not refused:
        print(f"{plural(len(pruner.gone), 'checkpoint')} {'would be ' if options.dry_run else ''}deleted, {len(left)} kept")
    if refused:
        print("holdfast checkpoint: nothing is deleted: none of those that would stay verifies", file=sys.stderr)
    return int(refused)
