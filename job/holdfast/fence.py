"""Which attempt owns a checkpoint directory: `attempt.json`, replaced as a whole and only if it is still what was read.

Orphans of an earlier attempt can outlive a requeue, so each publication and each deletion asks the fence first. A token
that is new for each taking decides; attempt numbers decide who may take it: within one job an older attempt may not
take it from a newer one. Another job (or a run outside Slurm) that is given the same directory takes over, but no task of an array
from another task of it: those run at the same time.

Each taking has a *turn*, larger than any before in this directory: an attempt's number, or one more than the last turn where the same
attempt (or another job) takes it again. Folders carry the turn, so no two takings ever write to the same one.

On a file system nobody can take the fence while it is held. An object store has no locks: there an orphan may have asked
just before it lost the fence, and publish or delete one moment later. That is harmless: it writes and publishes folders
of its own turn's name only, whole ones or such as do not verify, and deletes only what is older than the newest that it kept.

attempt.json keys: v (1), job_id, array (the array's job id, or empty), attempt, turn, token, node, pid, taken (Unix seconds).
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.errors import Fenced, ProtocolError, StoreError
from holdfast.files import LIMIT_BYTES
from holdfast.store.base import Store
from holdfast.store.files import FileStore

NAME = "attempt.json"
MOST_RIVALS = 32


@dataclass(frozen=True)
class Owner:
    """The attempt that the fence names."""

    job_id: str
    attempt: int
    token: str
    turn: int = 0
    array: str = ""

    def __str__(self) -> str:
        return f"attempt {self.attempt} of job {self.job_id}" if self.job_id else f"run {self.attempt} outside Slurm"


def read_owner(directory: Path | Store) -> Owner | None:
    """The owner of a checkpoint directory; None where nobody has taken it. Raises ProtocolError if it is malformed, OSError."""
    store = _store(directory)
    found = store.load(NAME, LIMIT_BYTES)
    return None if found is None else _parse(found[0], store.place(NAME))


def _store(directory: Path | Store) -> Store:
    return FileStore(directory) if isinstance(directory, Path) else directory


def _parse(data: bytes, place: str) -> Owner:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise ProtocolError(f"{place}: not JSON") from fault
    if not isinstance(content, dict):
        raise ProtocolError(f"{place}: not an object")
    job_id, attempt, token = content.get("job_id"), content.get("attempt"), content.get("token")
    if not isinstance(job_id, str) or type(attempt) is not int or not isinstance(token, str):
        raise ProtocolError(f"{place}: job_id, attempt or token has a wrong type")
    turn, array = content.get("turn", attempt), content.get("array", "")
    if type(turn) is not int or not isinstance(array, str):
        raise ProtocolError(f"{place}: turn or array has a wrong type")
    return Owner(job_id, attempt, token, turn, array)


class Fence:
    """This process's claim on a checkpoint directory (rank 0 holds it for all ranks).

    `previous` is the owner that was superseded, or None.
    """

    def __init__(self, directory: Path | Store, clock: Clock) -> None:
        self._store = _store(directory)
        self._clock = clock
        self.owner = Owner("", 0, "")
        self.previous: Owner | None = None

    def take(self, job_id: str, attempt: int | None, array: str = "") -> Owner:
        """Own the directory from now on, durably. `attempt` None: one more than the last.

        Raises Fenced if a newer attempt of the same job owns it, or another task of the array; StoreError, OSError.
        """
        with self._store.locked(self._clock):
            for _ in range(MOST_RIVALS):
                if self._try(job_id, attempt, array):
                    return self.owner
        raise StoreError(f"{self._store.place(NAME)} changes all the time: too many processes use this directory at once")

    def _try(self, job_id: str, attempt: int | None, array: str) -> bool:
        """Read and replace; False where another process came in between."""
        last, version = self._read()
        if attempt is None:
            attempt = last.attempt + 1 if last is not None else 0
        if last is not None and last.job_id == job_id and last.attempt > attempt:
            raise Fenced(f"{last} owns {self._store.location}; this is attempt {attempt}")
        if last is not None and last.job_id != job_id and array and last.array == array:
            raise Fenced(f"{last}, another task of the array {array}, owns {self._store.location}: give each task a directory of its own")
        turn = attempt if last is None else max(attempt, last.turn + 1)
        owner = Owner(job_id, attempt, uuid.uuid4().hex, turn, array)
        content = {"v": 1, **asdict(owner), "node": os.uname().nodename, "pid": os.getpid(), "taken": self._clock.wall()}
        if not self._store.swap(NAME, json.dumps(content).encode(), version):
            return False
        self.previous, self.owner = last, owner
        return True

    def _read(self) -> tuple[Owner | None, Any]:
        found = self._store.load(NAME, LIMIT_BYTES)
        if found is None:
            return None, None
        try:
            return _parse(found[0], NAME), found[1]
        except ProtocolError:
            return None, found[1]  # replaced as a whole, so only a damaged disk gets here; the directory is still the job's

    def check(self) -> None:
        """Raises Fenced if this process owns the directory no longer, ProtocolError or OSError if that is unknown."""
        owner = read_owner(self._store)
        if owner is None:
            raise Fenced(f"{self._store.place(NAME)} is gone: whose directory it is can no longer be told")
        if owner.token != self.owner.token:
            raise Fenced(f"{owner} has taken over {self._store.location} from {self.owner}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Own the directory for the length of the block: on a file system nobody takes it meanwhile. Raises as `check` does."""
        with self._store.locked(self._clock):
            self.check()
            yield
