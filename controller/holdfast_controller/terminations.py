"""Terminations that come together go together: one call for many instances, as a cloud's rate limit wants it."""

import asyncio

from holdfast_common.clock import Clock

from holdfast_controller.providers.base import Provider

GATHER_S = 0.05
MOST = 500
"""Instances in one call."""


class Terminations:
    """Of one cloud account."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._gathering: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def terminate(self, instance_id: str) -> None:
        """Ask for the instance's termination, together with those of the same moment. Raises ProviderError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(instance_id, []).append(done)
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.get_running_loop().create_task(self._gather())
        await done

    async def _gather(self) -> None:
        while self._waiting:
            await self._clock.sleep(GATHER_S)
            ids = list(self._waiting)[:MOST]
            asked = {instance_id: self._waiting.pop(instance_id) for instance_id in ids}
            # A region that hangs holds up those only that go with it.
            task = asyncio.get_running_loop().create_task(self._ask(asked))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _ask(self, asked: dict[str, list[asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            await self._provider.terminate(list(asked))
        except Exception as fault:  # whatever it was, those that wait must hear of it
            error = fault
        for done in (each for futures in asked.values() for each in futures if not each.done()):
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
