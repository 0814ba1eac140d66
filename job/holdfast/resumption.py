"""Finding the newest checkpoint that verifies, and becoming its state, by all ranks together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError, StoreError
from holdfast.fence import Fence
from holdfast.manifest import Manifest
from holdfast.peers import Peers, together
from holdfast.state import Training, load
from holdfast.store.transfer import copy_files
from holdfast.store.verification import verify
from holdfast.tiers import Tiers

SHARD_INDEX = ".metadata"
Found = tuple[str, Manifest, tuple[str, Manifest] | None]
"""What to load: name and manifest, and of a partial checkpoint those of the whole one before it."""
Fault = tuple[str | None, str]


class Resumption:
    """One attempt's way back into a run. Every method is called by all ranks at the same point."""

    def __init__(
        self, tiers: Tiers, directory: CheckpointDirectory, fence: Fence, peers: Peers, mates: list[int], warn: Callable[[str], None]
    ) -> None:
        """`mates` are the ranks that see the same first tier as this one."""
        self._tiers = tiers
        self._directory = directory
        self._fence = fence
        self._peers, self._mates = peers, mates
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

    def _find(self, job_id: str, attempt: int) -> Found | None:
        """Rank 0 looks; all verify what it has found, each a share, until rank 0 is content."""
        if not self._leads:
            while (asked := self._peers.gather(None)[0]) is not None:
                self._verify(*asked)
            return None
        try:
            with self._fence.held():
                previous = self._fence.previous
                another_job = previous is not None and previous.job_id != job_id
                self._directory.sweep(attempt, every_attempt=another_job)
            found = self._directory.newest_verified(self._check)
            if found is None:
                return None
            base = self._directory.newest_verified(self._check, whole=True) if found[1].partial else None
        finally:
            self._peers.gather(None)
        return found[0].name, found[1], None if base is None else (base[0].name, base[1])

    def _check(self, checkpoint: Checkpoint) -> Manifest:
        """Rank 0: have all ranks verify a checkpoint. Raises BadCheckpointError, OSError."""
        content = self._directory.read(checkpoint)
        self._peers.gather((checkpoint.name, content))
        faults = [fault for fault in self._verify(checkpoint.name, content) if fault is not None]
        for name, reason in faults:
            if name is not None:
                raise BadCheckpointError(name, reason)
        for _, reason in faults:
            raise StoreError(reason)  # which is not to say that it is bad
        return content

    def _verify(self, name: str, content: Manifest) -> list[Fault | None]:
        """Every rank's finding: the faulty file and the reason; no file where reading failed."""
        found: Fault | None = None
        try:
            self._verify_share(name, content)
        except BadCheckpointError as fault:
            found = fault.file, fault.reason
        except Exception as fault:
            found = None, f"{type(fault).__name__}: {fault}"
        return self._peers.gather(found)

    def _verify_share(self, name: str, content: Manifest) -> None:
        """Of a shared directory the files that this rank is the likeliest to load; otherwise each node brings all to its own disk."""
        rank, world_size = self._peers.place.rank, self._peers.place.world_size
        if self._tiers.one:
            share = {file for file, entry in content.files.items() if entry.rank % world_size == rank}
            verify(self._tiers.first, name, content, share)
        elif rank == self._mates[0]:
            copy_files(self._tiers.durable, self._tiers.first, name, content)

    def _become(self, training: Training, shards: Any, name: str, content: Manifest) -> None:
        folder = self._tiers.first.root / name
        if shards is not None:
            self._load_shards(shards, folder, content)
        together(self._peers, f"loading {name}", lambda: self._load_rest(training, folder, content), HoldfastError)

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
        shared = load(folder / first)
        mine = shared if rank == 0 else load(folder / own) if own in content.files else None
        for name, value in training.filed.items():
            if (folder / name).is_dir():
                value.load_files(folder / name)
            elif not content.partial:
                self._warn(f"the checkpoint has no files for {name}: it starts afresh")
        training.restore(shared, mine, (content.world_size, self._peers.place.world_size), self._warn)
