"""The NVML process as the agent holds it: started, read without waiting, told to leave, and never waited for.

Not through asyncio's subprocess, which kills its children when the loop is closed: a process that is killed amid a call of the
driver's can freeze the GPU (dcgm-exporter#84).
"""

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import holdfast_nodeagent
from holdfast_nodeagent.gpu.protocol import MAX_LINE_BYTES

_READ_BYTES = 64 * 1024
_START = "import sys; sys.path += sys.argv[1:3]; del sys.argv[1:3]; from holdfast_nodeagent.gpu.start import main; sys.exit(main())"


class NvmlProcess(Protocol):
    """What the probe needs of it."""

    def ended(self) -> int | None:
        """Return its status (negative: the signal) once it has ended and all it wrote was handed on; None while it lives."""

    def ask(self) -> None:
        """Have it read all tiers at once. Lost where it does not listen."""

    def leave(self) -> None:
        """Tell it to shut NVML down and leave: end of its input, and SIGTERM."""

    def kill(self) -> None:
        """SIGKILL, the last resort; a process in a call of the driver's does not even then end before the call."""

    def abandon(self) -> None:
        """Hear it no more, whether it lives or not."""


class ChildProcess:
    """A real one. Its lines come to `on_line`, in the order written; one that is too long comes in pieces, which its decoder refuses."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[bytes], None]) -> None:
        """Start it. Raises OSError."""
        self._on_line = on_line
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment), cwd="/", start_new_session=True
        )
        self.pid = self._process.pid
        self._input, self._output = self._process.stdin, self._process.stdout
        for pipe in (self._input, self._output):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        if self._output is not None:
            self._loop.add_reader(self._output.fileno(), self._read)

    def ended(self) -> int | None:
        """See NvmlProcess."""
        status = self._process.poll()
        if status is not None:
            while self._output is not None and self._read():
                pass
            self._close()
        return status

    def ask(self) -> None:
        """See NvmlProcess."""
        if self._input is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._input.fileno(), b"now\n")

    def leave(self) -> None:
        """See NvmlProcess."""
        self._close_input()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """See NvmlProcess."""
        self._signal(signal.SIGKILL)

    def abandon(self) -> None:
        """See NvmlProcess."""
        self._close()
        if self._process.poll() is None:
            self._process.returncode = 0  # Popen shall not warn of it: init reaps it after us

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:  # else the pid may be another's by now
            self._process.send_signal(number)

    def _read(self) -> bool:
        """Hand on what has come; False: nothing more now."""
        if self._output is None:
            return False
        try:
            chunk = os.read(self._output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_output()
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)  # its decoder refuses it, and what follows to the line's end
            self._rest = b""
        for line in lines:
            self._on_line(line)
        return True

    def _close(self) -> None:
        self._close_input()
        self._close_output()

    def _close_input(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None

    def _close_output(self) -> None:
        if self._output is not None:
            self._loop.remove_reader(self._output.fileno())
            self._output.close()
            self._output = None


def command(library: str, tiers_s: Sequence[float]) -> list[str]:
    """Return how the process is started: a bare interpreter that is told where our packages and NVML's binding lie, which spares memory.

    Raises ModuleNotFoundError where the binding is not installed.
    """
    binding = importlib.util.find_spec("pynvml")  # not imported here: it takes 4 MiB
    if binding is None or binding.origin is None:
        raise ModuleNotFoundError("the package nvidia-ml-py is not installed")
    roots = [str(Path(holdfast_nodeagent.__file__).parents[1]), str(Path(binding.origin).parent)]
    return [sys.executable, "-I", "-S", "-c", _START, *roots, library, *(str(tier_s) for tier_s in tiers_s)]


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what the process gets of our environment: how libraries are found, and what is NVIDIA's or the sandbox's."""
    passed = {
        name: value for name, value in ours.items() if name == "LD_LIBRARY_PATH" or name.startswith(("NVIDIA_", "HOLDFAST_FAKE_NVML"))
    }
    return {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1", **passed}
