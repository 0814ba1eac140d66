"""Calls to the controller's unix socket, and what to say where they fail."""

import asyncio
import grp
import os
import pwd
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from holdfast_controller.cli.app import FAILED, REFUSED, UNREACHABLE, USAGE, CliError

CALL_TIMEOUT_S = 10.0
"""For one answer. The controller answers from memory; setting a policy waits for the disk."""
MAX_PATH_BYTES = 107
CHECK = "is holdfast-controller running (systemctl status holdfast-controller)?"
T = TypeVar("T")


def ask(socket: Path, talk: Callable[[Any], Awaitable[T]]) -> T:
    """Connect, have `talk` make its calls with the stub of AdminService, disconnect. Raises CliError."""
    if len(os.fsencode(socket.absolute())) > MAX_PATH_BYTES:
        raise CliError(f"a socket's path has at most {MAX_PATH_BYTES} bytes", USAGE)
    return asyncio.run(_ask(socket, talk))


async def _ask(socket: Path, talk: Callable[[Any], Awaitable[T]]) -> T:
    import grpc.aio
    from holdfast_common.channel import controller_channel
    from holdfast_protos.v1 import admin_pb2_grpc

    async with controller_channel(socket) as channel:
        try:
            return await talk(admin_pb2_grpc.AdminServiceStub(channel))
        except grpc.aio.AioRpcError as error:
            raise failure(error, socket) from error


def failure(error: Any, socket: Path) -> CliError:
    """Return what a failed call means, in a sentence, with the exit code."""
    name, said = error.code().name, str(error.details() or "")
    if name == "UNAVAILABLE":
        return CliError(f"the controller is not reachable at {socket}: {why_unreachable(socket)}", UNREACHABLE)
    if name == "DEADLINE_EXCEEDED":
        return CliError(
            f"the controller at {socket} gave no answer within {CALL_TIMEOUT_S:.0f} s; what was asked for may be done", UNREACHABLE
        )
    if name == "UNIMPLEMENTED":
        return CliError(f"the controller at {socket} does not know this call: it is of another version", FAILED)
    codes = {"ABORTED": REFUSED, "PERMISSION_DENIED": REFUSED, "UNAUTHENTICATED": REFUSED, "INVALID_ARGUMENT": USAGE}
    return CliError(said or f"the controller failed ({name})", codes.get(name, FAILED))


def why_unreachable(socket: Path) -> str:
    """Say what is wrong with the socket, and what to check."""
    try:
        found = os.stat(socket)
    except PermissionError:
        return f"you may not enter {socket.parent}: ask to be put into the admin group (listen.group in controller.toml), and log in again"
    except OSError as error:
        elsewhere = "It runs beside slurmctld; --socket or HOLDFAST_SOCKET names another path"
        return f"{error.strerror.lower() if error.strerror else error}; {CHECK} {elsewhere}"
    if not stat.S_ISSOCK(found.st_mode):
        return "it is not a socket; --socket or HOLDFAST_SOCKET names another path"
    if not os.access(socket, os.R_OK | os.W_OK):
        owner, group = _name(pwd.getpwuid, found.st_uid), _name(grp.getgrgid, found.st_gid)
        return f"only {owner} and members of the group {group} may open it: ask to be put into the group, and log in again"
    return f"nobody answers; {CHECK}"


def _name(look_up: Callable[[int], Any], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)
