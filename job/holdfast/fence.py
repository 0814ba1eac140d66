"""Which attempt owns a checkpoint directory: `attempt.json`, replaced as a whole under a lock.

Orphans of an earlier attempt can outlive a requeue, so each publication and each deletion asks the fence first. A token
that is new for each taking decides; attempt numbers decide who may take it: within one job an older attempt may not
take it from a newer one. Another job (or a run outside Slurm) that is given the same directory takes over.

attempt.json keys: v (1), job_id, attempt, token, node, pid, taken (Unix seconds).
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Fenced, ProtocolError
from holdfast.files import read_bounded, replace_durably

NAME = "attempt.json"
LOCK_NAME = "attempt.lock"
LOCK_WAIT_S = 10.0


@dataclass(frozen=True)
class Owner:
    """The attempt that the fence names."""

    job_id: str
    attempt: int
    token: str


def read_owner(directory: Path) -> Owner | None:
    """The owner of a checkpoint directory; None where nobody has taken it. Raises ProtocolError if it is malformed."""
    try:
        content = json.loads(read_bounded(directory / NAME))
    except FileNotFoundError:
        return None
    except ValueError as fault:
        raise ProtocolError(f"{directory / NAME}: not JSON") from fault
    if not isinstance(content, dict):
        raise ProtocolError(f"{directory / NAME}: not an object")
    job_id, attempt, token = content.get("job_id"), content.get("attempt"), content.get("token")
    if not isinstance(job_id, str) or type(attempt) is not int or not isinstance(token, str):
        raise ProtocolError(f"{directory / NAME}: job_id, attempt or token has a wrong type")
    return Owner(job_id, attempt, token)


class Fence:
    """This process's claim on a checkpoint directory (rank 0 holds it for all ranks).

    `previous` is the owner that was superseded, or None.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self.owner = Owner("", 0, "")
        self.previous: Owner | None = None

    def take(self, job_id: str, attempt: int | None) -> int:
        """Own the directory from now on, durably; returns this attempt's number (one more than the last for None).

        Raises Fenced if a newer attempt of the same job owns it, OSError.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            try:
                last = read_owner(self._directory)
            except ProtocolError:
                last = None  # replaced as a whole, so only a damaged disk gets here; the directory is still the job's
            if attempt is None:
                attempt = last.attempt + 1 if last is not None else 0
            if last is not None and last.job_id == job_id and last.attempt > attempt:
                raise Fenced(f"attempt {last.attempt} of job {job_id or '(none)'} owns {self._directory}; this is {attempt}")
            self.previous, self.owner = last, Owner(job_id, attempt, uuid.uuid4().hex)
            content = {"v": 1, "job_id": job_id, "attempt": attempt, "token": self.owner.token}
            content |= {"node": os.uname().nodename, "pid": os.getpid(), "taken": self._clock.wall()}
            replace_durably(self._directory / NAME, json.dumps(content).encode())
        return attempt

    def check(self) -> None:
        """Raises Fenced if this process owns the directory no longer, ProtocolError or OSError if that is unknown."""
        owner = read_owner(self._directory)
        if owner is None:
            raise Fenced(f"{self._directory / NAME} is gone: whose directory it is can no longer be told")
        if owner.token != self.owner.token:
            raise Fenced(
                f"attempt {owner.attempt} of job {owner.job_id or '(none)'} has taken over {self._directory}"
                f" from attempt {self.owner.attempt}"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Own the directory for the length of the block: nobody takes it meanwhile. Raises as `check` does."""
        with self._locked():
            self.check()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(fd)
            yield
        finally:
            os.close(fd)

    def _lock(self, fd: int) -> None:
        """Wait for the lock, but not for ever: a frozen process of a lost node must not stop the next attempt.

        Without it (or on a file system without locks) two attempts may interleave between check and rename; each still
        writes directories of its own name only, so the worst is a complete checkpoint too many.
        """
        give_up = self._clock.monotonic() + LOCK_WAIT_S
        while self._clock.monotonic() < give_up:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._clock.sleep(0.02)
            except OSError:
                return
            else:
                return
