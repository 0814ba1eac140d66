"""What runs on the machines of the cloud in memory: an agent on each, and a slurmd once it has a name."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_common.evacuation import Limits
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller.fakes import FakeAgent
from holdfast_controller.providers.fake_machines import Machine
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.fallback import Fallback
from holdfast_nodeagent.jobdirs import JobKey
from holdfast_nodeagent.notices.base import Identity
from holdfast_nodeagent.record import Record
from holdfast_protos.v1 import agent_pb2 as pb
from sim_health import Health

if TYPE_CHECKING:
    from sim_world import World

SLURMD_S = 0.3
RECONNECT_S = 0.5
PATIENCE_S = 2.0


class MemoryRecord(Record):
    """What an agent remembers, without a disk."""

    def save(self) -> None:
        pass


class JobsHere:
    """What the fallback asks of the jobs on its node."""

    def __init__(self, machine: "SimMachine") -> None:
        self._machine = machine

    @property
    def reports(self) -> Mapping[JobKey, Report]:
        return self._machine.world.training.reports(self._machine)

    def occupied(self) -> bool:
        return self._machine.world.training.occupied(self._machine)


class SimMachine:
    """A virtual machine of ours, from its launch to its end."""

    def __init__(self, world: "World", machine: Machine, token: str) -> None:
        self.world = world
        self.cloud = machine
        self.iid = machine.instance_id
        self.alive = True
        self.registered = ""
        """The node name under which its slurmd registered."""
        self.hung = False
        self.mute = False
        """It boots, but its agent never finds the controller."""
        self.own: dict[str, Notice] = {}
        self.warned = False
        """It was given a notice, which may have been withdrawn since."""
        self.prepared: dict[int, dict[str, Notice]] = {}
        self.blind = False
        """Its agent cannot tell whose Slurm's processes on it are."""
        self.boots = 0
        self._token = token
        self.session: asyncio.Task[None] | None = None
        self._boot()

    def _boot(self) -> None:
        """What begins anew with each boot."""
        world = self.world
        self.boots += 1
        self.registered, self._slurmd_begun = "", False
        self.health = Health(self)
        boot_id = f"boot-{self.boots}"
        self.agent = FakeAgent(
            self.iid,
            self._token,
            self.cloud.view(world.clock.now(), world.provider.timing).address,
            world.clock,
            on_welcome=self._welcome,
            on_prepare=self._prepare,
            boot_id=boot_id,
            heartbeat=self._heartbeat,
        )
        record = MemoryRecord(Path("/nonexistent"), boot_id)
        record.identity = Identity(instance_id=self.iid, provider="fake")
        jobs = JobsHere(self)
        self._record = record
        self._fallback = Fallback(self, jobs, world.slurm, record, world.clock, Limits(), self.agent.silence_s, PATIENCE_S)
        self._tasks = [world.spawn(self._life())]

    def _heartbeat(self) -> pb.Heartbeat:
        known = bool(self.registered) and not self.blind
        return pb.Heartbeat(slurmd_running=bool(self.registered), steps_known=known, step_jobs=self.world.training.steps(self))

    def reboot(self) -> None:
        """All that ran on it is gone; it comes back without its name."""
        if not self.well:
            return
        self.cut()
        for task in self._tasks:
            task.cancel()
        self.health.end()
        if self.registered:
            self.world.slurm.node_dies(self.registered)
        self._boot()
        if self.own:
            self._tasks.append(self.world.spawn(self._fallback.run()))

    @property
    def well(self) -> bool:
        """Whether processes run on it."""
        return self.alive and not self.hung

    @property
    def leaves(self) -> bool:
        """Whether there is, or was, a reason for jobs to leave it."""
        return self.warned or self.health.was_condemned

    @property
    def acted(self) -> bool:
        """Whether its agent has evacuated it by itself."""
        return bool(self._record.kept.acted)

    def doom(self) -> Notice | None:
        """The notice because of which jobs must leave now (for the fallback)."""
        now = self.world.clock.now()
        return min((notice for notice in self.own.values() if notice.evacuates(now)), key=lambda notice: notice.deadline, default=None)

    @property
    def name(self) -> str:
        return self.agent.node

    def notices(self, job_id: int) -> list[Notice]:
        """The notices because of which the job must leave, as its agent here knows them."""
        now = self.world.clock.now()
        found = [*self.own.values(), *self.prepared.get(job_id, {}).values()]
        return [notice for notice in found if notice.evacuates(now)]

    async def _life(self) -> None:
        await self.world.clock.sleep(self.world.provider.timing.boot_s)
        while True:
            hub = self.world.hub
            if hub is None or self.mute:
                await self.world.clock.sleep(RECONNECT_S)
                continue
            self.session = self.world.spawn(self.agent.session(hub))
            await asyncio.wait({self.session})
            await self.world.clock.sleep(RECONNECT_S)

    def cut(self) -> None:
        """The controller's end of the stream is gone."""
        if self.session is not None:
            self.session.cancel()

    def noticed(self, *, lasting_s: float) -> float | None:
        """Return when it was first given the notice that stands now, if that leaves so much time."""
        preempts = (notice for notice in self.own.values() if notice.kind is NoticeKind.PREEMPT)
        standing = [notice.received for notice in preempts if notice.deadline - notice.received >= lasting_s]
        return min(standing, default=None)

    def away(self, duration_s: float) -> None:
        """The agent and the controller cannot reach each other for so long; the machine is well."""
        self.mute = True
        self.world.disturbed()
        self.cut()

        async def back() -> None:
            await self.world.clock.sleep(duration_s)
            self.mute = False
            self.world.disturbed()

        self._tasks.append(self.world.spawn(back()))

    def _welcome(self, node: str) -> None:
        self.world.named(self, node)
        for notice in self.own.values():
            self.say_notice(notice)
        self.world.training.resend(self)
        self.health.say()
        if not self._slurmd_begun and self.health.fit:
            self._slurmd_begun = True
            self._tasks.append(self.world.spawn(self._slurmd()))

    async def _slurmd(self) -> None:
        await self.world.clock.sleep(SLURMD_S)
        while self.world.slurm.unavailable:
            await self.world.clock.sleep(1.0)
        self.world.registers(self)

    def _prepare(self, job_ids: tuple[int, ...], notice: Notice, cancelled: bool) -> None:
        for job_id in job_ids:
            began = self.world.training.began_at(self, job_id)
            told = self.prepared.setdefault(job_id, {})
            if cancelled:
                told.pop(notice.id, None)
            elif began is not None and began <= notice.received:  # a later attempt is not on the doomed node any more
                told[notice.id] = notice

    def notice(self, window_s: float, kind: NoticeKind = NoticeKind.PREEMPT) -> None:
        """The metadata service shows a notice; the agent reads it within a second."""
        if not self.well:
            return
        now = self.world.clock.now()
        notice = Notice(f"{self.iid}-{kind}-{now:.0f}", kind, now + window_s, now, "spot interruption")
        self._tasks.append(self.world.spawn(self._read_notice(notice)))

    async def _read_notice(self, notice: Notice) -> None:
        await self.world.clock.sleep(0.5)
        if not self.warned:  # before that it only waits
            self._tasks.append(self.world.spawn(self._fallback.run()))
        self.own[notice.id], self.warned = notice, True
        self.say_notice(notice)

    def say_notice(self, notice: Notice) -> None:
        message = pb.Notice(id=notice.id, kind=notice.kind.value, deadline=notice.deadline, received=notice.received, reason=notice.reason)
        self.agent.put(f"notice:{notice.id}", notice=message)

    def spare(self) -> None:
        """The cloud takes the reclaim and its notices back."""
        if not self.well:
            return
        self.world.provider.spare(self.iid)
        for notice_id in list(self.own):
            del self.own[notice_id]
            self.agent.put(f"notice:{notice_id}", notice_cancelled=pb.NoticeCancelled(id=notice_id))

    def hang(self) -> None:
        """Nothing on it answers any more, though the cloud takes it for healthy."""
        self.hung = True
        self.health.end()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self.registered:
            self.world.slurm.node_dies(self.registered)

    def die(self) -> None:
        """The machine is gone, whole and at once."""
        self.alive = False
        self.health.end()
        self.cut()
        for task in self._tasks:
            task.cancel()


