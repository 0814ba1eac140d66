"""The process that pretends to be a machine: one command in namespaces of its own, which dies whole or not at all."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path

# Started as a child of setpriv: leaves at once if the cloud died before setpriv could arm the death signal.
_PARENT_CHECK = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


def machine_argv(command: Sequence[str], parent_pid: int) -> list[str]:
    """The command line that runs `command` as init of its own PID, mount and UTS namespace.

    Two links make it die with the cloud even by kill -9: setpriv arms PR_SET_PDEATHSIG (which survives exec) from the
    cloud to unshare, and --kill-child does so from unshare to the namespace's init, whose death takes all inside.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *user, "--pid", "--mount", "--uts", "--fork", "--kill-child=KILL", "--mount-proc", "--"]
    guard = ["setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _PARENT_CHECK, "sh", str(parent_pid)]
    return [*guard, *unshare, *command]


class MachineProcess:
    """A running machine. Start it from the cloud's main thread: a death signal follows the thread that forked."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], directory: Path) -> "MachineProcess":
        """Start `command` in its own session, with stdout and stderr in files of `directory`; raises OSError."""
        with (directory / "stdout").open("ab") as stdout, (directory / "stderr").open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *machine_argv(command, os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=dict(env),
                cwd=directory,
                start_new_session=True,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """The outer process (unshare); its only child is the machine's init."""
        return self._process.pid

    def kill(self) -> None:
        """Take the machine away: SIGKILL to its init, and so to everything in it. Harmless where it is gone already."""
        if self._process.returncode is not None:
            return
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            children = [int(pid) for pid in text.split()]
        except OSError:
            children = []
        for pid in children or [self.pid]:  # no child yet: unshare has not forked, or setpriv has not even become it
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    async def wait(self) -> int:
        """Return its exit status once every process of the machine is gone (a PID namespace's init is reaped last)."""
        return await self._process.wait()
