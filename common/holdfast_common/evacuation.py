"""The steps of an evacuation, pure: what is to be done now for a job on a doomed node, and for the node.

Both the controller and an agent that cannot reach it run this code. It is level-triggered: it looks at what Slurm and the agents say at
this moment and names the steps that are due, so it may be asked any number of times and by two at once; the caller carries a step out
once per its `key`, and each effect reads Slurm again before it acts (`fence` in the step).

Facts about Slurm behind the order (measured on 22.05, 24.11 and 26.05): a requeue while the doomed node still answers frees the job in
0.2 s, afterwards each dead node costs up to MessageTimeout; requeue and then POWER_DOWN_FORCE is the least sequence that always works,
alive or dead; StartTime is overwritten while the job is COMPLETING; StartTime=now on a node that the job left within the same second ends
it FAILED.
"""

from dataclasses import dataclass

from holdfast_common.notice import Notice
from holdfast_common.views import JobView, NodeView

ELIGIBLE_SOON_S = 2.0
"""A requeued job that is eligible within this time is left alone: Slurm's delay does not hold it."""
LONGEST_DELAY_S = 180.0
"""More than Slurm's own delay after a requeue (cred_expire + 1 s: 121 s by default), counted from the SubmitTime that a requeue sets."""
STUCK_COMPLETING_S = 3.0
"""How long a job may stay COMPLETING on a node that is powering down before the node is set DOWN."""
REASON_PREFIX = "holdfast:"
"""Every reason and comment that Holdfast writes into Slurm starts so; only those are ever undone."""


def reservation_of(job_id: int) -> str:
    """Return the name of the reservation that keeps nodes for the job."""
    return f"holdfast-{job_id}"


KILLED_BY = frozenset({9, 15})
"""SIGKILL and SIGTERM: how a requeue ends processes."""
LOST_REASONS = frozenset({"Not responding", "ResumeTimeout reached"})
"""What slurmctld itself writes when it sets a node DOWN for SlurmdTimeout and for ResumeTimeout."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the parts of a requeue take, in seconds."""

    margin_s: float = 2.0
    """Before the deadline, for a job whose processes registered: a parked process exits on SIGTERM at once."""
    kill_wait_s: float = 5.0
    """slurm.conf's KillWait: what an unregistered job may need on top."""


@dataclass(frozen=True, slots=True)
class JobCase:
    """One attempt of a job that has a node which goes away."""

    view: JobView
    """Slurm's newest word on the job (not of the attempt: it may have moved on)."""
    attempt: int
    """Its restart count when the notice came."""
    nodes: tuple[str, ...]
    """Its nodes at that time."""
    doomed: frozenset[str]
    deadline: float
    """Unix seconds; the earliest of its doomed nodes."""
    dead: bool = False
    """A doomed node is known to be gone already."""
    registered: bool = False
    """Processes of the attempt registered with an agent."""
    parked: bool = False
    """Every registered process, on every node of the attempt, has saved and parked."""
    saved_step: int | None = None
    stopped_on_notice: bool = False
    """The job's own status says that this attempt ended because of the notice."""
    requeued: bool = False
    """We have requeued this attempt already, and Slurm has confirmed it."""
    signal: str = ""
    """Declared by the job: `USR1` or `B:USR1`; empty: it is not signalled (USR1's default action is to kill)."""
    signal_before_s: float | None = None
    """How long before the deadline it wants the signal; None: at once."""
    saves: bool = True
    """False where the job declared that it never saves: then waiting helps nobody."""
    exit_code: int | None = None
    """Declared by the job: it ended on our signal, and wants to be requeued, when it exits so."""
    sick: bool = False
    """It leaves because its machine is sick, not because a cloud takes that: what fails by itself then has failed for it."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """The attempt's nodes that stay."""
        return tuple(node for node in self.nodes if node not in self.doomed)


@dataclass(frozen=True, slots=True)
class NodeCase:
    """A doomed node."""

    view: NodeView
    notice: Notice
    instance_id: str = ""
    dead: bool = False
    jobs: tuple[JobCase, ...] = ()
    """The attempts that were found on it."""
    occupied: bool = False
    """Its agent still sees processes of a job."""
    power_down_at: float | None = None
    """When POWER_DOWN_FORCE was sent, Unix seconds."""
    keep_until: float = 0.0
    """A sick machine is kept until then, Unix seconds, though it is empty: to be looked at."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, once per `key`."""

    key: str
    reason: str
    """One sentence, for the log, the journal and `explain`."""


