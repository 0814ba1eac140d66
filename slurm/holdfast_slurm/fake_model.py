"""The records of the fake Slurm, and the times after which things happen in it (as measured on Slurm 22.05.8)."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from holdfast_common.views import JobView, NodeView

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"})

Hook = Callable[[tuple[str, ...]], Awaitable[None]]
"""ResumeProgram, SuspendProgram or ResumeFailProgram: gets the node names."""
Gate = Callable[["FakeJob"], Awaitable[None]]
"""PrologSlurmctld: returns when the job's nodes are up."""


HALVES = 2
MOST_PRIORITY = 4_294_000_000


def by_age(since: float) -> int:
    """Return the priority of a job whose age counts from `since`: a point a second, relative to all others'."""
    return MOST_PRIORITY - int(since % 1_000_000_000)


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """Durations in seconds. The defaults are slurm.conf's as Holdfast proposes it, or what was measured."""

    version: tuple[int, int] = (22, 5)
    requeue_delay_s: int = 121
    """cred_expire + 1."""
    schedule_s: float = 0.1
    """From a change to the scheduler's next look."""
    backfill_s: float | None = 1.0
    """From a look that left somebody waiting to that of the backfill scheduler; None: there is none."""
    age: bool = False
    """priority/multifactor with an age that outweighs all else: a requeued job loses its place. False: priority/basic, it keeps it."""
    ping_s: float = 1.5
    """After RESUME a node does not respond for so long (measured: up to 2)."""
    tick_s: float = 30.0
    """Without a gate slurmctld looks at configuring jobs this often."""
    gate: bool = True
    """Whether a PrologSlurmctld that waits for the nodes is installed (as `on_gate`, or one that just waits)."""
    gate_s: float = 0.2
    power_s: float = 1.0
    """From a power request to ResumeProgram or SuspendProgram."""
    suspend_timeout_s: float = 30.0
    resume_timeout_s: float = 600.0
    slurmd_timeout_s: float = 300.0
    message_timeout_s: float = 10.0
    """What a dead node costs the surviving nodes of its job at a requeue."""
    epilog_s: float = 0.1
    """From SIGTERM, or the end of the batch script, until a node is free again."""
    min_job_age_s: float = 300.0
    return_to_service: bool = True
    """ReturnToService=2."""
    register_s: float = 0.3
    rekill_s: float = 40.0
    """A job that completes on a node whose slurmd comes anew is let go within this: slurmctld tells it again that the job is to end."""
    prolog_s: float = 0.0
    """How long the nodes' Prolog takes: meanwhile the job is RUNNING with the reason `Prolog`, and nothing of it runs."""
    max_commands: int = 10_000
    """Calls that are carried out at a time, of all clients together; the rest wait."""
    purge_s: float = 300.0
    """PURGE_COMP: a reservation that no job uses ends within this."""


