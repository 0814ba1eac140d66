"""This node's slurmd: started once its name is known, and let go (stopped) when the node is given up."""

import logging
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from holdfast_common.clock import Clock

from holdfast_nodeagent.processes import Processes

RETRY_S = 5.0
COMMAND_S = 60.0
"""A command that has neither ended nor brought up slurmd after this long is left alone."""

log = logging.getLogger(__name__)


class Slurmd:
    """Runs the two commands of the settings, each in a session of its own, so that slurmd outlives the agent."""

    def __init__(
        self,
        start_command: Sequence[str],
        release_command: Sequence[str],
        slurm_conf: Path,
        processes: Processes,
        clock: Clock,
        log_path: Path,
    ) -> None:
        self._start_command = start_command
        self._release_command = release_command
        self._slurm_conf = slurm_conf
        self._processes = processes
        self._clock = clock
        self._log_path = log_path

    def running(self) -> bool:
        """Whether a slurmd runs here, whoever started it."""
        return self._processes.running("slurmd")

    async def start(self, node: str) -> None:
        """Start slurmd unless it runs; try again while the command fails. Returns at once where no command is set."""
        while self._start_command and not self.running():
            if await self._run([word.replace("{node}", node) for word in self._start_command], wait_for_slurmd=True):
                log.info("slurmd is started as node %s", node)
                return
            await self._clock.sleep(RETRY_S)

    async def release(self) -> None:
        """Run the command for a node that is given up; try again while it fails."""
        while self._release_command and not await self._run(list(self._release_command), wait_for_slurmd=False):
            await self._clock.sleep(RETRY_S)

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment
            )

    async def _run(self, command: list[str], *, wait_for_slurmd: bool) -> bool:
        """Run a command to its end, or until slurmd runs; False where it could not be started or failed.

        Not through asyncio's subprocess, which kills its children when the loop is closed.
        """
        environment = {**os.environ, "SLURM_CONF": str(self._slurm_conf)}
        try:
            process = self._spawn(command, environment)
        except OSError as error:
            log.error("%s cannot be run: %s", command[0], error.strerror)
            return False
        try:
            waited_s = 0.0
            while process.poll() is None and waited_s < COMMAND_S and not (wait_for_slurmd and self.running()):
                await self._clock.sleep(0.05)
                waited_s += 0.05
            if process.returncode:
                log.error("%s failed with %d, see %s", command[0], process.returncode, self._log_path)
            return not process.returncode
        finally:
            if process.returncode is None:
                process.returncode = 0  # it lives on without us: Popen shall not warn of that, and init reaps it after us
