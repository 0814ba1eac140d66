"""Commands become deeds. Each looks first whether its deed is still wanted and not yet done (its fence), so that it may run twice.

Slurm's commands and the clouds' clients never share a pool of threads: a cloud that hangs delays no evacuation.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from holdfast_common.clock import Clock
from holdfast_common.errors import HoldfastError, SlurmRefused, Temporary
from holdfast_common.notice import Notice
from holdfast_slurm.client import Slurm

from holdfast_controller import commands as c
from holdfast_controller.cloud_effects import CloudEffects
from holdfast_controller.events import CommandFinished, Event, NoticeReceived, NoticeWithdrawn
from holdfast_controller.slurm_effects import SlurmEffects


class Agents(Protocol):
    """The agents that are connected now. Each method raises `Temporary` where the agent is not, or does not acknowledge in time."""

    async def welcome(self, instance_id: str, node: str) -> None:
        """Tell the agent its node's name."""

    async def prepare(self, instance_id: str, job_ids: tuple[int, ...], notice: Notice, *, cancelled: bool) -> None:
        """Have the agent tell its jobs of the notice."""

    async def turn_away(self, instance_id: str, reason: str) -> None:
        """Tell the agent that it is not wanted."""

    async def release(self, instance_id: str, reason: str) -> None:
        """Tell the agent that its node is given up."""


class ControllerEffects:
    """What the reactor calls: one method for each command."""

    def __init__(self, slurm: Slurm, cloud: CloudEffects, agents: Agents, clock: Clock, *, bound: Callable[[str], str]) -> None:
        """`bound` tells which instance holds a node's name now (empty: none)."""
        self._slurm = SlurmEffects(slurm, clock, bound)
        self._cloud = cloud
        self._agents = agents
        self._clock = clock
        self._bound = bound
        deeds = self._slurm
        self._table: Mapping[type[c.Command], Callable[[Any, bool], Awaitable[tuple[Event, ...]]]] = {
            c.DrainNode: deeds.drain,
            c.UndrainNode: deeds.undrain,
            c.PowerDownNode: self._power_down,
            c.SetNodeDown: deeds.set_down,
            c.ReviveNode: deeds.revive,
            c.PowerUpNode: deeds.power_up,
            c.RedirectLaunch: deeds.let_go,
            c.SignalJob: deeds.signal,
            c.RequeueJob: deeds.requeue,
            c.StartJob: deeds.start,
            c.ReserveNodes: deeds.reserve,
            c.UnreserveNodes: deeds.unreserve,
            c.HoldJob: deeds.hold_job,
            c.ReleaseJob: deeds.release_job,
            c.TellJob: deeds.tell,
            c.GiveUp: deeds.give_up,
            c.Launch: cloud.launch,
            c.TerminateInstance: cloud.terminate,
            c.BindInstance: self._bind,
            c.PrepareJobs: self._prepare,
            c.TurnAwayAgent: self._turn_away,
            c.CondemnNode: self._condemn,
            c.PardonNode: self._pardon,
        }

    async def run(self, command: c.Command, *, resumed: bool) -> tuple[Event, ...]:
        """Carry the command out. Failures that a retry may cure come back as `failed`, a clear no as `refused`."""
        try:
            facts = await self._table[type(command)](command, resumed)
        except SlurmRefused as error:
            return (CommandFinished(self._clock.now(), 0, command.key, "refused", str(error)),)
        except Temporary as error:
            return (CommandFinished(self._clock.now(), 0, command.key, "failed", str(error), error.retry_s),)
        except HoldfastError as error:
            return (CommandFinished(self._clock.now(), 0, command.key, "failed", str(error), 10.0),)
        if any(isinstance(fact, CommandFinished) for fact in facts):
            return facts
        return (*facts, CommandFinished(self._clock.now(), 0, command.key))

    async def _power_down(self, command: c.PowerDownNode, resumed: bool) -> tuple[Event, ...]:
        facts = await self._slurm.power_down(command, resumed)
        if command.instance_id and not facts:
            try:
                await self._agents.release(command.instance_id, command.reason)
            except Temporary:
                return facts  # it only saves the agent a look; the machine goes anyway
        return facts

    async def _bind(self, command: c.BindInstance, resumed: bool) -> tuple[Event, ...]:
        await self._slurm.set_address(command.node, command.address)
        await self._agents.welcome(command.instance_id, command.node)
        return ()

    async def _prepare(self, command: c.PrepareJobs, resumed: bool) -> tuple[Event, ...]:
        assert command.notice is not None
        await self._agents.prepare(command.instance_id, command.job_ids, command.notice, cancelled=command.cancelled)
        return ()

    async def _condemn(self, command: c.CondemnNode, resumed: bool) -> tuple[Event, ...]:
        if self._bound(command.node) != command.instance_id:
            return (CommandFinished(self._clock.now(), 0, command.key, "moot", "another machine has the name"),)
        return (NoticeReceived(self._clock.now(), command.node, command.notice, "health", command.keep_until),)

    async def _pardon(self, command: c.PardonNode, resumed: bool) -> tuple[Event, ...]:
        return (NoticeWithdrawn(self._clock.now(), command.node, command.notice_id),)

    async def _turn_away(self, command: c.TurnAwayAgent, resumed: bool) -> tuple[Event, ...]:
        await self._agents.turn_away(command.instance_id, command.reason)
        return ()


class LateEffects:
    """Effects that are wired after the reactor which calls them: agents' streams and effects know the reactor, too."""

    inner: ControllerEffects

    async def run(self, command: c.Command, *, resumed: bool) -> tuple[Event, ...]:
        """Carry the command out."""
        return await self.inner.run(command, resumed=resumed)
