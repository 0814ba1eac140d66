"""What the fleet knows of each thing: plain records that only `Fleet.apply` changes."""

from dataclasses import dataclass, field

from holdfast_common.errors import ConfigError
from holdfast_common.health.model import Finding
from holdfast_common.notice import Notice
from holdfast_common.views import JobView, NodeView
from holdfast_slurm.directives import parse_directives

from holdfast_controller.commands import PrepareJobs, RedirectLaunch
from holdfast_controller.events import AgentArrived, CommandIssued, JobReported
from holdfast_controller.providers.base import Fault, FaultKind, Instance


@dataclass(slots=True)
class Doom:
    """Why a node goes away."""

    notice: Notice
    source: str = "agent"
    """Who said so: agent, cloud, admin, health."""
    keep_until: float = 0.0
    """The emptied machine is kept that long, Unix seconds."""
    dead: bool = False
    """The machine is known to be gone."""


@dataclass(slots=True)
class Node:
    """A Slurm node name that we manage."""

    name: str
    view: NodeView | None = None
    """Slurm's newest word; None: not listed, which is unknown and not gone."""
    viewed_at: float = 0.0
    changed_at: float = 0.0
    """When that word last changed."""
    wanted_since: float | None = None
    """Slurm waits for it since then, Unix seconds."""
    wanted_by: int = 0
    meant_for: int = 0
    """The job for which we asked Slurm to power it up, ahead of its requeue; 0: none."""
    doubtful_until: float = 0.0
    """The journal was lost: until then an instance may have been bought for it of which no list tells yet."""
    alloc: tuple[str, ...] = ()
    """All nodes that Slurm gave the job that waits for this one, where it told so with the request."""
    launches: int = 0
    """Launches for this want that brought instances: more than one means that the first ones never registered."""
    instance_id: str = ""
    bound_at: float = 0.0
    notices: dict[str, Doom] = field(default_factory=dict)
    """Every notice that stands, by its id; maintenance far ahead among them."""
    doom: Doom | None = None
    """The one that counts: the earliest of those that jobs must leave for."""
    power_down_at: float | None = None
    """When we gave it up (POWER_DOWN_FORCE), until Slurm has it powered down."""
    findings: tuple[Finding, ...] = ()
    """The health rules that hold on its machine, by its agent's newest word. An agent that is silent takes nothing back."""
    health_heard: float = 0.0
    """When that word came, Unix seconds; 0: none of this machine."""
    let_go: RedirectLaunch | None = None
    """It boots for nobody, since its machine serves another name: Slurm is asked to power it down until it has answered."""


@dataclass(slots=True)
class InstanceRecord:
    """An instance of ours."""

    instance: Instance
    first_seen: float
    node: str = ""
    """The node name it was given; empty until its agent asks."""
    agent: AgentArrived | None = None
    connected: bool = False
    arrivals: int = 0
    """How often an agent of it introduced itself."""
    price_usd_h: float | None = None
    on_demand_usd_h: float | None = None
    gone_at: float | None = None
    ending_since: float | None = None
    """Neither alive nor gone since then."""
    rebooted: bool = False
    """Its agent came back from another boot: what ran there is lost, and so is the machine."""

    @property
    def alive(self) -> bool:
        """Whether it is (or may be) paid for: pending or running."""
        return self.instance.state in {"pending", "running"}


@dataclass(slots=True)
class StepsSeen:
    """What the heartbeats of one agent said of Slurm's processes on its node (a sample, never stored)."""

    since: float
    """Each heartbeat since then, without a gap, named every job that has a slurmstepd there."""
    at: float
    """The newest one, Unix seconds."""
    jobs: dict[int, float] = field(default_factory=dict)
    """Job → when one of its was seen last."""


@dataclass(slots=True)
class LaunchRecord:
    """One launch call."""

    launch_id: str
    pool: str
    nodes: tuple[str, ...]
    job_id: int
    at: float
    ended: bool = False
    void: bool = False
    """Fewer instances came than were asked for, or the nodes were given up: what it started is terminated."""
    minimum: int = 0
    """With fewer instances than this it is void; 0: all. One where it serves several jobs of one node each."""
    recovered: bool = False
    """Known from its instances' tags alone: the journal was lost."""
    instances: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def needed(self) -> int:
        """With fewer instances than this it is void."""
        return self.minimum or len(self.nodes)

    @property
    def shared(self) -> bool:
        """Whether it serves several jobs, each of which is served by itself."""
        return 0 < self.minimum < len(self.nodes)