@dataclass(frozen=True, slots=True)
class Drain(Step):
    """Let nothing new start on the node."""

    node: str


@dataclass(frozen=True, slots=True)
class Signal(Step):
    """Send the signal that the job declared; fence: the job still runs with `attempt` restarts."""

    job: str
    attempt: int
    signal: str


@dataclass(frozen=True, slots=True)
class Requeue(Step):
    """`scontrol requeue incomplete`; fence: the job still has `attempt` restarts, and had not finished by itself."""

    job: str
    attempt: int
    ended: bool = False
    """It has ended by itself, on our notice: `incomplete` would refuse a COMPLETED job."""


@dataclass(frozen=True, slots=True)
class StartAfter(Step):
    """`StartTime=now+delay_s`; fence: pending, not completing, with `restarts` restarts."""

    job: str
    restarts: int
    delay_s: int


@dataclass(frozen=True, slots=True)
class PowerDown(Step):
    """POWER_DOWN_FORCE; fence: not already powering down, still the same instance, and with `if_empty` no job of Slurm's on it."""

    node: str
    instance_id: str
    if_empty: bool = False


@dataclass(frozen=True, slots=True)
class SetDown(Step):
    """DOWN, for a node that is powering down and on which a job stays COMPLETING."""

    node: str


def lost_its_machine(view: NodeView) -> bool:
    """Whether Slurm holds the node DOWN because its machine fell silent or never came, or because we said so: an admin's DOWN is his."""
    ours = view.reason in LOST_REASONS or view.reason.startswith(REASON_PREFIX)
    return view.state == "DOWN" and ours and not view.flags & {"POWERING_DOWN", "POWER_DOWN", "POWERING_UP", "POWER_UP"}


def job_steps(case: JobCase, now: float, limits: Limits) -> tuple[Step, ...]:
    """Return what is due for the job at `now` (Unix seconds)."""
    job = case.view
    if job.restarts > case.attempt:
        # A relaunch on a node within the second in which it was left ends FAILED (`Job credential revoked`).
        return expedite(job, now, delay_s=1 if case.survivors or job.restarts > case.attempt + 1 else 0)
    if job.completing or not job.batch or not job.requeue:
        return ()  # it ends by itself: judged when it has; salloc and --no-requeue: told, and lost only with the node
    if not job.active:
        return _ended_by_itself(case)
    steps: list[Step] = []
    wanted = case.signal_before_s is None or now >= case.deadline - case.signal_before_s
    if case.signal and wanted and not case.registered and not case.dead:
        why = f"job {job.key} declared {case.signal} for a notice"
        steps.append(Signal(f"signal:{job.key}:{case.attempt}", why, job.key, case.attempt, case.signal))
    why = _requeue_reason(case, now, limits)
    if why:
        steps.append(Requeue(f"requeue:{job.key}:{case.attempt}", why, job.key, case.attempt))
    return tuple(steps)


def requeue_at(case: JobCase, limits: Limits) -> float:
    """Return the last moment, Unix seconds, at which the job must be requeued whether it has saved or not."""
    return case.deadline - limits.margin_s - (0.0 if case.registered else limits.kill_wait_s)


def _requeue_reason(case: JobCase, now: float, limits: Limits) -> str:
    job = case.view
    nodes = ", ".join(sorted(case.doomed))
    if case.dead:
        return f"{nodes} of job {job.key} is gone"
    if case.parked:
        return f"job {job.key} saved at step {case.saved_step} and parked; {nodes} goes away"
    if not case.saves:
        return f"{nodes} goes away, and job {job.key} declared that it saves nothing"
    if case.sick and not case.registered and not case.signal:
        return f"{nodes} is sick, and nothing of job {job.key} could save"
    if job.state == "CONFIGURING" and not case.registered:  # a slurmctld that was killed may have forgotten that it runs
        return f"job {job.key} has not begun, and {nodes} goes away"
    if now >= requeue_at(case, limits):
        return f"{nodes} goes away in {max(0.0, case.deadline - now):.1f} s and job {job.key} has not said that it is safe"
    return ""


