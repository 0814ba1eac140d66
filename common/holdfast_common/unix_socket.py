"""A gRPC server on a unix socket that only its owner and one group can open.

The socket is bound inside a private directory, given its mode and group there, and only then renamed to its name: at no moment can anyone
else connect, and a stale socket of a dead process is replaced atomically. A lock file beside it keeps a second controller out.
"""

import fcntl
import grp
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from holdfast_common.errors import ConfigError, Permanent

SOCKET_MODE = 0o660
DIRECTORY_MODE = 0o750
_MAX_PATH_BYTES = 90
"""sun_path holds 108 bytes; the private directory's name takes up to 18 of them."""


class UnixSocket:
    """A socket that is being served. `close` after the server was stopped."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._inode = path.stat().st_ino

    def close(self) -> None:
        """Remove the socket, if it still is ours, and give up the lock. May be called twice."""
        if self._lock < 0:
            return
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass
        os.close(self._lock)  # the lock file stays: removing it would let two processes hold "the" lock
        self._lock = -1


async def serve_unix(server: Any, path: str | Path, group: str, *, owner_uid: int | None = None) -> UnixSocket:
    """Start a `grpc.aio.Server` on the socket `path`, mode 0660, for its owner and `group` (mode 0600 where `group` is empty).

    The directory is made with mode 0750 if it is missing; one that others can write to is refused. `owner_uid` gives the socket to another
    user (root only; SlurmUser where the controller runs as root). Raises ConfigError, or Permanent while another process serves it.
    """
    socket = Path(path)
    gid = _gid(group, socket)
    uid = -1 if owner_uid is None else owner_uid
    if not socket.is_absolute() or len(os.fsencode(socket)) > _MAX_PATH_BYTES:
        raise ConfigError(f"socket {socket}", [f"write an absolute path of at most {_MAX_PATH_BYTES} bytes"])
    _prepare_directory(socket.parent, uid, gid)
    lock = _lock(socket)
    try:
        _bind(server, socket, uid, gid)
        await server.start()
        return UnixSocket(socket, lock)
    except BaseException:
        os.close(lock)
        raise


def _gid(group: str, socket: Path) -> int:
    if not group:
        return -1
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(f"socket {socket}", [f"there is no group {group!r} on this host"]) from error


def _prepare_directory(directory: Path, uid: int, gid: int) -> None:
    where = f"directory {directory}"
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.stat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {0, os.geteuid(), uid}:
            raise ConfigError(where, ["it must be a directory that belongs to root or to SlurmUser"]) from None
        if found.st_mode & 0o022:
            raise ConfigError(where, ["others can write to it, and so could put their own socket there: chmod go-w"]) from None
        return
    except OSError as error:
        raise ConfigError(where, [f"cannot be made: {error.strerror}"]) from error
    _give(directory, uid, gid)
    directory.chmod(DIRECTORY_MODE)


def _lock(socket: Path) -> int:
    path = socket.with_name(socket.name + ".lock")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"socket {socket}", [f"its lock {path} cannot be opened: {error.strerror}"]) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Permanent(f"another process serves {socket}") from error
    return lock


def _bind(server: Any, socket: Path, uid: int, gid: int) -> None:
    private = socket.with_name(f".{socket.name[:8]}.new")
    shutil.rmtree(private, ignore_errors=True)  # of a process that died in here; the lock says that none is alive
    private.mkdir(mode=0o700)
    try:
        new = private / "s"
        try:
            server.add_insecure_port(f"unix:{new}")
        except RuntimeError as error:
            raise Permanent(f"cannot listen on {socket}: {error}") from error
        _give(new, uid, gid)
        new.chmod(SOCKET_MODE if gid >= 0 else 0o600)
        new.rename(socket)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _give(path: Path, uid: int, gid: int) -> None:
    try:
        os.chown(path, uid, gid)
    except PermissionError as error:
        raise ConfigError(f"socket {path}", ["the user who runs the controller must be root or a member of the group"]) from error
