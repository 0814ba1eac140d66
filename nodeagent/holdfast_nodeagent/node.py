"""What the agent does on each word: from the cloud, from the controller, from the jobs of its node."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from holdfast_common.clock import Clock
from holdfast_common.faults import fault_point
from holdfast_common.jobfiles import TIME_MAX, ContextFile
from holdfast_common.notice import Notice, NoticeKind
from holdfast_protos.v1 import agent_pb2 as pb

from holdfast_nodeagent import __version__
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.health.keeping import first_of
from holdfast_nodeagent.jobdirs import JobKey
from holdfast_nodeagent.jobs import Jobs
from holdfast_nodeagent.notices.base import Answer, Identity, NoticeSource, Unclear, follow, notice_id, strongest
from holdfast_nodeagent.record import Record
from holdfast_nodeagent.slurmd import Slurmd

URGENT_TICK_S = 0.05
TICK_S = 0.5

log = logging.getLogger(__name__)

Say = Callable[[str, pb.AgentMessage], None]


class Health(Protocol):
    """Whoever watches this node's health: `health.watch.HealthWatch`. Must not block, nor raise."""

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """The controller knows us: how the node is must be said again."""

    def on_rules(self, message: pb.HealthRules) -> None:
        """Judge by these rules."""

    def on_order(self, order: pb.HealthOrder) -> None:
        """Look now, or forget a finding."""

    def gpus_of(self, job_id: int) -> int:
        """Return how many GPUs the job uses here; 0: not known."""

    def on_sent(self, sent_at: float) -> None:
        """The controller's clock showed this a moment ago, Unix seconds."""


