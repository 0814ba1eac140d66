"""Checkpoints on a file system: a node's own disk, or one that all nodes share."""

import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast import faults
from holdfast.clock import Clock
from holdfast.errors import BadCheckpointError, StoreError
from holdfast.files import fsync_directory, read_regular, replace_durably
from holdfast.hashing import CHUNK_BYTES, file_hash
from holdfast.store.base import MANIFEST, Chunk, Folder

LOCK_NAME = "attempt.lock"
LOCK_WAIT_S = 10.0
FOLDER = re.compile(r"step-\d{8,18}\.a\d{1,9}|(bad-)step-\d{8,18}\.a\d{1,9}(\.\d+)?", re.ASCII)


class FileStore:
    """A directory. Content is durable by fsync; that it is right is what hashing it again shows (`holds`, verification).

    `local`: it is lost with the node, so that nothing here counts as safe.
    """

    def __init__(self, root: Path, *, local: bool = False) -> None:
        self.root = root
        self.location = str(root)
        self.tier = "local" if local else "shared"
        self.durable = not local

    def place(self, name: str) -> str:
        """The path."""
        return str(self.root / name)

    def folders(self) -> list[Folder]:
        """Real directories only; what is linked in is not ours."""
        try:
            entries = list(os.scandir(self.root))
        except FileNotFoundError:
            return []
        found = []
        for entry in entries:
            match = FOLDER.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False):
                found.append(Folder(entry.name, os.path.lexists(self.root / entry.name / MANIFEST), bool(match[1])))
        return found

    def files(self, folder: str) -> dict[str, int | None]:
        """Links are not followed: what they lead to may change or go without us."""
        found: dict[str, int | None] = {}
        open_folders = [""]
        while open_folders:
            below = open_folders.pop()
            try:
                entries = list(os.scandir(self.root / folder / below))
            except FileNotFoundError:
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    open_folders.append(f"{below}{entry.name}/")
                    continue
                status = entry.stat(follow_symlinks=False)
                found[below + entry.name] = status.st_size if stat.S_ISREG(status.st_mode) else None
        return found

    def exists(self, name: str) -> bool:
        """Dangling links exist, too."""
        return os.path.lexists(self.root / name)

    def written_at(self, name: str) -> float:
        """mtime; of a link the link's own."""
        return (self.root / name).lstat().st_mtime

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Follows no link, waits on no pipe."""
        return read_regular(self.root / name, limit_bytes)

    def chunks(self, name: str) -> Iterator[Chunk]:
        """One buffer, used again for every chunk."""
        buffer = bytearray(CHUNK_BYTES)
        view = memoryview(buffer)
        with open(os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadCheckpointError(name.partition("/")[2], "not a regular file")
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while count := file.readinto(view):
                yield view[:count]

    def holds(self, name: str, size_bytes: int, digest: str) -> bool:
        """Hashes the file again."""
        path = self.root / name
        algorithm, _, value = digest.partition(":")
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == size_bytes and file_hash(path, algorithm) == value

    def write(self, name: str, chunks: Iterator[Chunk], size_bytes: int, digest: str) -> None:
        """A temporary name, fsync, rename. The bytes are checked by `chunks` as they pass, the disk by its file system."""
        path = self.root / name
        _make_durably(path.parent)
        temporary = path.with_name(f".{path.name}.part")
        try:
            with temporary.open("wb", buffering=0) as file:
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        view = view[file.write(view) :]
                    faults.point("copy-partial")
                faults.point("copy-written")
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        faults.point("copy-renamed")
        fsync_directory(path.parent)
        faults.point("copied")

    def publish(self, folder: str, data: bytes) -> None:
        """Temporary name, fsync, rename, fsync of the folder; whoever may publish holds the fence's lock meanwhile."""
        path = self.root / folder / MANIFEST
        if os.path.lexists(path):
            if path.read_bytes() == data:
                return
            raise FileExistsError(17, "published already, and never written again", str(path))
        temporary = path.with_name(f".{MANIFEST}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            faults.point("manifest-written")
            os.fsync(file.fileno())
        faults.point("manifest-synced")
        temporary.rename(path)
        faults.point("manifest-renamed")
        fsync_directory(path.parent)
        faults.point("published")

    def load(self, name: str, limit_bytes: int) -> tuple[bytes, str] | None:
        """The version is the content's hash."""
        try:
            data = self.read(name, limit_bytes)
        except FileNotFoundError:
            return None
        return data, hashlib.sha256(data).hexdigest()

    def swap(self, name: str, data: bytes, version: str | None) -> bool:
        """Compares, then renames: exclusive only inside `locked`."""
        path = self.root / name
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            found = None
        if found != version:
            return False
        _make_durably(path.parent)
        replace_durably(path, data)
        return True

    @contextmanager
    def locked(self, clock: Clock) -> Iterator[None]:
        """A lock on `attempt.lock`, for which it waits 10 s at most."""
        _make_durably(self.root)
        fd = os.open(self.root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(fd, clock)
            yield
        finally:
            os.close(fd)

    def set_aside(self, folder: str, reason: bytes) -> str:
        """Renames it to `bad-…`; the reason is `reason.json` in it."""
        target = self.root / f"bad-{folder}"
        number = 1
        while os.path.lexists(target):
            number += 1
            target = self.root / f"bad-{folder}.{number}"
        (self.root / folder).rename(target)
        faults.point("set-aside")
        replace_durably(target / "reason.json", reason)
        return f"moved to {target.name}"

    def remove(self, folder: str) -> None:
        """Manifest, fsync, the rest."""
        path = self.root / folder
        try:
            (path / MANIFEST).unlink(missing_ok=True)
            fsync_directory(path)
            faults.point("removal-unpublished")
            shutil.rmtree(path)
        except FileNotFoundError as fault:
            if os.path.lexists(path):
                raise StoreError(f"{path} cannot be removed: somebody else removes files in it") from fault
        faults.point("removal-done")


def _make_durably(folder: Path) -> None:
    """Make a directory and those above it, so that their names survive a crash of the machine."""
    if not folder.is_dir():
        _make_durably(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_directory(folder.parent)


def _lock(fd: int, clock: Clock) -> None:
    """Wait for the lock, but not for ever: a frozen process of a lost node must not stop the next attempt.

    Without it (or on a file system without locks) two attempts may interleave between check and rename; each still
    writes directories of its own name only, so the worst is a complete checkpoint too many.
    """
    give_up = clock.monotonic() + LOCK_WAIT_S
    while clock.monotonic() < give_up:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            clock.sleep(0.02)
        except OSError:
            return
        else:
            return
