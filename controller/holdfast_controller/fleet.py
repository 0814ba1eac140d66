"""Everything the controller knows. `Fleet.apply` is deterministic and has no effects: the same events give the same fleet, in production,
on replay of the journal and in the simulator. It changes the fleet in place (a simulated year of 100 nodes is millions of events).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from holdfast_common.evacuation import REASON_PREFIX
from holdfast_common.views import NodeView

from holdfast_controller import attempts, dooms, index, machines, unrest
from holdfast_controller import events as e
from holdfast_controller.commands import (
    BindInstance,
    CondemnNode,
    DrainNode,
    GiveUp,
    JobCommand,
    Launch,
    NodeCommand,
    PowerDownNode,
    PowerUpNode,
    PrepareJobs,
    RedirectLaunch,
    ReserveNodes,
    SignalJob,
    StartJob,
    UnreserveNodes,
    replacement_key,
)
from holdfast_controller.moments import shift
from holdfast_controller.records import (
    CommandRecord,
    Evacuation,
    InstanceRecord,
    JobRecord,
    LaunchRecord,
    Node,
    StepsSeen,
)
from holdfast_controller.retention import forget
from holdfast_controller.state import State

REPEAT_S = 10.0
"""A deed that is still due so long after it was done with success is done again: its fence makes that harmless."""
REPEAT_MOOT_S = 1.0
FORGET_EVERY_S = 60.0
LISTS_LAG_S = 30.0
"""So old a cloud's list may be: after the loss of the journal, nothing is bought any sooner for a name that Slurm had asked for before."""
MAX_EARLY = 10_000
MOST_STEPS = 100_000
BEATS_GAP_S = 20.0
"""Heartbeats that are further apart than this (they come every 5 s) leave a time of which nothing is known."""
MOST_RETRY_S, MOST_RETRY_SLURM_S = 300.0, 10.0


