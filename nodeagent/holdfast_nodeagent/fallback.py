"""Without a controller: the agent evacuates its own node, by the same pure steps and behind the same fences as the controller.

Both may run at once (a controller that is merely slow): each step reads Slurm again before it acts, so neither can undo or repeat what the
other has done. A job that has moved is done.
"""

import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

from holdfast_common import evacuation as steps
from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError, HoldfastError, SlurmRefused
from holdfast_common.faults import fault_point
from holdfast_common.fence import fresh
from holdfast_common.notice import Notice
from holdfast_common.views import JobView, NodeView
from holdfast_slurm.client import Slurm
from holdfast_slurm.directives import parse_directives

from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.jobdirs import JobKey
from holdfast_nodeagent.record import KeptAttempt, Record

ROUND_S = 0.25
"""Between two looks at Slurm while acting."""
LAST_CALL = 0.5
"""A controller that answers, but has left a job here until this share of the margin is left, is helped."""
_SIGNAL = re.compile(r"(?:([A-Z]{1,4}):)?(?:SIG)?([A-Z0-9]{1,10})(?:@\d+)?")

log = logging.getLogger(__name__)


class Subject(Protocol):
    """What the fallback needs to know of the node (`node.Node`)."""

    @property
    def name(self) -> str:
        """The node's name in Slurm; empty: not known."""

    def doom(self) -> Notice | None:
        """The notice because of which jobs must leave now."""

    def say_notice(self, notice: Notice) -> None:
        """Tell the controller of the notice, and that we act."""


class JobsHere(Protocol):
    """What it needs to know of the jobs (`jobs.Jobs`)."""

    @property
    def reports(self) -> Mapping[JobKey, Report]:
        """Each attempt's last word."""

    def occupied(self) -> bool:
        """Whether a job's process is left on this node."""


