"""Finding the newest checkpoint that verifies, and becoming its state, by all ranks together."""

from collections.abc import Callable, Collection
from typing import Any

from holdfast.directory import Checkpoint, CheckpointDirectory
from holdfast.errors import BadCheckpointError, HoldfastError, StoreError
from holdfast.fence import Fence
from holdfast.manifest import Manifest
from holdfast.peers import Peers, together
from holdfast.state import Training, load, refuse_fresh
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

    def run(self, training: Training, shards: Any, turn: int) -> tuple[str, Manifest, int] | None:
        """Load the newest checkpoint that verifies; its name and manifest, and the bytes of a whole one. None where there is none.

        Raises Fenced, or HoldfastError on all ranks alike with the faulty rank's own exception as its cause there.
        """
        found = together(self._peers, "looking for a checkpoint", lambda: self._find(turn), HoldfastError)[0]
        if found is None:
            return None
        name, content, base = found
        if base is not None:
            self._warn(f"the checkpoint {name} holds {', '.join(content.parts or ())} only: the rest comes from {base[0]}")
            self._load_large(training, shards, *base, without=content.parts or ())
        self._load_large(training, shards, name, content, tell=base is None)
        together(self._peers, f"loading {name}", lambda: self._load_small(training, name, content), HoldfastError)
        return name, content, (content if base is None else base[1]).size_bytes

    def _find(self, turn: int) -> Found | None:
        """Rank 0 looks; all verify what it has found, each a share, until rank 0 is content."""
        if not self._leads:
            while (asked := self._peers.gather(None)[0]) is not None:
                self._verify(*asked)
            return None
        try:
            with self._fence.held():
                self._directory.sweep(turn)
            found = self._directory.newest_verified(self._check)
            if found is None:
                return None
            base = self._directory.newest_verified(self._check, whole_before=found[0]) if found[1].partial else None
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

    def _load_large(
        self, training: Training, shards: Any, name: str, content: Manifest, *, without: Collection[str] = (), tell: bool = True
    ) -> None:
        """Modules, optimizers and what objects wrote themselves, but those of `without`; `tell` of those without state."""
        folder = self._tiers.first.root / name
        absent: list[str] = []
        sharded = training.sharded.keys() - set(without)
        if SHARD_INDEX in content.files and shards is not None:
            absent += shards.load(folder, sharded)
        else:
            absent += sharded

        def load_filed() -> None:
            for key in training.filed.keys() - set(without):
                if (folder / key).is_dir():
                    training.filed[key].load_files(folder / key)
                else:
                    absent.append(key)

        together(self._peers, f"loading {name}", load_filed, HoldfastError)
        if tell:
            refuse_fresh(absent)
            for key in sorted(absent):
                self._warn(f"the checkpoint has no state for {key}: it starts afresh")
            for key in sorted(set(content.parts or ()) - training.sharded.keys() - training.filed.keys()):
                self._warn(f"the checkpoint has state for {key}, which this Run was not given")

    def _load_small(self, training: Training, name: str, content: Manifest) -> None:
        folder = self._tiers.first.root / name
        rank = self._peers.place.rank
        first = next(file for file, entry in content.files.items() if entry.rank == 0 and file in ("rank0.pt", "rank0.pkl"))
        own = first.replace("rank0", f"rank{rank}")
        shared = load(folder / first)
        mine = shared if rank == 0 else load(folder / own) if own in content.files else None
        training.restore(shared, mine, (content.world_size, self._peers.place.world_size), self._warn)