class Node:
    """One node: the link's listener, and the owner of its notices.

    Nothing here waits for the controller.
    """

    def __init__(self, identity: Identity, record: Record, slurmd: Slurmd, clock: Clock, window_s: float, boot_id: str) -> None:
        self.identity = identity
        self.record = record
        self._slurmd = slurmd
        self._clock = clock
        self._window_s = window_s
        self._boot_id = boot_id
        self._hazard_per_h: float | None = None
        self.metrics_port = 0
        """Where our /metrics are; 0: not served."""
        if not record.kept.began:
            record.kept.began = clock.now()
        self._faults: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._named = asyncio.Event()
        self._released = asyncio.Event()
        if record.kept.node:
            self._named.set()
        if record.kept.released:
            self._released.set()

    def wire(self, jobs: Jobs, say: Say, health: Health, fit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Connect the parts that need this one to be made.

        `say(slot, message)` queues a message for the controller; `fit()` returns once the node may get jobs.
        """
        self._jobs = jobs
        self._say = say
        self._health = health
        self._fit = fit

    @property
    def name(self) -> str:
        """The node's name in Slurm; empty until the controller has given it."""
        return self.record.kept.node

    @property
    def notices(self) -> tuple[Notice, ...]:
        """All notices for this node that are in force."""
        return tuple(notice for found in self.record.notices.values() for notice in found)

    def doom(self) -> Notice | None:
        """Return the notice because of which jobs must leave this node now, if there is one."""
        now = self._clock.now()
        return strongest((notice for notice in self.notices if notice.evacuates(now)), now)

    # The cloud's word

    async def watch_notices(self, source: NoticeSource, poll_s: float) -> None:
        """Ask the metadata service until cancelled."""
        heard: set[str] = set()
        unheard: set[str] = set()
        settled = False
        while True:
            answers = await source.look()
            self._window_s = source.window_s
            for name, answer in answers.items():
                self.take(name, answer)
            heard |= {name for name, answer in answers.items() if not isinstance(answer, Unclear)}
            unheard = (unheard | set(answers)) - heard
            if not settled and not unheard:
                self._settle()
                settled = True
            await self._clock.sleep(poll_s)

    def _settle(self) -> None:
        """Each source has answered since our start: a notice for this node that a job was told of and that none gives any more is over.

        We were ended between telling it and remembering it, and took it for another node's.
        """
        self._tick()
        self._jobs.disown(lambda notice: notice.id == notice_id(self.identity.instance_id, notice.kind, notice.deadline))
        self._changed.set()

    def take(self, source: str, answer: Answer) -> None:
        """Act on one answer: jobs are told first, then it is remembered, then the controller is told."""
        self._report_fault(source, answer)
        change = follow(self.record.notices, source, answer, self._clock.now(), self.identity.instance_id)
        if not change.appeared and not change.cancelled:
            return
        self.record.notices = dict(change.active)
        for notice in change.appeared:
            log.warning("notice %s: %s, deadline in %.1f s", notice.id, notice.reason, notice.deadline - self._clock.now())
        self._tick()
        fault_point("agent.notice_told")
        in_force = {notice.id for notice in self.notices}
        self.record.kept.acted = [each for each in self.record.kept.acted if each in in_force]
        if not self.record.kept.acted:
            self.record.kept.attempts = [each for each in self.record.kept.attempts if each.signalled]
            self.record.kept.power_down_at = None
        self.record.save()
        fault_point("agent.notice_kept")
        for notice in change.appeared:
            self.say_notice(notice)
        for notice in change.cancelled:
            log.warning("notice %s is cancelled", notice.id)
            self._say(f"notice:{notice.id}", pb.AgentMessage(notice_cancelled=pb.NoticeCancelled(id=notice.id)))
        self._changed.set()

    def say_notice(self, notice: Notice) -> None:
        """Tell the controller of a notice, and whether we have begun to act on it ourselves."""
        message = pb.Notice(
            id=notice.id,
            kind=notice.kind.value,
            deadline=notice.deadline,
            received=notice.received,
            reason=notice.reason,
            acted=notice.id in self.record.kept.acted,
        )
        self._say(f"notice:{notice.id}", pb.AgentMessage(notice=message))

    def _report_fault(self, source: str, answer: Answer) -> None:
        fault = answer.fault if isinstance(answer, Unclear) else ""
        if fault != self._faults.get(source, ""):
            self._faults[source] = fault
            log.warning("%s", fault or f"{source}: all is well again")

    # The jobs' word

    async def watch_jobs(self) -> None:
        """Follow the jobs until cancelled: twice a second, twenty times while a notice is in force."""
        while True:
            self._changed.clear()
            self._tick()
            await self._wait(URGENT_TICK_S if self._jobs.urgent else TICK_S)

    def on_report(self, report: Report) -> None:
        """Tell the controller what a job says."""
        status = pb.JobStatus(
            job_id=report.key.job_id,
            attempt=report.key.attempt,
            state=report.state,
            notice_id=report.notice_id,
            step=report.step,
            saved_step=report.saved_step,
            save_expected_s=report.save_expected_s,
            all_ranks_parked=report.all_ranks_parked,
            ranks=report.ranks,
            stopped_on_notice=report.stopped_on_notice,
            started=report.started,
            step_s=report.step_s,
            gpus=self._health.gpus_of(report.key.job_id),
        )
        self._say(f"job:{report.key}", pb.AgentMessage(job_status=status))

    def on_gone(self, key: JobKey) -> None:
        """Tell the controller that a job has left."""
        log.info("job %s: no process is left", key)
        self._say(f"gone:{key}", pb.AgentMessage(job_gone=pb.JobGone(job_id=key.job_id, attempt=key.attempt)))
        self._changed.set()

    def enrich(self, context: ContextFile) -> ContextFile:
        """Return a job's context with what we know; the age is that of the moment at which it is first written.

        The hazard that a job was told stands until another is known: after our own restart, the controller's word may be long in coming.
        """
        known = {
            "provider": self.identity.provider,
            "zone": self.identity.zone or None,
            "instance_type": self.identity.instance_type or None,
            "market": self.record.kept.market or self.identity.market or None,
            "window_s": self._window_s,
            "hazard_per_h": context.hazard_per_h if self._hazard_per_h is None else self._hazard_per_h,
            "age_s": context.age_s if context.age_s is not None else max(0.0, self._clock.now() - self.record.kept.began),
        }
        return context.model_copy(update=known)

    def _tick(self) -> None:
        self._jobs.set_own(self.notices)
        try:
            self._jobs.tick()
        except OSError as error:
            self._report_fault("jobs", Unclear(f"the jobs' directories cannot be used: {error}"))
        else:
            self._report_fault("jobs", ())

    async def _wait(self, longest_s: float) -> None:
        tasks = {asyncio.ensure_future(self._clock.sleep(longest_s)), asyncio.ensure_future(self._changed.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    # The controller's word (link.Listener)

    def hello(self) -> pb.Hello:
        """Return who we are."""
        known = self.identity
        return pb.Hello(
            instance_id=known.instance_id,
            boot_id=self._boot_id,
            launch_token=known.launch_token,
            node=self.name,
            address=known.address,
            provider=known.provider,
            zone=known.zone,
            instance_type=known.instance_type,
            version=__version__,
            metrics_port=self.metrics_port,
        )

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """Take the name, and say again all that holds."""
        self._health.on_welcome(welcome)
        if self.name and welcome.node and welcome.node != self.name:
            log.error("the controller calls this node %s, but it runs as %s: the old name is kept", welcome.node, self.name)
        elif welcome.node and (welcome.node, welcome.market) != (self.name, self.record.kept.market):
            self.record.kept.node = welcome.node
            self.record.kept.market = welcome.market
            self.record.save()
        if self.name:
            self._named.set()
        for notice in self.notices:
            self.say_notice(notice)
        self._jobs.resend()
        self._changed.set()

    def on_prepare(self, prepare: pb.Prepare) -> None:
        """Tell jobs here of another node's notice."""
        said = prepare.notice
        try:
            kind = NoticeKind(said.kind)
        except ValueError:
            log.warning("the controller sent a notice of unknown kind %.40r", said.kind)
            return
        if not 0 < len(said.id) <= 256 or not all(0 <= at <= TIME_MAX for at in (said.deadline, said.received)):
            log.warning("the controller sent a notice without a usable id or time")
            return
        notice = Notice(said.id, kind, said.deadline, said.received, said.reason)
        self._jobs.prepare(prepare.job_ids, notice, cancelled=prepare.cancelled)
        self._changed.set()

    def on_release(self, release: pb.Release) -> None:
        """The node is given up."""
        if not self.record.kept.released:
            log.warning("released: %s", release.reason)
            self.record.kept.released = release.reason or "released"
            self.record.save()
        self._released.set()

    def on_hazard(self, hazard: pb.Hazard) -> None:
        """Pass the risk on to the jobs."""
        if 0 <= hazard.hazard_per_h <= 1e6:
            self._hazard_per_h = hazard.hazard_per_h
            self._changed.set()

    def on_health_rules(self, rules: pb.HealthRules) -> None:
        """Judge by other rules."""
        self._health.on_rules(rules)

    def on_health_order(self, order: pb.HealthOrder) -> None:
        """Look at the node's health, or forget a finding."""
        self._health.on_order(order)

    def on_sent(self, sent_at: float) -> None:
        """Compare the clocks."""
        self._health.on_sent(sent_at)

    def heartbeat(self) -> pb.Heartbeat:
        """Return whether slurmd runs, and which jobs have processes of Slurm's here."""
        running = self._slurmd.running()
        # Where we see no slurmd we would see no slurmstepd either (a container of our own): that says nothing.
        steps = self._jobs.steps() if running else None
        return pb.Heartbeat(slurmd_running=running, steps_known=steps is not None, step_jobs=sorted(steps or ()))

    def empty_for_good(self) -> bool:
        """Whether the node is given up, so that no job can come to it, and its last one is out."""
        return bool(self.record.kept.released) and not self._jobs.occupied()

    async def keep_slurmd(self) -> None:
        """Start slurmd once the name is known and the node is fit; stop it once the node is given up and its last job is out.

        It stays stopped. Where slurmd runs already, jobs may be on the node, and it is not checked again.
        """
        if await self._unless_released(self._named.wait()) and (self._slurmd.running() or await self._unless_released(self._fit())):
            await self._slurmd.start(self.name)
        await self._released.wait()
        while self._jobs.occupied():
            await self._clock.sleep(URGENT_TICK_S * 4)
        fault_point("agent.release")
        await self._slurmd.release()
        log.warning("node %s is given up", self.name)

    async def _unless_released(self, wait: Coroutine[Any, Any, object]) -> bool:
        """Wait; return False at once where the node is given up meanwhile, or was."""
        await first_of(wait, self._released.wait())
        return not self._released.is_set()


def read_boot_id(path: Path) -> str:
    """Return the kernel's id of this boot. Raises OSError."""
    return path.read_text().strip()[:64]
