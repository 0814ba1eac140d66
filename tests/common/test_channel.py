"""Addresses, and the unix socket that only its owner and the admin group can open: tried as another user."""

import grp
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from holdfast_common.channel import MAX_MESSAGE_BYTES, check_bind, controller_channel, new_server, serve_unix
from holdfast_common.errors import ConfigError, Permanent

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CONNECT = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('connected')"
GROUP = grp.getgrgid(65534).gr_name


@pytest.mark.parametrize("address", ["127.0.0.1:7420", "127.3.2.1:0", "localhost:1", "[::1]:65535"])
def test_loopback_may_be_bound(address: str) -> None:
    check_bind(address, False)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7420", "10.0.0.1:1", "[::]:1", "gpu-1:7420", "localhost.evil.example:1", "[::ffff:10.0.0.1]:1"]
)
def test_other_addresses_need_the_explicit_setting(address: str) -> None:
    with pytest.raises(ConfigError, match="allow_remote_without_tls"):
        check_bind(address, False)
    check_bind(address, True)


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":7420", "127.0.0.1:x", "127.0.0.1:65536", "::1:7420", "[::1:7420", "[]:1", "h:-1", "h:²"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    for remote in (False, True):
        with pytest.raises(ConfigError, match="write"):
            check_bind(address, remote)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can enter, so that only the socket's own rights can keep anyone out."""
    found = Path(tempfile.mkdtemp(prefix="hfs", dir="/tmp"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


async def echo(request: bytes, _context: Any) -> bytes:
    return request


def server() -> Any:
    made = new_server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", {"Echo": handler}),))
    return made


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    opened: list[tuple[Any, Any]] = []

    async def one(path: Path, group: str = "", **more: Any) -> Any:
        made = server()
        opened.append((made, await serve_unix(made, path, group, **more)))
        return opened[-1][1]

    yield one
    for made, unix in opened:
        await made.stop(None)
        unix.close()


async def call(path: Path, request: bytes = b"x") -> bytes:
    async with controller_channel(path) as channel:
        return bytes(await channel.unary_unary("/t.S/Echo")(request))


async def test_serves_calls_and_leaves_nothing_but_the_lock(directory: Path, serve: Callable[..., Any]) -> None:
    path = directory / "c.sock"
    unix = await serve(path, GROUP)
    assert await call(path) == b"x"
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, os.getuid(), grp.getgrnam(GROUP).gr_gid)
    unix.close()
    unix.close()
    assert sorted(os.listdir(directory)) == ["c.sock.lock"]


async def test_another_user_cannot_connect_unless_he_is_of_the_group(directory: Path, serve: Callable[..., Any], as_nobody: Run) -> None:
    path = directory / "c.sock"
    admins = grp.getgrnam("daemon")
    await serve(path, "daemon")
    other = as_nobody("/usr/bin/python3", "-c", CONNECT, str(path))
    assert "PermissionError" in other.stderr
    assert other.stdout == ""
    assert as_nobody("/usr/bin/python3", "-c", CONNECT, str(path), groups=(admins.gr_gid,)).stdout == "connected\n"


async def test_without_a_group_only_the_owner_can_connect(directory: Path, serve: Callable[..., Any], as_nobody: Run) -> None:
    mine, his = directory / "mine", directory / "his"
    await serve(mine)
    await serve(his, owner_uid=65534)
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    assert "PermissionError" in as_nobody("/usr/bin/python3", "-c", CONNECT, str(mine), groups=(0,)).stderr
    assert as_nobody("/usr/bin/python3", "-c", CONNECT, str(his)).stdout == "connected\n"


async def test_at_no_moment_can_another_user_reach_the_socket(
    directory: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the socket's mode is still that of the umask, it lies in a directory that nobody else can enter."""
    seen: list[int] = []
    chown = os.chown

    def watched(path: Path, uid: int, gid: int) -> None:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            seen.append(stat.S_IMODE(os.stat(path.parent).st_mode))
            assert not (directory / "c.sock").exists()
        chown(path, uid, gid)

    monkeypatch.setattr(os, "chown", watched)
    old = os.umask(0)
    try:
        await serve(directory / "c.sock", GROUP)
    finally:
        os.umask(old)
    assert seen == [0o700]


async def test_a_missing_directory_is_made_for_the_group_only(directory: Path, serve: Callable[..., Any]) -> None:
    await serve(directory / "run" / "c.sock", GROUP)
    found = (directory / "run").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o750, grp.getgrnam(GROUP).gr_gid)


async def test_a_directory_where_others_could_put_their_own_socket_is_refused(directory: Path, serve: Callable[..., Any]) -> None:
    os.chmod(directory, 0o777)
    with pytest.raises(ConfigError, match="chmod go-w"):
        await serve(directory / "c.sock")
    os.chmod(directory, 0o755)
    os.chown(directory, 65534, -1)
    with pytest.raises(ConfigError, match="belongs to root"):
        await serve(directory / "c.sock")


async def test_a_second_controller_is_kept_out_and_the_first_goes_on(directory: Path, serve: Callable[..., Any]) -> None:
    path = directory / "c.sock"
    await serve(path)
    with pytest.raises(Permanent, match="another process serves"):
        await serve(path)
    assert await call(path) == b"x"


async def test_what_a_killed_controller_left_is_replaced(directory: Path, serve: Callable[..., Any]) -> None:
    path = directory / "c.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (directory / ".c.sock.new").mkdir()
    (directory / ".c.sock.new" / "s").touch()
    await serve(path)
    assert await call(path) == b"x"
    assert sorted(os.listdir(directory)) == ["c.sock", "c.sock.lock"]


async def test_a_socket_that_is_no_longer_ours_is_not_removed(directory: Path, serve: Callable[..., Any]) -> None:
    path = directory / "c.sock"
    unix = await serve(path)
    path.unlink()
    path.write_text("of someone else")
    unix.close()
    assert path.read_text() == "of someone else"


async def test_what_cannot_be_served_is_refused(directory: Path, serve: Callable[..., Any]) -> None:
    for path, group, fault in (
        (directory / "c.sock", "nosuchgroup", "no group 'nosuchgroup'"),
        (directory / ("x" * 100), "", "at most 90 bytes"),
        (Path("relative"), "", "absolute path"),
        (directory / "missing" / "too" / "c.sock", "", "cannot be made"),
    ):
        with pytest.raises(ConfigError, match=fault):
            await serve(path, group)


async def test_messages_are_bounded(directory: Path, serve: Callable[..., Any]) -> None:
    path = directory / "c.sock"
    await serve(path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(path, b"x" * (MAX_MESSAGE_BYTES + 1))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_two_controllers_cannot_share_a_port() -> None:
    first, second = new_server(), new_server()
    port = first.add_insecure_port("127.0.0.1:0")
    with pytest.raises(RuntimeError):
        second.add_insecure_port(f"127.0.0.1:{port}")
    await first.stop(None)
    await second.stop(None)


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    from holdfast_common import channel as module

    made = server()
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=module._CLIENT) as channel:
        assert await channel.unary_unary("/t.S/Echo")(b"x") == b"x"
    await made.stop(None)