@dataclass(slots=True)
class FakeNode:
    """A CLOUD node. `power`: off, off_requested (POWER_UP not yet acted on), resuming, on, on_requested (POWER_DOWN), suspending."""

    name: str
    partitions: tuple[str, ...]
    power: str = "off"
    machine: bool = False
    """Whether a machine with this name runs and answers."""
    down: bool = False
    drain: bool = False
    responding: bool = True
    reason: str = ""
    address: str = ""
    boot_time: float | None = None
    reservation: str = ""
    """The one that it is in."""
    jobs: dict[str, bool] = field(default_factory=dict)
    """Keys of the jobs that it is allocated to, or that complete on it: whether they complete."""
    shared: bool = False
    """The jobs on it leave room for one more of their sort."""
    power_epoch: int = 0
    """Counts power changes, so that a timer of an earlier one knows that it is stale."""
    left_at: dict[str, float] = field(default_factory=dict)

    @property
    def in_service(self) -> bool:
        """Whether the backfill scheduler counts on it at some time."""
        return not (self.down or self.drain) and (self.power == "resuming" or (self.power in {"off", "on"} and self.responding))

    @property
    def free(self) -> bool:
        """Whether the scheduler may use it; measured: also while it powers up, and then before nodes that are off."""
        return not self.jobs and self.in_service

    def has_room(self, job: "FakeJob") -> bool:
        """Whether the scheduler may give it, or half of it, to the job."""
        halves = job.shared and self.shared and len(self.jobs) < HALVES
        return self.in_service and (not self.jobs or halves)

    @property
    def completing(self) -> bool:
        """Whether a job completes on it."""
        return any(self.jobs.values())

    def view(self) -> NodeView:
        """Return it as scontrol shows it."""
        running = sum(not completing for completing in self.jobs.values())
        whole = running == HALVES if self.shared else running
        state = "DOWN" if self.down else "ALLOCATED" if whole else "MIXED" if running else "IDLE"
        power = {"off": "POWERED_DOWN", "resuming": "POWERING_UP", "on_requested": "POWER_DOWN", "suspending": "POWERING_DOWN"}
        flags = {"CLOUD"}
        flags |= {"POWER_UP", "POWERED_DOWN"} if self.power == "off_requested" else {power[self.power]} if self.power in power else set()
        flags |= {"DRAIN"} if self.drain else set()
        flags |= {"COMPLETING"} if self.completing else set()
        flags |= {"RESERVED"} if self.reservation and state == "IDLE" and not self.completing else set()
        flags |= set() if self.responding else {"NOT_RESPONDING"}
        return NodeView(self.name, state, frozenset(flags), self.reason, self.address or self.name, self.partitions, self.boot_time)


@dataclass(slots=True)
class FakeJob:
    """A job that takes whole nodes, or half of each."""

    job_id: int
    key: str
    num_nodes: int
    partition: str
    submit_time: float
    eligible_time: float
    state: str = "PENDING"
    nodes: tuple[str, ...] = ()
    completing_on: set[str] = field(default_factory=set)
    reason: str = ""
    restarts: int = 0
    requeue: bool = True
    batch: bool = True
    uid: int = 1000
    user: str = "ann"
    priority: int = 0
    fixed_priority: int | None = None
    held: bool = False
    nice: int = 0
    start_time: float = 0.0
    end_time: float = 0.0
    exit_code: int = 0
    comment: str = ""
    admin_comment: str = ""
    reservation: str = ""
    shared: bool = False
    """It takes half of each of its nodes."""
    time_limit_s: float | None = None
    """None: unlimited. It only counts for the backfill scheduler: nobody is ended for it."""
    duration_s: float | None = None
    """A run ends by itself after this long; None: by `finish` only."""
    stop_s: float | None = None
    """From SIGTERM to its end (KillWait bounds it in reality); None: the settings' epilog_s."""
    attempts: int = 0
    """How many batch scripts were begun."""
    signals: list[tuple[float, str, bool]] = field(default_factory=list)
    """Signals it was sent while it ran: time, name, batch shell only."""
    on_signal: Callable[["FakeJob", str], None] | None = None
    finished_at: float = 0.0

    @property
    def completing(self) -> bool:
        """Whether a node still has something of its last run."""
        return bool(self.completing_on)

    def current_priority(self) -> int:
        """Return what Priority= shows."""
        return 0 if self.held else self.fixed_priority if self.fixed_priority is not None else self.priority - self.nice

    def view(self) -> JobView:
        """Return it as the client reads it."""
        order: Sequence[str] = [name for name in self.nodes if name in self.completing_on] if self.completing else self.nodes
        return JobView(
            job_id=self.job_id,
            key=self.key,
            state=self.state,
            completing=self.completing,
            reason=self.reason,
            restarts=self.restarts,
            requeue=self.requeue,
            batch=self.batch,
            uid=self.uid,
            user=self.user,
            partition=self.partition,
            nodes=tuple(order),
            num_nodes=self.num_nodes,
            priority=self.current_priority(),
            nice=self.nice,
            submit_time=self.submit_time,
            eligible_time=self.eligible_time,
            start_time=self.start_time,
            end_time=self.end_time,
            exit_code=self.exit_code,
            comment=self.comment,
            reservation=self.reservation,
        )
