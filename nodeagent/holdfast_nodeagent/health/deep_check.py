"""`dcgmi diag`, where it is installed: runs the GPUs hard before the node gets its first job, if the policy wants that."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from holdfast_common.clock import Clock
from holdfast_common.health.model import Action, Finding

from holdfast_nodeagent.health.dcgm import Failure, NotTestedError, failures

LIMITS_S = {1: 60.0, 2: 300.0, 3: 1800.0, 4: 7200.0}
"""By level. NVIDIA's docs: seconds, two minutes, half an hour, one to two hours, for eight GPUs."""
MAX_OUTPUT = 4 * 1024 * 1024
POLL_S = 0.1
LEAVE_S = 10.0
"""Between SIGTERM and SIGKILL: a diagnosis that is killed leaves its load on the GPUs."""
RULE = "deep_check"
ADVICE = "NVIDIA: DCGM Diagnostics"

_PATH = ("/usr/bin", "/usr/local/bin", "/usr/sbin")


def installed() -> Path | None:
    """Return where dcgmi is."""
    found = shutil.which("dcgmi") or shutil.which("dcgmi", path=os.pathsep.join(_PATH))
    return Path(found) if found else None


class DeepCheck:
    """Runs it. What cannot be run says nothing of the GPUs: that is a note. Only a test that failed is more."""

    def __init__(self, clock: Clock, program: Path | None = None, limits_s: dict[int, float] = LIMITS_S) -> None:
        self._clock = clock
        self._program = program
        self._limits_s = limits_s

    async def run(self, level: int) -> tuple[str, tuple[Finding, ...]]:
        """Return `passed`, or what failed in a line, and the findings."""
        level = min(level, max(self._limits_s))
        program = self._program or installed()
        if program is None:
            return self._unable("dcgmi is not installed")
        try:
            output = await self._output([str(program), "diag", "-r", str(level), "--json"], self._limits_s[level])
            return self._judge(failures(output))
        except TimeoutError:
            return self._unable(f"dcgmi diag -r {level} has not ended within {self._limits_s[level]:g} s")
        except OSError as error:
            return self._unable(f"{program} cannot be run: {error.strerror}")
        except NotTestedError as error:
            return self._unable(str(error))

    def _judge(self, failed: Sequence[Failure]) -> tuple[str, tuple[Finding, ...]]:
        grave = [str(each) for each in failed if not each.mild]
        mild = [str(each) for each in failed if each.mild]
        if grave:
            text = "; ".join(grave)
            return text[:1024], (Finding(RULE, Action.REPLACE, self._clock.now(), text=text[:1024], advice=ADVICE),)
        if mild:
            return "passed", (Finding(RULE, Action.NOTE, self._clock.now(), text="; ".join(mild)[:1024], advice=ADVICE),)
        return "passed", ()

    def _unable(self, why: str) -> tuple[str, tuple[Finding, ...]]:
        text = f"not run: {why}"
        return text, (Finding(RULE, Action.NOTE, self._clock.now(), text=text, advice=ADVICE),)

    async def _output(self, command: Sequence[str], limit_s: float) -> bytes:
        """Return what it writes. Raises OSError, TimeoutError; NotTestedError where it writes too much or nothing.

        Not through asyncio's subprocess: cancelled while it starts one, that kills the process alone, and its children go on.
        """
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaint:
            process = _begin(command, output, complaint)
            ends = self._clock.monotonic() + limit_s
            try:
                while process.poll() is None:
                    _check_size(output)
                    _check_size(complaint)
                    if self._clock.monotonic() >= ends:
                        raise TimeoutError
                    await self._clock.sleep(POLL_S)
            finally:
                await self._end(process)
            said = _read(output)
            if not said.strip():
                raise NotTestedError(" ".join(_read(complaint).decode(errors="replace").split())[:200] or "it says nothing")
            return said

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Have it and its children leave, if they have not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            ends = self._clock.monotonic() + LEAVE_S
            while process.poll() is None and self._clock.monotonic() < ends:
                await self._clock.sleep(POLL_S)


def _begin(command: Sequence[str], output: IO[bytes], complaint: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=complaint, start_new_session=True)


def _check_size(file: IO[bytes]) -> None:
    if os.fstat(file.fileno()).st_size > MAX_OUTPUT:
        raise NotTestedError(f"it writes more than {MAX_OUTPUT} bytes")


def _read(file: IO[bytes]) -> bytes:
    """Return what was written. Raises NotTestedError: it is too much."""
    _check_size(file)
    file.seek(0)
    return file.read()
