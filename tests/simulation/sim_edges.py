"""The edges of the simulated controller: its journal, its effects, and the clients with which it reaches Slurm and the cloud."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast_controller import journal
from holdfast_controller.commands import Command
from holdfast_controller.events import Event
from holdfast_controller.fleet import Fleet
from holdfast_controller.journal import Journal
from holdfast_controller.providers.base import LaunchRequest, LaunchResult
from holdfast_controller.providers.fake import FakeProvider

if TYPE_CHECKING:
    from sim_world import World

T = TypeVar("T")
SNAPSHOT_EVERY = 30


class SimJournal(Journal):
    """Writes at once, and can be the place where the controller dies."""

    def __init__(self, path: Path, world: "World") -> None:
        super().__init__(path)
        self._world = world
        self.dead = False

    async def _run(self, call: Callable[[], T]) -> T:
        return call()

    def _load(self, nodes: frozenset[str]) -> Any:
        fleet = super()._load(nodes)
        assert self._db is not None
        self._db.execute("PRAGMA synchronous=OFF")  # nobody cuts the power here
        return fleet

    async def write(self, batch: Sequence[Event]) -> list[int]:
        assert not self.dead, "a dead controller writes its journal"
        await self._world.pass_point("write")
        seqs = await super().write(batch)
        await self._world.pass_point("written")
        return seqs

    async def snapshot_if_due(self, fleet: Fleet, seq: int, now: float) -> None:
        if self._since_snapshot >= SNAPSHOT_EVERY:
            self._since_snapshot = journal.SNAPSHOT_EVERY  # far more often than in production, so that restarts begin from one
        await super().snapshot_if_due(fleet, seq, now)

    def drop(self) -> None:
        """Close the file without a word, as a dying process does."""
        self.dead = True
        if self._db is not None:
            self._db.close()


class Mortal:
    """Effects between which the controller can die; whatever breaks in one is noted."""

    def __init__(self, inner: Any, world: "World") -> None:
        self._inner = inner
        self._world = world

    async def run(self, command: Command, *, resumed: bool) -> tuple[Event, ...]:
        await self._world.pass_point("effect")
        try:
            outcome: tuple[Event, ...] = await self._inner.run(command, resumed=resumed)
        except Exception as error:
            self._world.wrong(f"the effect of {command} broke: {type(error).__name__}: {error}")
            raise
        await self._world.pass_point("effected")
        return outcome


class SimProvider(FakeProvider):
    """Remembers what was asked for, so that machines get their user data."""

    requests: dict[str, LaunchRequest]

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        self.requests[request.launch_id] = request
        return await super().launch(request)
