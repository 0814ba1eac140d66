"""A node that nobody governs any more shuts itself down, so that no machine is paid for in silence.

While either the controller or slurmctld answers, somebody can still end the machine, or give it work: then nothing is done here. When both
have been silent for the whole limit, an empty node goes. A job that still runs is worth waiting for: Slurm takes up a job that outlived an
outage of slurmctld, and what it saves meanwhile is kept. But a job may also hang for ever on peers that are gone, and nobody is there to
see it, so the wait is bounded: after `HARD_FACTOR` limits (six hours by default: a night's outage is mended by then) the node goes all the
same, and the job is left with its last checkpoint. The same long wait holds where Slurm cannot be asked, which is not its silence: a
configless machine has no slurm.conf before it gets its name.

What a shutdown means for the bill: on EC2 it ends the instance (Holdfast launches with InstanceInitiatedShutdownBehavior=terminate). On
Google the VM stops, and its disks are still paid for. On Azure the VM stays allocated and is paid for in full: only a call to Azure ends
that, which an agent has no right to make.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from holdfast_common.clock import Clock
from holdfast_common.errors import HoldfastError

HARD_FACTOR = 12.0
LOOKS = 20
"""Looks in the time of the limit; while the controller is silent each one asks slurmctld once."""
LONGEST_PAUSE_S = 60.0
COMMAND_S = 60.0
"""A shutdown command that takes longer is left alone, and counts as done."""

log = logging.getLogger(__name__)


def due(now: float, controller_silent_since: float | None, slurm_silent_since: float | None, jobs_present: bool, limit_s: float) -> bool:
    """Return whether the node must shut itself down at `now`. Times are seconds of one clock; None: it answers, or nobody has asked it.

    A limit of 0 s means never.
    """
    if limit_s <= 0 or controller_silent_since is None or slurm_silent_since is None:
        return False
    silent_s = now - max(controller_silent_since, slurm_silent_since)
    return silent_s >= limit_s * (HARD_FACTOR if jobs_present else 1.0)


async def run_command(command: Sequence[str]) -> int:
    """Run a command to its end, or for `COMMAND_S`. Returns its status, 0 where it is still at work. Raises OSError."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        return await asyncio.wait_for(process.wait(), COMMAND_S)
    except TimeoutError:
        return 0


class Orphan:
    """Watches over the two that govern this node.

    `controller_silence_s` returns for how long the controller has said nothing at all although it owes us an answer; `ping_slurm` whether
    slurmctld answers, None where it cannot be asked.
    """

    def __init__(
        self,
        clock: Clock,
        controller_silence_s: Callable[[], float],
        ping_slurm: Callable[[], Awaitable[bool | None]],
        jobs_present: Callable[[], bool],
        limit_s: float,
        command: Sequence[str],
        run: Callable[[Sequence[str]], Awaitable[int]] = run_command,
    ) -> None:
        self._clock = clock
        self._controller_silence_s = controller_silence_s
        self._ping_slurm = ping_slurm
        self._jobs_present = jobs_present
        self._limit_s = limit_s
        self._command = command
        self._run = run
        self._slurm_silent_since: float | None = None

    async def run(self) -> None:
        """Watch until the shutdown command has been given. Returns at once where the limit is 0."""
        pause_s = min(LONGEST_PAUSE_S, self._limit_s / LOOKS)
        while self._limit_s > 0:
            await self._clock.sleep(pause_s)
            if await self._forsaken(pause_s) and await self._shut_down():
                return

    async def _forsaken(self, pause_s: float) -> bool:
        silence_s = self._controller_silence_s()
        if silence_s < pause_s:  # Slurm is not asked by a thousand nodes for nothing
            self._slurm_silent_since = None
            return False
        began = self._clock.monotonic()
        answers = await self._slurm_answers()
        if answers is not False:
            self._slurm_silent_since = None
        elif self._slurm_silent_since is None:
            self._slurm_silent_since = began
            log.warning("neither the controller (for %.0f s) nor slurmctld answers", silence_s)
        now = self._clock.monotonic()
        since = now - self._controller_silence_s()
        if answers is None:
            return due(now, since, since, True, self._limit_s)
        return due(now, since, self._slurm_silent_since, self._jobs_present(), self._limit_s)

    async def _slurm_answers(self) -> bool | None:
        try:
            return await self._ping_slurm()
        except HoldfastError:
            return False

    async def _shut_down(self) -> bool:
        """Give the command; False where it failed, and is to be given again."""
        log.critical("neither the controller nor slurmctld has answered for %g s: this node shuts itself down", self._limit_s)
        try:
            status = await self._run(self._command)
        except OSError as error:
            log.error("%s cannot be run: %s", self._command[0], error.strerror)
            return False
        if status:
            log.error("%s failed with %d", self._command[0], status)
        return not status
