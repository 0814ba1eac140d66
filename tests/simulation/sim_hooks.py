"""Slurm's hooks: ResumeProgram, SuspendProgram, ResumeFailProgram and PrologSlurmctld, as far as the controller hears of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast_controller.agents import AgentHub
from holdfast_controller.hooks import HookService
from holdfast_protos.v1 import hook_pb2
from holdfast_protos.v1.agent_pb2 import AgentMessage, ControllerMessage
from holdfast_slurm.fake import FakeJob
from sim_loop import controller_context

if TYPE_CHECKING:
    from sim_world import World

T = TypeVar("T")


class Hooks:
    """Delivers calls to the controller while it lives; they can be lost, doubled and late."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.service: HookService | None = None
        self.lose = 0
        """So many of the next calls never arrive."""
        self.double = 0
        """So many of the next calls arrive twice."""
        self.late_s = 0.0

    async def _deliver(self, call: Callable[[HookService], Coroutine[Any, Any, Any]]) -> None:
        if self.lose > 0:
            self.lose -= 1
            return
        times = 1
        if self.double > 0:
            self.double -= 1
            times = 2
        for _ in range(times):
            if self.late_s:
                await self._world.clock.sleep(self.late_s)
            if self.service is None:
                return  # hooks are never spooled
            await _bounded(call(self.service))

    async def resume(self, names: tuple[str, ...]) -> None:
        jobs = [job for job in self._world.slurm.engine.queue.values() if job.state == "CONFIGURING" and set(job.nodes) & set(names)]
        wanted = [hook_pb2.ResumeJob(job_id=job.job_id, nodes=[name for name in job.nodes if name in names]) for job in jobs]
        await self._deliver(lambda hooks: hooks.Resume(hook_pb2.ResumeRequest(nodes=names, jobs=wanted), None))

    async def suspend(self, names: tuple[str, ...]) -> None:
        await self._deliver(lambda hooks: hooks.Suspend(hook_pb2.SuspendRequest(nodes=names), None))

    async def resume_fail(self, names: tuple[str, ...]) -> None:
        await self._deliver(lambda hooks: hooks.ResumeFail(hook_pb2.ResumeFailRequest(nodes=names), None))

    async def gate(self, job: FakeJob) -> None:
        """Wait as the real gate does: until the controller says so, or has been silent for too long."""
        nodes, patience_s, clock = job.nodes, 5.0, self._world.clock
        heard = clock.now()
        while clock.now() - heard < patience_s:
            if self.service is not None:
                request = hook_pb2.AwaitNodesRequest(job_id=job.job_id, nodes=nodes, wait_s=20.0)
                reply = await _bounded(self.service.AwaitNodes(request, None))
                if reply is not None and reply.outcome != hook_pb2.AwaitNodesReply.WAIT:
                    return
                heard, patience_s = clock.now(), 60.0
            await clock.sleep(0.5)


class Door:
    """Where agents reach the controller: what is behind it is frozen with the controller."""

    def __init__(self, hub: AgentHub) -> None:
        self._hub = hub

    async def Connect(self, messages: AsyncIterator[AgentMessage], context: Any) -> AsyncIterator[ControllerMessage]:  # noqa: N802
        """Pass one stream through."""
        answers: asyncio.Queue[ControllerMessage | None] = asyncio.Queue()

        async def pump() -> None:
            try:
                async for message in self._hub.Connect(messages, context):
                    answers.put_nowait(message)
            finally:
                answers.put_nowait(None)

        behind = asyncio.get_running_loop().create_task(pump(), context=controller_context())
        try:
            while (message := await answers.get()) is not None:
                yield message
        finally:
            behind.cancel()


async def _bounded(call: Coroutine[Any, Any, T], limit_s: float = 30.0) -> T | None:
    """A hook waits only so long; a controller that died never answers."""
    try:
        async with asyncio.timeout(limit_s):
            return await call
    except TimeoutError:
        return None