@dataclass(slots=True)
class Evacuation:
    """One attempt of a job that must leave."""

    attempt: int
    nodes: tuple[str, ...]
    doomed: dict[str, float] = field(default_factory=dict)
    """Doomed node → deadline, Unix seconds."""
    notice_ids: tuple[str, ...] = ()
    began: float = 0.0
    requeued_at: float | None = None
    sick: bool = False
    """A machine of it was condemned for its health: an attempt that then fails by itself failed for that."""


@dataclass(slots=True)
class JobRecord:
    """A job of a managed partition, or on a managed node."""

    view: JobView
    changed_at: float = 0.0
    """When Slurm's word on it last changed, Unix seconds."""
    reports: dict[str, JobReported] = field(default_factory=dict)
    """Node → what its agent last said of the job's processes (any attempt; see `attempt` in it)."""
    present: dict[str, int] = field(default_factory=dict)
    """Node → attempt whose processes its agent sees there."""
    evacuation: Evacuation | None = None
    reserved: str = ""
    """Key of the newest command that keeps nodes for it, until the reservation is known to have ended: the command may be half done."""
    prepared: dict[str, PrepareJobs] = field(default_factory=dict)
    """`NODE NOTICE` → how the agent of that node was asked to tell this attempt of that notice."""
    interruptions: int = 0
    told: bool = False
    """Its directives were read."""
    fault: str = ""
    """What is wrong with its directives, which are then as good as absent."""
    signal: str = ""
    """What it wants to be sent on a notice, declared in its directives."""
    signal_before_s: int | None = None
    """How long before the deadline it wants that."""
    saves: bool = True
    """It did not say that it never saves."""
    auto: bool = False
    """It wants whatever signal its partition's policy names."""
    begins_at: float | None = None
    """The StartTime that we gave it last, by Slurm's clock."""
    signalled: int | None = None
    """The attempt that was sent that signal: it ends by itself, also if the notice is withdrawn then."""
    exit_code: int | None = None
    """How it exits when it ended on that signal, declared in its directives."""
    requeues: int | None = None
    """How often it may be requeued, declared in its directives."""
    short_runs_s: tuple[float, ...] = ()
    """How long its last attempts ran, as long as each ended by itself."""
    measured_attempt: int = -1
    """The newest attempt that is known to have ended in one way or the other: `short_runs_s` ends with it."""
    waits_since: float | None = None
    """When the first of its requests began that brought it nothing, until it runs."""
    not_before: float | None = None
    """No pool would have its nodes: it waits until then, Unix seconds."""
    waits_for: str = ""
    """Why it waits, in a sentence."""

    def declare(self, comment: str) -> None:
        """Read the directives in the job's comment."""
        self.told, self.fault, self.signal, self.signal_before_s = True, "", "", None
        self.auto, self.saves, self.exit_code, self.requeues = False, True, None, None
        try:
            said = parse_directives(comment)
        except ConfigError as error:
            self.fault = str(error)
            return
        self.signal = f"{'B:' if said.signal_batch else ''}{said.signal}" if said.signal else ""
        self.signal_before_s = said.signal_before_s
        self.auto, self.saves = said.checkpoint == "auto", said.checkpoint != "off"
        self.exit_code, self.requeues = said.exit_code, said.requeues


@dataclass(slots=True)
class PoolMemory:
    """What a pool did lately; `capacity` says what it means."""

    refused_at: float = 0.0
    refusals: int = 0
    """In all."""
    heat: float = 0.0
    """Refusals that counted when it refused last, faded, that one included."""
    refused_nodes: int = 0
    """How many it refused last."""
    granted: int = 0
    """Instances that it gave, in all."""
    most_shared: int = 0
    """So many at the most in one call for several jobs, since a larger one met a quota; 0: no bound."""
    blocked_until: float = 0.0
    """Throttled or misconfigured until then; says nothing of its capacity."""
    blocked_by: str = ""
    passing: bool = False
    """What blocks it is over by itself."""
    sick_at: float = 0.0
    """When a machine of it was found sick last: the next one may be the same host."""
    last_kind: FaultKind | None = None
    last_code: str = ""
    observed_at: float = 0.0
    hours: float = 0.0
    """Instance-hours until `observed_at`, faded."""
    reclaims: float = 0.0
    """How many of those the cloud took, faded."""


@dataclass(slots=True)
class QuotaMemory:
    """A limit of the account, as it was met."""

    limit: int
    """Instances that it had then."""
    at: float
    until: float
    """After that it is asked again, Unix seconds."""
    code: str = ""


@dataclass(slots=True)
class CommandRecord:
    """How a deed stands."""

    issued: CommandIssued
    state: str = "open"
    """open, ok, moot, failed, refused"""
    done_at: float = 0.0
    retry_at: float = 0.0
    tries: int = 1

    @property
    def command_id(self) -> int:
        """Its number in the journal."""
        return self.issued.command_id
