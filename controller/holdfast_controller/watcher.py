"""What looks again and again have in common: how often, what a look that fails costs, and what is said of it."""

import asyncio
from abc import ABC, abstractmethod

import structlog
from holdfast_common.clock import Clock

from holdfast_controller.providers.base import PartialAnswerError

log = structlog.get_logger()


class Nudge:
    """Sleeps until the next look is due, or somebody wants it now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Have the next look at once."""
        self._event.set()

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s`, or when nudged."""
        sleeper = asyncio.ensure_future(self._clock.sleep(duration_s))
        nudged = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({sleeper, nudged}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeper.cancel()
            nudged.cancel()
            self._event.clear()


class Watcher(ABC):
    """Looks every `busy_s` while something is under way, and every `idle_s` else, or while looks fail."""

    complaint = "a look failed: nothing is concluded from that"
    """What the log says of the first of several failures."""

    def __init__(self, name: str, clock: Clock, *, busy_s: float, idle_s: float) -> None:
        self.nudge = Nudge(clock)
        self._name = name
        self._clock = clock
        self._busy_s, self._idle_s = busy_s, idle_s
        self._failing = False

    @abstractmethod
    async def look(self) -> None:
        """Look once. What it raises is logged, and concludes nothing."""

    @abstractmethod
    def busy(self) -> bool:
        """Whether the next look is wanted soon."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            answered = await self._looked()
            await self.nudge.sleep(self._busy_s if answered and self.busy() else self._idle_s)

    async def _looked(self) -> bool:
        """Look, and return whether there was an answer; one that is not whole is an answer, and is complained of as well."""
        try:
            await self.look()
        except Exception as error:
            if not self._failing:
                log.warning(self.complaint, of=self._name, error=f"{type(error).__name__}: {error}")
            self._failing = True
            return isinstance(error, PartialAnswerError)
        self._failing = False
        return True