class Room:
    """All machines; told by the provider of whatever is done to one."""

    def __init__(self, world: "World", on_death: Callable[[SimMachine], None]) -> None:
        self.world = world
        self.machines: dict[str, SimMachine] = {}
        self.mute_next = 0
        """So many of the next machines never find the controller."""
        self.sick_next = 0
        """So many of the next machines do not pass the check before slurmd's start."""
        self._on_death = on_death
        self._watched: dict[str, asyncio.Task[None]] = {}

    def changed(self, machine: Machine) -> None:
        """Hear of a machine: a new one, or one whose end has been set."""
        known = self.machines.get(machine.instance_id)
        if known is None:
            request = self.world.requests[machine.launch_id]
            token = json.loads(request.user_data)["holdfast"]["launch_token"]
            known = self.machines[machine.instance_id] = SimMachine(self.world, machine, token)
            if self.mute_next > 0:
                self.mute_next -= 1
                known.mute = True
            if self.sick_next > 0:
                self.sick_next -= 1
                known.health.find("drain")
        if machine.terminated is not None:
            self.world.terminating(known)
        with contextlib.suppress(KeyError):
            self._watched.pop(machine.instance_id).cancel()
        end = machine.ended(self.world.provider.timing)[0]
        if end < float("inf") and known.alive:
            self._watched[machine.instance_id] = self.world.spawn(self._await_end(known, end))

    async def _await_end(self, machine: SimMachine, end: float) -> None:
        await self.world.clock.sleep(max(0.0, end - self.world.clock.now()))
        machine.die()
        self._on_death(machine)

    def living(self) -> list[SimMachine]:
        """Machines that are not gone."""
        return [machine for machine in self.machines.values() if machine.alive]

    def holder(self, node: str) -> SimMachine | None:
        """The living machine whose slurmd registered as the node."""
        return next((machine for machine in self.living() if machine.registered == node), None)