def _ended_by_itself(case: JobCase) -> tuple[Step, ...]:
    """A job that ended on our notice is requeued only on evidence; COMPLETED without it means done."""
    job = case.view
    if job.state in {"CANCELLED", "PENDING"}:
        return ()
    declared = case.exit_code is not None and job.exit_code == case.exit_code and not job.exit_signal
    lost = job.state == "NODE_FAIL" or (case.sick and job.state == "FAILED")
    if case.requeued and _was_killed(job):
        why = f"job {job.key} was ended by its requeue, of which Slurm knows nothing any more"
        return (Requeue(f"requeue:{job.key}:{case.attempt}:again", why, job.key, case.attempt, ended=True),)
    if not (case.stopped_on_notice or declared or lost):
        return ()
    evidence = "its status says so" if case.stopped_on_notice else "by the exit code that it declared" if declared else "with its node"
    if case.sick and job.state == "FAILED" and not case.stopped_on_notice:
        evidence = "it failed on a sick machine"
    why = f"job {job.key} ended on the notice ({evidence})"
    return (Requeue(f"requeue:{job.key}:{case.attempt}", why, job.key, case.attempt, ended=True),)


def _was_killed(job: JobView) -> bool:
    """Whether the attempt was ended from outside, as a requeue does it.

    A slurmctld that is killed in the seconds after a requeue (it saves its state at most every 6 s) believes that the job runs still,
    and then takes its end for a failure (measured on 22.05: FAILED, JobLaunchFailure).
    """
    return job.state == "FAILED" and (job.reason == "JobLaunchFailure" or job.exit_signal in KILLED_BY)


def expedite(job: JobView, now: float, *, delay_s: int) -> tuple[StartAfter, ...]:
    """Return what spares a requeued job Slurm's delay, if that is what it waits for."""
    if not job.pending or job.priority == 0 or job.eligible_time <= now + ELIGIBLE_SOON_S:
        return ()
    if job.submit_time and job.eligible_time - job.submit_time > LONGEST_DELAY_S:
        return ()  # not Slurm's delay, but a StartTime that somebody has set
    why = f"job {job.key} is out of its nodes: Slurm's delay of two minutes is not needed"
    return (StartAfter(f"start:{job.key}:{job.restarts}", why, job.key, job.restarts, delay_s),)


def moved(case: JobCase) -> bool:
    """Whether the job has left: requeued (even if COMPLETING still), or ended with nothing more to do."""
    job = case.view
    if job.restarts > case.attempt:
        return True
    return not job.active and not _ended_by_itself(case)


def _tag(node: str, instance_id: str, notice: Notice) -> str:
    return f"{node}:{instance_id or notice.id}"


def drain_key(node: str, instance_id: str, notice: Notice) -> str:
    """Return the key of the step that drains the node for the notice."""
    return f"drain:{_tag(node, instance_id, notice)}:{notice.id}"


def node_steps(case: NodeCase, now: float) -> tuple[Step, ...]:
    """Return what is due for the node at `now` (Unix seconds)."""
    view, name = case.view, case.view.name
    tag = _tag(name, case.instance_id, case.notice)
    if view.powered_down:
        return ()
    if view.flags & {"POWERING_DOWN", "POWER_DOWN"}:
        return _unstick(case, now, tag)
    steps: list[Step] = []
    if "DRAIN" not in view.flags:
        why = f"{case.notice.kind}: {case.notice.reason or 'the node goes away'}"
        steps.append(Drain(drain_key(name, case.instance_id, case.notice), why, name))
    why = _power_down_reason(case, now)
    if why:
        in_time = not case.dead and now < case.notice.deadline
        steps.append(PowerDown(f"power_down:{tag}", why, name, case.instance_id, in_time))
    return tuple(steps)


def _power_down_reason(case: NodeCase, now: float) -> str:
    name = case.view.name
    staying = [job for job in case.jobs if not moved(job)]
    if case.dead:
        waits = any(job.view.batch and job.view.requeue and not job.view.completing for job in staying)
        return "" if waits else f"{name} is gone"
    if now >= max(case.notice.deadline, case.keep_until):
        return f"the deadline of {name} has passed"
    if "DRAIN" not in case.view.flags:
        return ""  # a job may slip in until the drain holds: only then is it seen whether the node is empty
    completing = any(job.view.completing and name in job.view.nodes for job in case.jobs)
    if staying or completing or case.occupied or now < case.keep_until:
        return ""
    return f"the last job is out of {name}"


def _unstick(case: NodeCase, now: float, tag: str) -> tuple[Step, ...]:
    stuck = [job.view.key for job in case.jobs if job.view.completing and case.view.name in job.view.nodes]
    if not stuck or case.power_down_at is None or now < case.power_down_at + STUCK_COMPLETING_S:
        return ()
    why = f"job {stuck[0]} stays COMPLETING on {case.view.name}, which is powering down"
    return (SetDown(f"down:{tag}", why, case.view.name),)
