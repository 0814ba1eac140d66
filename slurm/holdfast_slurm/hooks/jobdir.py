"""The directories through which a job and its node talk: `<run_dir>/jobs/<job_id>.<attempt>/{node,job}`.

Standard library only: Prolog and Epilog import it with `python -I -S`. All work is done relative to open directories and never
follows a link. `jobs/` and `<job_id>.<attempt>/` belong to root, so that a user can plant nothing where root works; only what
is below `job/` is the user's. The directory of an ended attempt becomes `.gone-<job_id>.<attempt>`, so that the agent can
still read a job's last words, and is removed a minute later.

The directory of the next attempt is made by Epilog when a job is requeued. slurmd 22.05 skips Prolog when a job comes back to a node
within two seconds (6 of 14 requeues, on all nodes of the job, also with PrologFlags=Alloc): it forgets the old run's credential at
most every two seconds (`_clear_expired_job_states`), and while it remembers it, the new run is none to it.
"""

import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

GONE = ".gone-"
GONE_KEPT_S = 60.0
NEXT_KEPT_S = 3600.0
"""A directory that was made ahead, and that no job has used, is removed after this time."""
_AHEAD = ".ahead"
"""In `node/`: made by Epilog for an attempt that may never come here; Prolog takes it away."""
_NAME = re.compile(r"([1-9][0-9]{0,9})\.([0-9]{1,9})")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVE_BUDGET_S = 2.0
_REMOVE_DEPTH = 64
_CONTEXT_LIMIT_BYTES = 60_000


class UnsafeDirectoryError(Exception):
    """A directory that root is to work in is not what it must be; nothing was done there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job on this node."""

    job_id: int
    attempt: int
    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The directory's name."""
        return f"{self.job_id}.{self.attempt}"