class Fallback:
    """Acts when the controller owes an answer for longer than `patience_s`. `silence_s` returns for how long it does."""

    def __init__(
        self,
        node: Subject,
        jobs: JobsHere,
        slurm: Slurm,
        record: Record,
        clock: Clock,
        limits: steps.Limits,
        silence_s: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._node = node
        self._jobs = jobs
        self._slurm = slurm
        self._record = record
        self._clock = clock
        self._limits = limits
        self._silence_s = silence_s
        self._patience_s = patience_s
        self._done: set[str] = set()
        self._fault = ""
        self._deeds: dict[type[steps.Step], Callable[..., Awaitable[bool]]] = {
            steps.Drain: self._drain,
            steps.Signal: self._signal,
            steps.Requeue: self._requeue,
            steps.StartAfter: self._start,
            steps.PowerDown: self._power_down,
            steps.SetDown: self._set_down,
        }

    async def run(self) -> None:
        """Watch over the controller until cancelled."""
        while True:
            notice = self._due()
            if notice is not None:
                self._declare(notice)
            try:
                await (self.see_off() if notice is None else self.round(notice))
                self._fault = ""
                await self._clock.sleep(ROUND_S)
            except HoldfastError as error:
                if str(error) != self._fault:
                    self._fault = str(error)
                    log.error("evacuating without a controller: %s", error)
                await self._clock.sleep(1.0)

    async def see_off(self) -> None:
        """Have those run again that end on a signal of ours, though the notice was withdrawn since. Raises as `round` does."""
        for attempt in [each for each in self._record.kept.attempts if each.signalled]:
            view = await self._job(attempt.key)
            if view is not None and view.restarts == attempt.attempt and (view.active or view.completing):
                continue
            due: tuple[steps.Step, ...] = ()
            if view is not None:
                case = steps.JobCase(view, attempt.attempt, attempt.nodes, frozenset(), math.inf, exit_code=declared(view)[1])
                due = steps.job_steps(case, self._clock.now(), self._limits)
                await self._carry_out(due)
            if not due and (view is None or not view.completing):
                self._record.kept.attempts.remove(attempt)
                self._record.save()

    def _due(self) -> Notice | None:
        """Return the notice to act on: there is one, our name is known, and the controller is silent, or time is all but up."""
        notice = self._node.doom()
        if notice is None or not self._node.name or self._record.kept.released:
            return None
        last_call = notice.deadline - self._limits.margin_s * LAST_CALL
        if self._silence_s() > self._patience_s or self._clock.now() >= last_call:
            return notice
        return None

    def _declare(self, notice: Notice) -> None:
        """Remember that we act, and tell the controller for when it is back."""
        if notice.id in self._record.kept.acted:
            return
        log.error("notice %s: no word from the controller for %.1f s, this node acts by itself", notice.id, self._silence_s())
        self._record.kept.acted.append(notice.id)
        self._record.save()
        fault_point("agent.fallback.declared")
        self._node.say_notice(notice)

    async def round(self, notice: Notice) -> None:
        """Look at Slurm and carry out what is due. Raises SlurmUnavailable, SlurmRefused."""
        name = self._node.name
        views = await self._slurm.nodes([name])
        if not views:
            return  # unknown is neither healthy nor dead: look again
        if "DRAIN" not in views[0].flags:
            # Drained first, and only then are the jobs listed, so that none can slip in between.
            await self._carry_out(steps.node_steps(self._node_case(views[0], notice, (), occupied=True), self._clock.now()))
        listing = await self._slurm.jobs()
        cases = self._cases(listing, notice)
        now = self._clock.now()
        refused = [fault for case in cases if (fault := await self._refusal(steps.job_steps(case, now, self._limits)))]
        await self._carry_out(steps.node_steps(self._node_case(views[0], notice, cases, occupied=self._jobs.occupied()), now))
        if refused:
            raise refused[0]

    async def _refusal(self, due: tuple[steps.Step, ...]) -> SlurmRefused | None:
        """Carry the steps of one job out, and return what Slurm refused of them: the node's other jobs do not wait for that."""
        try:
            await self._carry_out(due)
        except SlurmRefused as error:
            return error
        return None

    def _node_case(self, view: NodeView, notice: Notice, cases: tuple[steps.JobCase, ...], *, occupied: bool) -> steps.NodeCase:
        identity = self._record.kept.identity
        return steps.NodeCase(
            view=view,
            notice=notice,
            instance_id=identity.instance_id if identity else "",
            jobs=cases,
            occupied=occupied,
            power_down_at=self._record.kept.power_down_at,
        )

    def _cases(self, listing: tuple[JobView, ...], notice: Notice) -> tuple[steps.JobCase, ...]:
        """Return the attempts that are, or were when we began, on this node; remembered, so that a restart of ours loses none."""
        name = self._node.name
        by_key = {view.key: view for view in listing}
        known = {(each.key, each.attempt) for each in self._record.kept.attempts}
        moved = {each.key for each in self._record.kept.attempts}
        for view in listing:
            if view.active and name in view.nodes and (view.key, view.restarts) not in known and view.key not in moved:
                self._record.kept.attempts.append(KeptAttempt(job_id=view.job_id, key=view.key, attempt=view.restarts, nodes=view.nodes))
        if len(self._record.kept.attempts) != len(known):
            self._record.save()
            fault_point("agent.fallback.listed")
        return tuple(self._case(attempt, by_key[attempt.key], notice) for attempt in self._record.kept.attempts if attempt.key in by_key)

    def _case(self, attempt: KeptAttempt, view: JobView, notice: Notice) -> steps.JobCase:
        report = self._jobs.reports.get(JobKey(attempt.job_id, attempt.attempt))
        signal, exit_code = declared(view)
        case = steps.JobCase(
            view=view,
            attempt=attempt.attempt,
            nodes=attempt.nodes,
            doomed=frozenset({self._node.name}),
            deadline=notice.deadline,
            signal=signal,
            exit_code=exit_code,
        )
        if report is None:
            return case
        return replace(
            case,
            registered=report.ranks > 0,
            parked=report.all_ranks_parked,
            saved_step=report.saved_step,
            stopped_on_notice=report.stopped_on_notice,
        )

    async def _carry_out(self, due: tuple[steps.Step, ...]) -> None:
        for step in due:
            if step.key in self._done:
                continue
            log.warning("%s: %s", type(step).__name__, step.reason)
            async with self._slurm.together():
                over = await self._deeds[type(step)](step)
            if over:
                self._done.add(step.key)
            fault_point(f"agent.fallback.{type(step).__name__.lower()}")

    async def _job(self, key: str) -> JobView | None:
        return await fresh(lambda: self._slurm.job(key), self._clock)

    # Each returns whether the step is over; False: look again next round.

    async def _drain(self, step: steps.Drain) -> bool:
        await self._slurm.drain([step.node], _reason(step))
        return True

    async def _signal(self, step: steps.Signal) -> bool:
        job = await self._job(step.job)
        if job is not None and job.restarts == step.attempt and job.state == "RUNNING":
            batch, _, name = step.signal.rpartition(":")
            self._record.kept.attempts = [
                each.model_copy(update={"signalled": each.signalled or (each.key, each.attempt) == (step.job, step.attempt)})
                for each in self._record.kept.attempts
            ]
            self._record.save()
            await self._slurm.signal(step.job, name, batch=batch == "B")
        return True

    async def _requeue(self, step: steps.Requeue) -> bool:
        job = await self._job(step.job)
        if job is None or job.restarts != step.attempt or job.state == "PENDING":
            return True
        if job.completing or (not job.active and not step.ended):
            return False  # it began to end since we listed it: judged anew when it has ended
        if job.active and self._node.name not in job.nodes:
            return True
        await self._slurm.requeue(step.job, ended=step.ended)
        after = await self._slurm.job(step.job)
        # Slurm reports success, and does nothing, for a job that ended since our look.
        return after is None or after.restarts != step.attempt

    async def _start(self, step: steps.StartAfter) -> bool:
        job = await self._job(step.job)
        if job is None or job.restarts != step.restarts:
            return True
        if not job.pending:
            return job.state != "PENDING"
        await self._slurm.start_after(step.job, step.delay_s)
        return True

    async def _power_down(self, step: steps.PowerDown) -> bool:
        views = await fresh(lambda: self._slurm.nodes([step.node]), self._clock)
        if not views or views[0].powered_down or views[0].flags & {"POWERING_DOWN", "POWER_DOWN"}:
            return bool(views)
        self._record.kept.power_down_at = self._clock.now()
        self._record.save()
        await self._slurm.power_down([step.node], _reason(step))
        return True

    async def _set_down(self, step: steps.SetDown) -> bool:
        await self._slurm.down([step.node], _reason(step))
        return True


def declared(view: JobView) -> tuple[str, int | None]:
    """Return the signal (`USR1`, `B:USR1`, or empty) and the exit code that the job declared, in its directives or by `--signal`.

    Slurm prints the latter as `B:10@60`.
    """
    exit_code = None
    try:
        said = parse_directives(view.comment)
    except ConfigError:
        pass  # faulty directives are as good as absent; the controller tells the job
    else:
        exit_code = said.exit_code
        if said.signal:
            return f"{'B:' if said.signal_batch else ''}{said.signal}", exit_code
    match = _SIGNAL.fullmatch(view.signal)
    return ("", exit_code) if match is None else (f"{'B:' if 'B' in (match[1] or '') else ''}{match[2]}", exit_code)


def _reason(step: steps.Step) -> str:
    return f"{steps.REASON_PREFIX} {step.reason}"[:200]
