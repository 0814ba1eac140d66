"""Slurm as the simulated controller and agents reach it: commands that hang or lose their answer, looks that arrive old."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from holdfast_common.errors import SlurmUnavailable
from holdfast_slurm.fake import FakeJob, FakeSlurm

LOOKS = ("nodes", "jobs", "job")
DEEDS = (
    "drain", "resume", "down", "power_down", "power_up", "set_addresses", "requeue", "start_after", "update_job", "hold", "release",
    "reserve", "use_reservation", "unreserve", "signal",
)  # fmt: skip
PATIENCE_S = 10.0
"""The client ends a command that takes longer, and knows nothing of what it did."""


@dataclass
class Trouble:
    """What goes wrong with the next `times` calls of the methods."""

    methods: tuple[str, ...]
    times: int
    acts: bool
    """It is carried out, and the answer lost; else it hangs and does nothing."""
    delay_s: float


class SimSlurm(FakeSlurm):
    """Has each of our requeues looked at (was there a reason?), and goes wrong on order."""

    on_requeue: Callable[[FakeJob], None]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.troubles: list[Trouble] = []
        self.before_s = self.after_s = 0.0
        """A look takes so long until slurmctld looks, and its answer so long to arrive."""

    @property
    def troubled(self) -> bool:
        """Whether something is wrong now, so that nothing is promised but that all will be well in the end."""
        return self.unavailable or self.engine.away or bool(self.troubles) or self.before_s + self.after_s > 0

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self.troubles.clear()
        self.unavailable, self.before_s, self.after_s = False, 0.0, 0.0

    async def through(self, method: str, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Make a call with whatever is wrong now."""
        slow = method in LOOKS and self.before_s + self.after_s > 0
        trouble = next((each for each in self.troubles if method in each.methods), None)
        if trouble is None and not slow:
            return await call()
        if trouble is not None:
            trouble.times -= 1
            if trouble.times <= 0:
                self.troubles.remove(trouble)
        # A process of its own: it goes on when the controller dies, or is frozen.
        task = asyncio.get_running_loop().create_task(self._process(call, trouble, slow=slow), context=Context())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _process(self, call: Callable[[], Coroutine[Any, Any, Any]], trouble: Trouble | None, *, slow: bool) -> Any:
        if slow:
            await self._clock.sleep(self.before_s)
        if trouble is None or trouble.acts:
            answer = await call()
            if slow:
                await self._clock.sleep(self.after_s)
            if trouble is None:
                return answer
        await self._clock.sleep(min(trouble.delay_s, PATIENCE_S))
        raise SlurmUnavailable("slurm_load_jobs error: Socket timed out on send/recv operation")

    async def requeue(self, key: str, *, ended: bool = False) -> None:
        job = self.engine.queue.get(key)
        if job is not None and not self.unavailable:
            self.on_requeue(job)
        await super().requeue(key, ended=ended)


def _troubled(method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    inner = getattr(SimSlurm, method)

    async def call(self: SimSlurm, *arguments: Any, **more: Any) -> Any:
        return await self.through(method, lambda: inner(self, *arguments, **more))

    return call


for _method in (*LOOKS, *DEEDS):
    setattr(SimSlurm, _method, _troubled(_method))