@contextmanager
def opened_jobs(run_dir: Path) -> Iterator[int | None]:
    """Give an open descriptor of `<run_dir>/jobs`, or None where the agent has not made it. Raises UnsafeDirectoryError."""
    try:
        descriptor = os.open(run_dir / "jobs", _DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise UnsafeDirectoryError(f"{run_dir}/jobs: {error.strerror}") from None
    try:
        _check_ours(descriptor, f"{run_dir}/jobs")
        yield descriptor
    finally:
        os.close(descriptor)


def make(jobs: int, attempt: Attempt, context: dict[str, object]) -> None:
    """Make the attempt's directories; `node/context.json` comes last and marks them as complete. Doing it twice is harmless.

    Raises UnsafeDirectoryError where something else lies in the way, OSError where the file system refuses.
    """
    if _belongs_to_another(jobs, attempt):
        remove(jobs, [attempt.name])  # job ids start anew when slurmctld lost its state
    with _made(jobs, attempt.name) as top:
        os.fchmod(top, 0o755)
        with _made(top, "job") as job:
            os.fchmod(job, 0o700)
            os.fchown(job, attempt.uid, attempt.gid)
        with _made(top, "node") as node:
            os.fchmod(node, 0o755)
            _write_context(node, context)
            with suppress(FileNotFoundError):
                os.unlink(_AHEAD, dir_fd=node)


def make_ahead(jobs: int, attempt: Attempt, context: dict[str, object]) -> None:
    """Make the directories of an attempt that has yet to begin, marked as such. Raises as `make` does."""
    with _made(jobs, attempt.name) as top, _made(top, "node") as node:
        os.close(os.open(_AHEAD, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=node))
        os.fchmod(top, 0o755)
        os.fchmod(node, 0o755)
        with _made(top, "job") as job:
            os.fchmod(job, 0o700)
            os.fchown(job, attempt.uid, attempt.gid)
        _write_context(node, context)


def attempts(jobs: int, job_id: int) -> list[int]:
    """Return the attempts of a job that have a directory, in order."""
    found = (_NAME.fullmatch(name) for name in os.listdir(jobs))
    return sorted(int(match[2]) for match in found if match and int(match[1]) == job_id)


def retire(jobs: int, job_id: int, last_attempt: int, now: float) -> None:
    """Set aside the directories of a job's attempts up to `last_attempt`. The agent may read them for a minute."""
    for number in attempts(jobs, job_id):
        if number > last_attempt:
            continue
        name = f"{job_id}.{number}"
        os.utime(name, (now, now), dir_fd=jobs, follow_symlinks=False)  # its age is counted from here
        try:
            os.rename(name, GONE + name, src_dir_fd=jobs, dst_dir_fd=jobs)
        except OSError:  # one of the same name is still kept
            remove(jobs, [GONE + name])
            os.rename(name, GONE + name, src_dir_fd=jobs, dst_dir_fd=jobs)


def sweep(jobs: int, now: float, kept_s: float = GONE_KEPT_S) -> None:
    """Remove what was set aside longer than `kept_s` before `now` (Unix seconds)."""
    old = [name for name in os.listdir(jobs) if name.startswith(GONE) and now - _mtime(jobs, name) > kept_s]
    remove(jobs, old)
    for name in os.listdir(jobs):
        match = _NAME.fullmatch(name)
        if match and now - _mtime(jobs, name) > NEXT_KEPT_S and _unused(jobs, name):
            remove(jobs, [name])


def remove(jobs: int, names: list[str]) -> None:
    """Remove trees, never following a link, for at most two seconds. What is left is left for the next call.

    A job may nest as deep as it likes: what lies deeper than `_REMOVE_DEPTH` is moved up first.
    """
    ends = time.monotonic() + _REMOVE_BUDGET_S
    left = list(names)
    while left:
        try:
            _remove(jobs, left.pop(), ends, _REMOVE_DEPTH, lambda parent, name: left.append(_lifted(jobs, parent, name)))
        except (OSError, TimeoutError):
            continue


def _lifted(jobs: int, parent: int, name: str) -> str:
    """Move a directory up into `jobs`, as something that was set aside; return its new name."""
    new = f"{GONE}deep-{os.getpid()}-{time.monotonic_ns()}"
    os.utime(name, dir_fd=parent, follow_symlinks=False)
    os.rename(name, new, src_dir_fd=parent, dst_dir_fd=jobs)
    return new


def _remove(parent: int, name: str, ends: float, depth: int, lift: Callable[[int, str], None]) -> None:
    if time.monotonic() > ends:
        raise TimeoutError
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if depth == 0:
        lift(parent, name)
        return
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for entry in os.listdir(descriptor):
            _remove(descriptor, entry, ends, depth - 1, lift)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


@contextmanager
def _made(parent: int, name: str) -> Iterator[int]:
    """Give an open descriptor of the directory `name`, made if it is not there."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except NotADirectoryError:
        raise UnsafeDirectoryError(f"{name} is not a directory") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_context(node: int, context: dict[str, object]) -> None:
    """Write `context.json` whole. What the agent has added to one that stands there is kept."""
    name = "context.json"
    if len(json.dumps(context)) > _CONTEXT_LIMIT_BYTES:
        context = {key: value for key, value in context.items() if key != "nodes"}
    old = _read_object(node, name)
    if old is not None and old.keys() >= context.keys():
        return
    temporary = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o644, dir_fd=node), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(json.dumps({**(old or {}), **context}))
    os.rename(temporary, name, src_dir_fd=node, dst_dir_fd=node)


def _read_object(directory: int, name: str) -> dict[str, object] | None:
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
            content = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _unused(jobs: int, name: str) -> bool:
    """Whether an attempt's directory was made ahead, and no job has written into it."""
    try:
        os.stat(f"{name}/node/{_AHEAD}", dir_fd=jobs, follow_symlinks=False)
        descriptor = os.open(f"{name}/job", _DIRECTORY, dir_fd=jobs)
    except OSError:
        return False
    try:
        return not os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _belongs_to_another(jobs: int, attempt: Attempt) -> bool:
    try:
        owner = os.stat(f"{attempt.name}/job", dir_fd=jobs, follow_symlinks=False).st_uid
    except OSError:
        return False
    return owner not in {attempt.uid, os.geteuid()}


def _check_ours(descriptor: int, name: str) -> None:
    status = os.fstat(descriptor)
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise UnsafeDirectoryError(f"{name} belongs to uid {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}")


def _mtime(parent: int, name: str) -> float:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
