"""The newest that each agent said of its node's health: for people, never a ground for a decision."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from holdfast_protos.v1 import agent_pb2

MOST = 10_000


@dataclass(frozen=True, slots=True)
class HealthSample:
    """One agent's word."""

    heard_at: float
    """Unix seconds."""
    health: agent_pb2.Health
    number: int
    """Of all words that were heard, this one's."""


class HealthSamples:
    """Instance → its agent's newest word, and a way to wait for the next."""

    def __init__(self) -> None:
        self._newest: dict[str, HealthSample] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self.heard = 0
        """Words, of all agents."""

    def note(self, instance_id: str, health: agent_pb2.Health, at: float) -> None:
        """Keep it, and wake who waits for it."""
        self._newest.pop(instance_id, None)
        self.heard += 1
        self._newest[instance_id] = HealthSample(at, health, self.heard)
        if len(self._newest) > MOST:
            del self._newest[next(iter(self._newest))]
        waited = self._changed.pop(instance_id, None)
        if waited is not None:
            waited.set()

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Forget what agents of machines said that are gone: one's word takes 60 kB."""
        for instance_id in [each for each in self._newest if gone(each)]:
            del self._newest[instance_id]

    def get(self, instance_id: str) -> HealthSample | None:
        """Return the newest word; None: none yet."""
        return self._newest.get(instance_id)

    async def after(self, instance_id: str, number: int) -> None:
        """Return when the agent has said something that is newer than the word of that number."""
        while (sample := self.get(instance_id)) is None or sample.number <= number:
            await self._changed.setdefault(instance_id, asyncio.Event()).wait()