@dataclass(slots=True)
class Fleet(State):
    """What the controller knows, how events change it, and what is looked up in it."""

    def looked(self, at: float, *, after_outage: bool) -> None:
        """Note an answered look."""
        self.looked_at = at
        if after_outage or not self.steady_since:
            self.steady_since = at

    def heard_steps(self, instance_id: str, jobs: Iterable[int] | None, at: float) -> None:
        """Note which jobs have a slurmstepd on an instance; None: its agent does not know."""
        seen = self.steps.get(instance_id)
        if jobs is None:
            self.steps.pop(instance_id, None)
            return
        if seen is None or at > seen.at + BEATS_GAP_S:
            seen = self.steps[instance_id] = StepsSeen(at, at)
        seen.at = at
        seen.jobs |= dict.fromkeys(jobs, at)
        record = self.instances.get(instance_id)
        for view in (self.jobs[job_id].view for job_id in jobs if job_id in self.jobs):
            # While an attempt that was requeued still ends, Slurm counts the next one already: its processes are not that one's.
            if (
                record is not None
                and record.node in view.nodes
                and view.state == "RUNNING"
                and not view.completing
                and at >= view.start_time
            ):
                self.stepped[view.job_id] = view.restarts
        if len(seen.jobs) > MOST_STEPS:  # no node has had so many jobs: an agent that cannot be believed
            del self.steps[instance_id]

    def apply(self, event: e.Event) -> "Fleet":
        """Take an event in and return the fleet. Unknown kinds change nothing."""
        self.newest_at = max(self.newest_at, event.at)
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)
        return self

    # -- looking things up ------------------------------------------------------------------------------------------------------

    def manage(self, names: frozenset[str]) -> None:
        """Know exactly these node names (from the policy); a name that was dropped is kept while an instance holds it."""
        for name in sorted(names - self.nodes.keys(), key=natural):
            self.nodes[name] = Node(name)
        for name in self.nodes.keys() - names:
            if not self.nodes[name].instance_id:
                del self.nodes[name]

    def reindex(self) -> None:
        """Build what a snapshot leaves out."""
        self.held, self.seen = index.build(self.jobs)
        self.living = Counter(record.instance.pool for record in self.instances.values() if record.alive and record.instance.pool)

    def bought_for(self, job: str, attempt: int, places: int) -> tuple[str, ...]:
        """Return the nodes that were ordered for an attempt which must leave, in the place of so many."""
        records = (self.commands.get(replacement_key(job, attempt, place)) for place in range(places))
        commands = (record.issued.command for record in records if record is not None and record.state in {"open", "ok"})
        return tuple(command.node for command in commands if isinstance(command, PowerUpNode))

    def holder(self, name: str) -> str:
        """Return the id of the instance that holds the node name; empty: none."""
        return self.nodes[name].instance_id if name in self.nodes else ""

    def may_issue(self, key: str, now: float) -> bool:
        """Whether the deed is not under way, nor done lately, nor waiting for its next try."""
        record = self.commands.get(key)
        if record is None:
            return True
        if record.state == "ok" and not record.issued.command.repeats:
            return False
        if record.state in {"ok", "moot"}:
            return now >= record.done_at + (REPEAT_S if record.state == "ok" else REPEAT_MOOT_S)
        return record.state in {"failed", "refused"} and now >= record.retry_at

    def open_issued(self) -> list[e.CommandIssued]:
        """Return the commands that have no outcome yet."""
        return [record.issued for record in self.commands.values() if record.state == "open"]

    def busy(self) -> bool:
        """Whether something is under way that Slurm should be asked about often."""
        return unrest.busy(self.nodes.values(), self.jobs.values(), self.looked_at)

    # -- Slurm ------------------------------------------------------------------------------------------------------------------

    def _requested(self, event: e.NodesRequested) -> None:
        for name in event.nodes:
            node = self.nodes.get(name)
            if node is None or (node.let_go is not None and not event.job_id):
                continue  # a machine for nobody: the call of a hook, or a look, tells only that it has not been let go yet
            node.let_go = None
            if node.wanted_since is None:
                node.wanted_since, node.launches, node.power_down_at, node.meant_for, node.alloc = event.at, 0, None, 0, ()
                if node.view is None or not node.view.up:
                    # Nothing of the name's last life counts in this one. (A hook that comes late finds the node up: then it stays doomed.)
                    node.doom = None
                    node.notices.clear()
                    machines.unbind(self, node, only_gone=True)
            node.wanted_by, node.alloc = event.job_id or node.wanted_by, event.alloc or node.alloc

    def _node_changed(self, event: e.NodeChanged) -> None:
        node = self.nodes.get(event.view.name)
        if node is None:
            return
        anew = _begins_anew(node.view, event.view)
        if event.view != node.view:
            node.changed_at = event.at
        node.view, node.viewed_at = event.view, event.at
        if event.view.powered_down:
            node.doubtful_until = 0.0  # whatever is asked for from now on has not been bought
        leaving = event.view.powered_down or bool(event.view.flags & {"POWERING_DOWN", "POWER_DOWN"})
        if node.wanted_since is not None and event.at > node.wanted_since and (event.view.up or leaving):
            node.wanted_since, node.wanted_by, node.launches = None, 0, 0
        if anew or event.view.up:
            node.let_go = None
        if anew:
            node.doom, node.power_down_at, node.findings = None, None, ()
            node.notices.clear()
            dooms.vacate(self, node)
            machines.unbind(self, node, only_gone=True)
        if not node.instance_id and event.view.address not in {"", node.name} and any(each.recovered for each in self.launches.values()):
            machines.recognise(self, node, event.at)

    def _job_changed(self, event: e.JobChanged) -> None:
        view = event.view
        known = view.job_id in self.jobs
        job = self.jobs.setdefault(view.job_id, JobRecord(view))
        if known:
            index.remove(self.held, index.held_by(job.view), view.job_id)
        index.add(self.held, index.held_by(view), view.job_id)
        if not known:
            for report in [self.early.pop(key) for key in list(self.early) if key.startswith(f"{view.job_id} ")]:
                self._job_reported(report)
            self._put_off(job, event.at)
        if view.comment != job.view.comment or not job.told:
            job.declare(view.comment)
        if view.restarts != job.view.restarts:
            job.prepared.clear()
        if view.restarts > job.view.restarts:
            self._moved_on(job, event.at)
        job.view, job.changed_at = view, event.at
        if view.active and view.state == "RUNNING":
            job.not_before, job.waits_since, job.waits_for = None, None, ""
        dooms.doom_job(self, job, event.at)
        dooms.crashed(self, job, event.at)
        if job.evacuation is None and view.nodes and attempts.ends_on_our_signal(job):
            # The notice was withdrawn after the signal was sent.
            job.evacuation = Evacuation(view.restarts, view.nodes, dict.fromkeys(view.nodes, event.at), began=event.at)

    def _moved_on(self, job: JobRecord, at: float) -> None:
        """A look shows the next attempt: by us, whose own word of it may come later or never, or by the node's agent, or by others."""
        old = job.view
        if job.evacuation is None or job.evacuation.attempt != old.restarts:
            self._left_unseen(job, at)
            return
        attempts.interrupted(job, old.restarts, at, began=old.state != "CONFIGURING")
        if not (old.active or old.pending) and old.end_time > old.start_time > 0:
            attempts.measured(job, old.restarts, old.end_time - old.start_time)

    def _left_unseen(self, job: JobRecord, at: float) -> None:
        """A job was requeued, and not by us. If a node of that attempt goes away or is gone, that was why: the node's agent did it while we
        were away or slow, or Slurm did. Somebody who requeues a job by hand leaves its nodes as they are.
        """
        old = job.view
        leaving = {name: at for name in old.nodes if name in self.nodes and _leaves(self.nodes[name], self.instance_of(self.nodes[name]))}
        known = job.evacuation is not None and job.evacuation.attempt >= old.restarts  # a slurmctld that was killed forgets restarts
        if old.state not in {"RUNNING", "SUSPENDED"} or old.completing or not leaving or known:
            return
        job.evacuation = Evacuation(old.restarts, old.nodes, doomed=leaving, began=at)
        attempts.interrupted(job, old.restarts, at, began=True)

    def _put_off(self, job: JobRecord, at: float) -> None:
        """A hook may bring a job's nodes, and every pool refuse them, before Slurm's list brings the job."""
        command = self.put_off.pop(job.view.job_id, None)
        if command is not None and command.until > at:
            job.not_before, job.waits_for = command.until, command.reason

    def _job_forgotten(self, event: e.JobForgotten) -> None:
        job = self.jobs.pop(event.job_id, None)
        if job is not None:
            index.remove(self.held, index.held_by(job.view), event.job_id)
            index.remove(self.seen, job.present, event.job_id)
        self.stepped.pop(event.job_id, None)

    def _job_reported(self, event: e.JobReported) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            job.reports[event.node] = event
            job.present[event.node] = event.attempt
            index.add(self.seen, (event.node,), event.job_id)
        elif len(self.early) < MAX_EARLY:
            self.early[f"{event.job_id} {event.node}"] = event

    def _job_left(self, event: e.JobLeftNode) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None and job.present.get(event.node) == event.attempt:
            del job.present[event.node]
            index.remove(self.seen, (event.node,), event.job_id)

    # -- commands ---------------------------------------------------------------------------------------------------------------

    def _issued(self, event: e.CommandIssued) -> None:
        command = event.command
        old = self.commands.get(command.key)
        tries = old.tries + 1 if old is not None and old.state in {"failed", "refused"} else 1
        self.commands[command.key] = CommandRecord(event, tries=tries)
        if isinstance(command, Launch):
            self.launch_count += 1
            self.launches[command.launch_id] = LaunchRecord(
                command.launch_id, command.pool, command.nodes, command.job_id, event.at, minimum=command.minimum
            )
        elif isinstance(command, BindInstance):
            machines.bind(self, command, event.at)
        elif isinstance(command, GiveUp):
            self._given_up(command, event.at)
        elif isinstance(command, RedirectLaunch):
            self._redirected(command)
        elif isinstance(command, JobCommand) and command.job_id in self.jobs:
            self._told_job(self.jobs[command.job_id], command, event.at)
        elif isinstance(command, PowerDownNode) and command.node in self.nodes:
            self.nodes[command.node].power_down_at = event.at
        elif isinstance(command, DrainNode | CondemnNode) and command.rule:
            dooms.struck(self, command.rule, self.holder(command.node), event.at)
        elif isinstance(command, PrepareJobs) and command.notice is not None and not command.cancelled:
            for job in self._known(command.job_ids):
                job.prepared[f"{command.node} {command.notice.id}"] = command

    def _told_job(self, job: JobRecord, command: JobCommand, at: float) -> None:
        if isinstance(command, ReserveNodes):
            job.reserved = command.key
        elif isinstance(command, StartJob):
            job.begins_at = at + command.delay_s
        elif isinstance(command, SignalJob):
            job.signalled = command.attempt

    def _known(self, job_ids: tuple[int, ...]) -> list[JobRecord]:
        return [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs]

    def _given_up(self, command: GiveUp, at: float) -> None:
        since = min((since for name in command.nodes if name in self.nodes and (since := self.nodes[name].wanted_since)), default=at)
        for name in command.nodes:
            node = self.nodes.get(name)
            if node is not None:
                node.wanted_since, node.wanted_by, node.launches, node.power_down_at = None, 0, 0, at
        names = set(command.nodes)
        for launch in self.launches.values():
            if launch.shared:  # the others' nodes stay
                launch.nodes = tuple(name for name in launch.nodes if name not in names)
            elif not names.isdisjoint(launch.nodes):
                launch.void = True
        job = self.jobs.get(command.job_id)
        if job is not None:
            job.not_before, job.waits_for, job.waits_since = command.until, command.reason, job.waits_since or since
        elif command.job_id:
            self.put_off[command.job_id] = command

    def _redirected(self, command: RedirectLaunch) -> None:
        launch, node = self.launches.get(command.launch_id), self.nodes.get(command.node)
        if launch is not None:
            launch.nodes = tuple(command.to if name == command.node else name for name in launch.nodes)
        if node is not None:
            # If a job is found to be on it, reconcile asks for it anew.
            node.wanted_since, node.wanted_by, node.launches, node.meant_for, node.let_go = None, 0, 0, 0, command

    def _let_go(self, node: Node, event: e.CommandFinished) -> None:
        if node.let_go is not None and node.let_go.key == event.key:
            node.let_go = None
        if event.outcome == "ok":
            node.power_down_at = event.at

    def _asked_for(self, command: PowerUpNode, at: float) -> None:
        """Slurm was asked to power the node up: it is bought now, and not when slurmctld calls ResumeProgram (up to 1.5 s later)."""
        node = self.nodes.get(command.node)
        if node is not None and not node.instance_id:
            self._requested(e.NodesRequested(at, (command.node,)))
            node.meant_for = command.for_job

    def _finished(self, event: e.CommandFinished) -> None:
        record = self.commands.get(event.key)
        if record is None or record.command_id != event.command_id:
            return
        # In Slurm a deadline may be near, and a try costs little; a cloud that says no is asked ever less often.
        most_s = MOST_RETRY_SLURM_S if isinstance(record.issued.command, NodeCommand | JobCommand) else MOST_RETRY_S
        wait_s = min(event.retry_s * 2.0 ** min(record.tries - 1, 10), max(most_s, event.retry_s))
        record.state, record.done_at, record.retry_at = event.outcome, event.at, event.at + wait_s
        command = record.issued.command
        if isinstance(command, PrepareJobs) and command.notice is not None and command.cancelled and event.outcome == "ok":
            for job in self._known(command.job_ids):
                job.prepared.pop(f"{command.node} {command.notice.id}", None)
        if isinstance(command, PowerDownNode) and event.outcome in {"failed", "refused"} and command.node in self.nodes:
            self.nodes[command.node].power_down_at = None  # it has not been given up: a job was on it, or Slurm did not answer
        if isinstance(command, UnreserveNodes) and event.outcome == "ok" and command.job_id in self.jobs:
            self.jobs[command.job_id].reserved = ""
        if isinstance(command, PowerUpNode) and event.outcome == "ok":
            self._asked_for(command, event.at)
        if isinstance(command, RedirectLaunch) and event.outcome in {"ok", "moot"} and command.node in self.nodes:
            self._let_go(self.nodes[command.node], event)
        if event.at >= self.forgot_at + FORGET_EVERY_S:
            self.forgot_at = event.at
            forget(self, event.at)

    def _requeued(self, event: e.JobRequeued) -> None:
        job = self.jobs.get(event.job_id)
        if job is not None:
            attempts.measured(job, event.attempt, event.ended_after_s)
            attempts.interrupted(job, event.attempt, event.at, began=event.began)

    def _cloud_listed(self, event: e.CloudListed) -> None:
        if self.fresh:
            # Lists lag: what was bought just before the journal was lost may be missing from the first ones.
            for node in self.nodes.values():
                if node.view is None or not node.view.powered_down:
                    node.doubtful_until = event.at + LISTS_LAG_S
        self.cloud_listed, self.fresh = True, False

    def _clock_stepped(self, event: e.ClockStepped) -> None:
        shift(self, event.by_s)
        self.newest_at = event.at
        self.clock_steps += 1

    def _policy_set(self, event: e.PolicySet) -> None:
        self.policy_revision = event.revision


