"""The directories of this node's jobs, on disk: `<run_dir>/jobs/<job_id>.<attempt>/{node,job}`.

`node/` is ours (root's), `job/` is the job's user's, and whatever stands there is untrusted: it may be a link, a pipe, huge, another
user's, or change while we look. Nothing is followed, nothing can block, nothing larger than 64 KiB is read.

Prolog writes `node/context.json` last: a directory without it is still being made. Epilog sets the directory of an ended attempt aside, as
`.gone-<job_id>.<attempt>`, and removes it a minute later: the job's last words are read there.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast_common.errors import InputError
from holdfast_common.faults import fault_point
from holdfast_common.jobfiles import MAX_FILE_BYTES, MAX_RANKS_PER_NODE

MAX_ENTRIES = 8192
"""Entries of a job's folder that are looked at; the rest is not seen."""
_ASIDE = ".gone-"
MAX_FOLDER_BYTES = 2 * 1024 * 1024
"""What is read of one job's folder at a time: 1024 ranks with 2 KiB each. A job that writes more must not keep the agent from others."""
_NAME = re.compile(r"([1-9]\d{0,9})\.(0|[1-9]\d{0,8})", re.ASCII)
_RANK = re.compile(r"rank\.(0|[1-9]\d{0,8})\.json", re.ASCII)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CLAIM = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, order=True)
class JobKey:
    """One attempt of a job."""

    job_id: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class Claims:
    """What stands in a job's folder: the text of each file, or the fault that voids it, by file name."""

    uid: int
    """The job's user, by the folder that Prolog made."""
    texts: dict[str, bytes]
    faults: dict[str, str]


class JobDirs:
    """The directories below `root`. Raises OSError only where our own part of the tree cannot be used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the root (0755, ours): Prolog makes the jobs' directories in it, and jobs reach theirs through it."""
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.root.chmod(0o755)

    def keys(self, *, aside: bool = False) -> frozenset[JobKey]:
        """Return the attempts that have a complete directory of ours, or with `aside` those whose directory was set aside."""
        found = set()
        with os.scandir(self.root) as entries:
            for entry in entries:
                set_aside = entry.name.startswith(_ASIDE)
                match = _NAME.fullmatch(entry.name.removeprefix(_ASIDE))
                if match and set_aside is aside and self._ours(entry):
                    found.add(JobKey(int(match[1]), int(match[2])))
        return frozenset(found)

    def stamp(self, key: JobKey, part: str) -> tuple[int, int] | None:
        """Return what changes whenever a file is renamed into `node` or `job`; None where the folder is gone."""
        try:
            status = os.lstat(self.root / str(key) / part)
        except OSError:
            return None
        return (status.st_ino, status.st_mtime_ns) if stat.S_ISDIR(status.st_mode) else None

    def claims(self, key: JobKey, *, aside: bool = False) -> Claims | None:
        """Read the job's own files (`rank.<r>.json`, `status.json`); None where its folder is gone or is not one.

        With `aside` they are read where Epilog has set them aside.
        """
        with contextlib.ExitStack() as stack:
            try:
                folder = os.open(self.root / f"{_ASIDE if aside else ''}{key}" / "job", _DIRECTORY)
            except OSError:
                return None
            stack.callback(os.close, folder)
            uid = os.fstat(folder).st_uid
            claims, left = Claims(uid, {}, {}), MAX_FOLDER_BYTES
            for name in _claim_names(folder):
                try:
                    claims.texts[name] = text = _read_claim(folder, name, uid, left)
                    left -= len(text)
                except FileNotFoundError:
                    continue
                except (OSError, InputError) as error:
                    claims.faults[name] = error.strerror or "" if isinstance(error, OSError) else str(error)
            return claims

    def read_node(self, key: JobKey, name: str) -> bytes | None:
        """Return one of our own files, None where there is none."""
        try:
            return (self.root / str(key) / "node" / name).read_bytes()[: MAX_FILE_BYTES + 1]
        except OSError:
            return None

    def write_node(self, key: JobKey, name: str, content: bytes) -> bool:
        """Replace one of our own files; False where the directory is gone (Epilog has removed it)."""
        path = self.root / str(key) / "node" / name
        temporary = path.with_name(f".{name}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.chmod(0o644)
            fault_point("agent.node_file")
            temporary.replace(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove_node(self, key: JobKey, name: str) -> None:
        """Remove one of our own files, if it is there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (self.root / str(key) / "node" / name).unlink()

    def _ours(self, entry: os.DirEntry[str]) -> bool:
        """Whether the entry is a directory that belongs to us or to root, which no one else may write to, with both parts in it."""
        try:
            status = entry.stat(follow_symlinks=False)
            node = os.lstat(os.path.join(entry.path, "node"))
            job = os.lstat(os.path.join(entry.path, "job"))
            context = os.lstat(os.path.join(entry.path, "node", "context.json"))
        except OSError:
            return False
        trusted = {0, os.geteuid()}
        return (
            all(stat.S_ISDIR(each.st_mode) for each in (status, node, job))
            and stat.S_ISREG(context.st_mode)
            and status.st_uid in trusted
            and node.st_uid in trusted
            and not (status.st_mode | node.st_mode) & (stat.S_IWOTH | stat.S_IWGRP)
        )


def rank_of(name: str) -> int | None:
    """Return the rank that a file's name states, None for another file."""
    match = _RANK.fullmatch(name)
    return int(match[1]) if match else None


def _claim_names(folder: int) -> Iterator[str]:
    ranks = 0
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_ENTRIES:
                return
            if entry.name == "status.json":
                yield entry.name
            elif rank_of(entry.name) is not None and ranks < MAX_RANKS_PER_NODE:
                ranks += 1
                yield entry.name


def _read_claim(folder: int, name: str, uid: int, left: int) -> bytes:
    handle = os.open(name, _CLAIM, dir_fd=folder)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("is no regular file")
        if status.st_uid != uid:
            raise InputError("belongs to another user than the job")
        if status.st_size > MAX_FILE_BYTES:
            raise InputError(f"larger than {MAX_FILE_BYTES} bytes")
        if status.st_size > left:
            raise InputError(f"the job's files are larger than {MAX_FOLDER_BYTES} bytes together")
        return os.read(handle, min(MAX_FILE_BYTES, left) + 1)
    finally:
        os.close(handle)
