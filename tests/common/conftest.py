"""A munged of our own per test run, with its own key and socket."""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def running_munged(key: bytes) -> Iterator[Path]:
    """Start a munged and yield its directory (socket `s`), which every user may enter, as munge's socket is meant to be."""
    home = Path(tempfile.mkdtemp(prefix="hfm", dir="/tmp"))
    home.chmod(0o755)
    key_file = home / "key"
    key_file.write_bytes(key)
    key_file.chmod(0o400)
    arguments = ["--key-file", "--socket", "--pid-file", "--log-file", "--seed-file"]
    names = ["key", "s", "pid", "log", "seed"]
    paths = [part for flag, name in zip(arguments, names, strict=True) for part in (flag, str(home / name))]
    command = ["setpriv", "--pdeathsig", "TERM", "munged", "-F", "--force", *paths]  # ends with us, even after kill -9
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _await_socket(daemon, home / "s")
        yield home
    finally:
        daemon.terminate()
        daemon.communicate(timeout=5)
        shutil.rmtree(home, ignore_errors=True)


def _await_socket(daemon: "subprocess.Popen[bytes]", socket: Path) -> None:
    end = time.monotonic() + 5
    while not socket.exists():
        if daemon.poll() is not None or time.monotonic() > end:
            _, err = daemon.communicate(timeout=5)
            raise RuntimeError(f"munged did not start: {err.decode()}")
        time.sleep(0.01)
    assert os.stat(socket).st_mode & 0o777 == 0o777


@pytest.fixture(scope="session")
def munge_key() -> bytes:
    return secrets.token_bytes(64)


@pytest.fixture(scope="session")
def munge_home(munge_key: bytes) -> Iterator[Path]:
    with running_munged(munge_key) as home:
        yield home


@pytest.fixture(scope="session")
def munge_socket(munge_home: Path) -> str:
    return str(munge_home / "s")


@pytest.fixture(scope="session")
def other_key_socket() -> Iterator[str]:
    """The socket of a munged of another cluster."""
    with running_munged(secrets.token_bytes(64)) as home:
        yield str(home / "s")


@pytest.fixture(scope="session")
def same_key_socket(munge_key: bytes) -> Iterator[str]:
    """The socket of a second munged of the same cluster, which has decoded nothing yet: as after a restart, or on another host."""
    with running_munged(munge_key) as home:
        yield str(home / "s")


@pytest.fixture(scope="session")
def as_nobody() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a program as a user without any right, with the extra groups given."""

    def run(*command: str, groups: tuple[int, ...] = ()) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, user=65534, group=65534, extra_groups=groups, cwd="/", capture_output=True, text=True, timeout=8, check=False
        )

    return run


@pytest.fixture
def nobodys_credential(munge_socket: str, as_nobody: Callable[..., "subprocess.CompletedProcess[str]"]) -> Callable[[bytes], str]:
    """Return a credential that the user nobody made himself."""

    def make(payload: bytes) -> str:
        made = as_nobody("munge", "--socket", munge_socket, "--string", payload.decode())
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    return make
