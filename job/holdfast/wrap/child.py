"""The command as a child process: started, reaped, and never left behind."""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.wrap import processes
from holdfast.wrap.processes import Table

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
ENDS_OTHERS = ("srun", "torchrun", "accelerate", "deepspeed", "mpirun", "mpiexec")
"""Launchers: told of our death by SIGTERM, so that they end what they have started; anything else is killed."""
LEFT_GRACE_S = 5.0


def _prctl(option: int, value: int) -> None:
    """A prctl(2) that only ever fails on a kernel that does not know it: then the safeguard is missing, and nothing else."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class CannotStart(HoldfastError):  # noqa: N818
    """The command could not be started. `code` is the shell's exit code for that: 127 not found, 126 not executable."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Child:
    """The command, in our own process group and session: a terminal's signals reach it, and it may read from the terminal."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], unblocked: set[signal.Signals] | set[int]) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.name = os.path.basename(command[0])
        self.code: int | None = None
        self._parent = os.getpid()
        self._dies_with = signal.SIGTERM if self.name in ENDS_OTHERS or "torch.distributed.run" in command else signal.SIGKILL
        prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork

        def prepare() -> None:
            prctl(_PR_SET_PDEATHSIG, int(self._dies_with), 0, 0, 0)
            if os.getppid() != self._parent:  # it died before the call
                os._exit(137)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

        # There is one thread as yet, so the code between fork and exec is safe; all descriptors but ours are passed on.
        self._process = subprocess.Popen(list(command), env=dict(environ), preexec_fn=prepare, close_fds=False)  # noqa: PLW1509
        self.pid = self._process.pid

    @property
    def is_srun(self) -> bool:
        """Whether its tasks run elsewhere: Slurm signals those itself, and srun kills them when it gets SIGTERM."""
        return self.name == "srun"

    def reap(self) -> None:
        """Take in all children that have ended, orphans of the command too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.code = os.waitstatus_to_exitcode(status)
                self._process.returncode = self.code

    def signal(self, number: int) -> None:
        """Pass a signal on to the command itself, as if it had been started without us."""
        if self.code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the command and all that it has started, at once."""
        for _ in range(3):  # what forks meanwhile is found in the next round
            left = Table().below(os.getpid())
            if not left:
                break
            processes.kill(left)
        self.reap()

    def end_left(self, clock: Clock, tell: Callable[[str], None]) -> None:
        """After its end: end what it has left running, by SIGTERM and, after a few seconds, SIGKILL."""
        left = Table().below(os.getpid())
        if not left:
            return
        tell(f"the command left {len(left)} process{'es' if len(left) > 1 else ''} behind: ending {'them' if len(left) > 1 else 'it'}")
        processes.kill(left, signal.SIGTERM)
        until = clock.monotonic() + LEFT_GRACE_S
        while Table().below(os.getpid()) and clock.monotonic() < until:
            self.reap()
            clock.sleep(0.05)
        self.kill()


def start(command: Sequence[str], environ: Mapping[str, str], unblocked: set[signal.Signals] | set[int]) -> Child:
    """Start the command. Raises CannotStart."""
    if shutil.which(command[0], path=environ.get("PATH")) is None and not os.path.exists(command[0]):
        raise CannotStart(f"{command[0]}: command not found", 127)
    try:
        return Child(command, environ, unblocked)
    except FileNotFoundError as fault:
        raise CannotStart(f"{command[0]}: {fault.strerror} (its interpreter, perhaps)", 127) from fault
    except (OSError, subprocess.SubprocessError, ValueError) as fault:
        raise CannotStart(f"{command[0]}: cannot be started: {fault}", 126) from fault


def exit_code(code: int) -> int:
    """As a shell gives it: 128+n for signal n."""
    return 128 - code if code < 0 else code