def _begins_anew(old: NodeView | None, new: NodeView) -> bool:
    """Whether the name's last life is over: it is, or between two looks has been, powered down."""
    other = old is not None and (old.up or bool(old.flags & {"POWERING_DOWN", "POWER_DOWN", "POWERED_DOWN"}))
    return "POWERED_DOWN" in new.flags or (other and "POWERING_UP" in new.flags and not new.flags & {"POWERING_DOWN", "POWER_DOWN"})


def _leaves(node: Node, record: InstanceRecord | None) -> bool:
    """Whether Slurm or the cloud says that the node goes away: by a notice, a drain of ours or a power-down."""
    view = node.view
    if node.doom is not None or (record is not None and record.gone_at is not None):
        return True
    if view is None:
        return False
    drained = "DRAIN" in view.flags and view.reason.startswith(REASON_PREFIX)
    return drained or view.state == "DOWN" or bool(view.flags & {"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN"})


def natural(name: str) -> tuple[str | int, ...]:
    """Return a key that sorts node names as Slurm does: n2 before n10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))


_HANDLERS: dict[type[e.Event], Callable[[Fleet, Any], None]] = {
    e.NodesRequested: Fleet._requested,
    e.NodeChanged: Fleet._node_changed,
    e.JobChanged: Fleet._job_changed,
    e.JobForgotten: Fleet._job_forgotten,
    e.InstanceChanged: machines.instance_changed,
    e.CloudListed: Fleet._cloud_listed,
    e.LaunchEnded: machines.launch_ended,
    e.AgentArrived: machines.agent_arrived,
    e.AgentLost: machines.agent_lost,
    e.AgentRebooted: machines.agent_rebooted,
    e.MachineMissing: machines.machine_missing,
    e.NoticeReceived: dooms.noticed,
    e.Ticked: dooms.ticked,
    e.NoticeWithdrawn: dooms.withdrawn,
    e.HealthReported: dooms.health_reported,
    e.JobReported: Fleet._job_reported,
    e.JobLeftNode: Fleet._job_left,
    e.JobRequeued: Fleet._requeued,
    e.CommandIssued: Fleet._issued,
    e.CommandFinished: Fleet._finished,
    e.PolicySet: Fleet._policy_set,
    e.ClockStepped: Fleet._clock_stepped,
}
