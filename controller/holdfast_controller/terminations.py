"""Terminations that come together go together: one call for many instances, as a cloud's rate limit wants it."""

import asyncio
from collections.abc import Sequence

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
        self._worker: asyncio.Task[None] | None = None

    async def terminate(self, instance_id: str) -> None:
        """Ask for the instance's termination, together with those of the same moment. Raises ProviderError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(instance_id, []).append(done)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        await done

    async def _work(self) -> None:
        while self._waiting:
            await self._clock.sleep(GATHER_S)
            ids = list(self._waiting)[:MOST]
            asked = [(instance_id, self._waiting.pop(instance_id)) for instance_id in ids]
            error = await self._ask(ids)
            for done in (each for _, futures in asked for each in futures if not each.done()):
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _ask(self, ids: Sequence[str]) -> Exception | None:
        try:
            await self._provider.terminate(ids)
        except Exception as error:  # whatever it was, those that wait must hear of it
            return error
        return None
