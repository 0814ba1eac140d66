"""Finding the newest checkpoint that verifies, and becoming its state, by all ranks together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import HoldfastError
from holdfast.fence import Fence
from holdfast.manifest import Manifest
from holdfast.peers import Peers, together
from holdfast.state import Training, load
from holdfast.store.transfer import copy_files
from holdfast.store.verification import verify
from holdfast.tiers import Tiers

SHARD_INDEX = ".metadata"


class Resumption:
    """One attempt's way back into a run. Every method is called by all ranks at the same point."""

    def __init__(self, tiers: Tiers, directory: CheckpointDirectory, fence: Fence, peers: Peers, warn: Callable[[str], None]) -> None:
        self._tiers = tiers
        self._directory = directory
        self._fence = fence
        self._peers = peers
        self._warn = warn
        self._leads = peers.place.rank == 0

    def run(self, training: Training, shards: Any, job_id: str, attempt: int) -> tuple[str, Manifest] | None:
        """Load the newest checkpoint that verifies; its name and manifest, or None where there is none.

        Raises Fenced, or HoldfastError on all ranks alike with the faulty rank's own exception as its cause there.
        """
        found = together(self._peers, "looking for a checkpoint", lambda: self._find(job_id, attempt), HoldfastError)[0]
        if found is None:
            return None
        name, content, base = found
        if base is not None:
            self._warn(f"the checkpoint {name} holds {', '.join(content.parts or ())} only: the rest comes from {base[0]}")
            self._become(training, shards, *base)
        self._become(training, shards, name, content)
        return name, content

    def _find(self, job_id: str, attempt: int) -> tuple[str, Manifest, tuple[str, Manifest] | None] | None:
        """Rank 0: what to load, and before a partial checkpoint the whole one before it."""
        if not self._leads:
            return None
        with self._fence.held():
            previous = self._fence.previous
            another_job = previous is not None and previous.job_id != job_id
            self._directory.sweep(attempt, every_attempt=another_job)
            found = self._directory.newest_verified(self._fetch)
            if found is None:
                return None
            base = self._directory.newest_verified(self._fetch, whole=True) if found[1].partial else None
        return found[0].name, found[1], None if base is None else (base[0].name, base[1])

    def _fetch(self, checkpoint: Checkpoint) -> Manifest:
        """Verify a checkpoint; where it has to be brought to this node, on the way."""
        if self._tiers.one:
            return self._directory.check(checkpoint)
        content = self._directory.read(checkpoint)
        copy_files(self._tiers.durable, self._tiers.first, checkpoint.name, content)
        return content

    def _become(self, training: Training, shards: Any, name: str, content: Manifest) -> None:
        self._bring(name, content)
        folder = self._tiers.first.root / name
        if shards is not None:
            self._load_shards(shards, folder, content)
        together(self._peers, f"loading {name}", lambda: self._load_rest(training, folder, content), HoldfastError)

    def _bring(self, name: str, content: Manifest) -> None:
        """With a tier of each node's own, one rank of each node copies what its node lacks; rank 0's has it already."""
        nodes = self._peers.gather(os.uname().nodename)
        mine = nodes[self._peers.place.rank]

        def copy() -> None:
            if nodes.index(mine) == self._peers.place.rank and mine != nodes[0]:
                copy_files(self._tiers.durable, self._tiers.first, name, content)

        if not self._tiers.one:
            together(self._peers, f"copying {name} to the nodes", copy, HoldfastError)

    def _load_shards(self, shards: Any, folder: Path, content: Manifest) -> None:
        if SHARD_INDEX not in content.files:
            self._warn(f"the checkpoint {folder.name} has no tensors of modules and optimizers: they start afresh")
            return
        for name in sorted(shards.load(folder)):
            if not content.partial:
                self._warn(f"the checkpoint has no state for {name}: it starts afresh")

    def _load_rest(self, training: Training, folder: Path, content: Manifest) -> None:
        rank = self._peers.place.rank
        first = next(name for name, entry in content.files.items() if entry.rank == 0 and name in ("rank0.pt", "rank0.pkl"))
        own = first.replace("rank0", f"rank{rank}")
        if self._tiers.one and rank != 0:  # rank 0 has just verified everything; another node may still read something else
            verify(self._tiers.first, folder.name, content, {first, own} & content.files.keys())
        shared = load(folder / first)
        mine = shared if rank == 0 else load(folder / own) if own in content.files else None
        for name, value in training.filed.items():
            if (folder / name).is_dir():
                value.load_files(folder / name)
            elif not content.partial:
                self._warn(f"the checkpoint has no files for {name}: it starts afresh")
        training.restore(shared, mine, self._warn)
