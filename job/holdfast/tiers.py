"""Where a checkpoint is written first, and where it outlives the node: often the same place."""

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.store import FileStore, Store, open_store

DIRECTORY_VARIABLE = "HOLDFAST_CHECKPOINT_DIR"
LOCAL = "local"
LOCAL_VARIABLE = "HOLDFAST_LOCAL_DIR"


@dataclass(frozen=True)
class Tiers:
    """`first` is a file system that every rank writes to; `durable` is where a checkpoint counts. One object where there is one tier."""

    first: FileStore
    durable: Store

    @property
    def one(self) -> bool:
        """Whether both are the same."""
        return self.first is self.durable

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which a save goes through them."""
        return (self.durable.tier,) if self.one else (LOCAL, self.durable.tier)

    @property
    def timeline_root(self) -> Path:
        """The directory for the attempts' own record: the durable one, unless that is an object store, which appends to nothing."""
        return self.durable.root if isinstance(self.durable, FileStore) else self.first.root


def tiers(directory: str | os.PathLike[str] | None, local: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Tiers:
    """From the arguments of `Run`, else $HOLDFAST_CHECKPOINT_DIR and $HOLDFAST_LOCAL_DIR, else ./checkpoints alone.

    An object store always has a first tier: without one given, a directory of this user's under $TMPDIR. Raises HoldfastError.
    """
    durable = open_store(_text(directory) or environ.get(DIRECTORY_VARIABLE) or _default(environ))
    first = _text(local) or environ.get(LOCAL_VARIABLE)
    if first:
        # one directory for each run: several may share a node's disk
        return Tiers(FileStore(Path(first).absolute() / _name(durable.location), local=True), durable)
    if isinstance(durable, FileStore):
        return Tiers(durable, durable)
    return Tiers(FileStore(Path(tempfile.gettempdir()) / f"holdfast-{os.getuid()}-{_name(durable.location)}", local=True), durable)


def _default(environ: Mapping[str, str]) -> str:
    """Tasks of a Slurm array run at the same time, each with a directory of its own."""
    task = environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"checkpoints/task-{task}" if task.isdecimal() else "checkpoints"


def make_private(root: Path) -> None:
    """Make a node's own directory, for this user only: what is read from it later is unpickled. Raises OSError, HoldfastError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = root.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise HoldfastError(f"{root} belongs to somebody else, or others may write there: give another local=")


def _text(value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else os.fspath(value)


def _name(location: str) -> str:
    return sha256(location.encode()).hexdigest()[:16]
