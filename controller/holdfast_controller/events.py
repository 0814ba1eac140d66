"""What has happened: frozen, past tense. Each is durable in the journal before anything is done about it.

Heartbeats, prices and progress are samples and no events. Times are Unix seconds. Fields are only added, with a default, so that an older
journal can be read; an event of an unknown kind is skipped, and reconcile makes it good.
"""

from dataclasses import dataclass

from holdfast_common.health.model import Finding, worst
from holdfast_common.notice import Notice
from holdfast_common.views import JobView, NodeView

from holdfast_controller.commands import Command
from holdfast_controller.providers.base import Fault, Instance


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""

    at: float

    def refs(self) -> tuple[str, ...]:
        """What it concerns, as `node:NAME`, `job:ID`, `instance:ID`, for `explain`."""
        return ()

    def __str__(self) -> str:
        """One sentence for people."""
        return type(self).__name__


@dataclass(frozen=True, slots=True)
class NodesRequested(Event):
    """Slurm asked for nodes (ResumeProgram, or found by reconcile to be powering up)."""

    nodes: tuple[str, ...] = ()
    job_id: int = 0
    """0: without a job (POWER_UP)."""
    source: str = "hook"
    alloc: tuple[str, ...] = ()
    """All nodes that the job has been given, where that is told."""

    def refs(self) -> tuple[str, ...]:
        """Its nodes and job."""
        return (*(f"node:{node}" for node in self.nodes), *((f"job:{self.job_id}",) if self.job_id else ()))

    def __str__(self) -> str:
        """One sentence."""
        return f"Slurm asks for {', '.join(self.nodes)}" + (f" for job {self.job_id}" if self.job_id else "") + f" ({self.source})"


@dataclass(frozen=True, slots=True)
class NodesReleased(Event):
    """SuspendProgram was called for the nodes: a hint to look, never an order to terminate."""

    nodes: tuple[str, ...] = ()

    def refs(self) -> tuple[str, ...]:
        """Its nodes."""
        return tuple(f"node:{node}" for node in self.nodes)

    def __str__(self) -> str:
        """One sentence."""
        return f"Slurm gives {', '.join(self.nodes)} back"


@dataclass(frozen=True, slots=True)
class ResumeFailed(Event):
    """ResumeFailProgram was called: the nodes did not register within ResumeTimeout."""

    nodes: tuple[str, ...] = ()

    def refs(self) -> tuple[str, ...]:
        """Its nodes."""
        return tuple(f"node:{node}" for node in self.nodes)

    def __str__(self) -> str:
        """One sentence."""
        return f"{', '.join(self.nodes)} did not register within Slurm's ResumeTimeout"


@dataclass(frozen=True, slots=True)
class NodeChanged(Event):
    """Slurm says something new of a managed node."""

    view: NodeView

    def refs(self) -> tuple[str, ...]:
        """The node."""
        return (f"node:{self.view.name}",)

    def __str__(self) -> str:
        """One sentence."""
        flags = "".join(f"+{flag}" for flag in sorted(self.view.flags))
        return f"{self.view.name} is {self.view.state}{flags}" + (f" ({self.view.reason})" if self.view.reason else "")


@dataclass(frozen=True, slots=True)
class JobChanged(Event):
    """Slurm says something new of a job that concerns us."""

    view: JobView

    def refs(self) -> tuple[str, ...]:
        """The job and its nodes."""
        return (f"job:{self.view.job_id}", *(f"node:{node}" for node in self.view.nodes))

    def __str__(self) -> str:
        """One sentence."""
        view = self.view
        state = view.state + ("+COMPLETING" if view.completing else "") + (f" ({view.reason})" if view.reason else "")
        where = f" on {', '.join(view.nodes)}" if view.nodes else ""
        return f"job {view.key} is {state}{where}, restart {view.restarts}"


@dataclass(frozen=True, slots=True)
class JobForgotten(Event):
    """Slurm does not list the job any more."""

    job_id: int = 0

    def refs(self) -> tuple[str, ...]:
        """The job."""
        return (f"job:{self.job_id}",)

    def __str__(self) -> str:
        """One sentence."""
        return f"Slurm has forgotten job {self.job_id}"


@dataclass(frozen=True, slots=True)
class InstanceChanged(Event):
    """The cloud says something new of an instance of ours."""

    instance: Instance

    def refs(self) -> tuple[str, ...]:
        """The instance."""
        return (f"instance:{self.instance.instance_id}",)

    def __str__(self) -> str:
        """One sentence."""
        why = f" ({self.instance.state_reason})" if self.instance.state_reason else ""
        return f"instance {self.instance.instance_id} is {self.instance.state} in {self.instance.pool}{why}"


@dataclass(frozen=True, slots=True)
class CloudListed(Event):
    """The first whole listing of all clouds since the controller's start: from now on an unknown instance is an orphan."""

    def __str__(self) -> str:
        """One sentence."""
        return "all clouds have been listed"


@dataclass(frozen=True, slots=True)
class AgentArrived(Event):
    """An agent introduced itself, with a valid token of a launch of ours."""

    instance_id: str = ""
    boot_id: str = ""
    launch_id: str = ""
    """From its launch token, which the controller has verified."""
    address: str = ""
    node: str = ""
    """The name that it says it was given before."""
    metrics_port: int = 0
    """Where it serves its metrics; 0: nowhere."""

    def refs(self) -> tuple[str, ...]:
        """The instance, and the node it claims."""
        return (f"instance:{self.instance_id}", *((f"node:{self.node}",) if self.node else ()))

    def __str__(self) -> str:
        """One sentence."""
        return f"the agent of instance {self.instance_id} is here" + (f" as {self.node}" if self.node else "")


@dataclass(frozen=True, slots=True)
class AgentLost(Event):
    """The stream of an agent broke, or it fell silent. It proves nothing about the machine."""

    instance_id: str = ""

    def refs(self) -> tuple[str, ...]:
        """The instance."""
        return (f"instance:{self.instance_id}",)

    def __str__(self) -> str:
        """One sentence."""
        return f"the agent of instance {self.instance_id} is silent"


@dataclass(frozen=True, slots=True)
class MachineMissing(Event):
    """Slurm gets no answer from a node that it holds for up, no agent speaks for it, and no cloud lists an instance at its address."""

    node: str = ""
    address: str = ""

    def refs(self) -> tuple[str, ...]:
        """The node."""
        return (f"node:{self.node}",)

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.node} does not answer Slurm, and no cloud lists an instance at {self.address}: its machine is gone"


@dataclass(frozen=True, slots=True)
class AgentRebooted(Event):
    """The agent of an instance came back from another boot, with the token of the instance's own launch."""

    instance_id: str = ""
    boot_id: str = ""

    def refs(self) -> tuple[str, ...]:
        """The instance."""
        return (f"instance:{self.instance_id}",)

    def __str__(self) -> str:
        """One sentence."""
        return f"instance {self.instance_id} was rebooted: what ran there is lost"


@dataclass(frozen=True, slots=True)
class NoticeReceived(Event):
    """A node goes away."""

    node: str = ""
    notice: Notice | None = None
    source: str = "agent"
    keep_until: float = 0.0
    """A machine that is given up for its health is kept that long, Unix seconds, once it is empty; 0: it is not."""

    def refs(self) -> tuple[str, ...]:
        """The node."""
        return (f"node:{self.node}",)

    def __str__(self) -> str:
        """One sentence."""
        if self.notice is None:
            return f"{self.node} goes away"
        left_s = self.notice.deadline - self.notice.received
        return f"{self.node} goes away in {left_s:.0f} s ({self.notice.kind}: {self.notice.reason or self.source})"


@dataclass(frozen=True, slots=True)
class NoticeWithdrawn(Event):
    """A notice was cancelled by whoever gave it."""

    node: str = ""
    notice_id: str = ""

    def refs(self) -> tuple[str, ...]:
        """The node."""
        return (f"node:{self.node}",)

    def __str__(self) -> str:
        """One sentence."""
        return f"the notice for {self.node} was withdrawn"


@dataclass(frozen=True, slots=True)
class HealthReported(Event):
    """An agent says which health rules hold on its node: all of them, whenever that has changed."""

    node: str = ""
    instance_id: str = ""
    findings: tuple[Finding, ...] = ()

    def refs(self) -> tuple[str, ...]:
        """The node, and the jobs that rules blame."""
        jobs = dict.fromkeys(job_id for finding in self.findings for job_id in finding.job_ids)
        return (f"node:{self.node}", *(f"job:{job_id}" for job_id in jobs))

    def __str__(self) -> str:
        """One sentence."""
        if not self.findings:
            return f"{self.node} is healthy"
        gravest = worst(self.findings) or self.findings[0]
        rest = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        would = " (dry run)" if gravest.dry_run else ""
        return f"{self.node}: {gravest.rule}: {gravest.text} → {gravest.action}{would}{rest}"


@dataclass(frozen=True, slots=True)
class HealthRulesSet(Event):
    """An admin set the health rules."""

    revision: str = ""

    def __str__(self) -> str:
        """One sentence."""
        return f"health rules {self.revision} are in force"


@dataclass(frozen=True, slots=True)
class JobReported(Event):
    """An agent reports what the processes of an attempt on its node say of themselves (state changes only; progress is a sample)."""

    node: str = ""
    job_id: int = 0
    attempt: int = 0
    state: str = ""
    ranks: int = 0
    notice_id: str = ""
    saved_step: int | None = None
    all_ranks_parked: bool = False
    stopped_on_notice: bool = False

    def refs(self) -> tuple[str, ...]:
        """The job and the node."""
        return (f"job:{self.job_id}", f"node:{self.node}")

    def __str__(self) -> str:
        """One sentence."""
        step = "" if self.saved_step is None else f", saved at step {self.saved_step}"
        return f"job {self.job_id} on {self.node}: {self.state or 'nothing registered'}{step}"


@dataclass(frozen=True, slots=True)
class JobLeftNode(Event):
    """No process of the attempt is left on the node."""

    node: str = ""
    job_id: int = 0
    attempt: int = 0

    def refs(self) -> tuple[str, ...]:
        """The job and the node."""
        return (f"job:{self.job_id}", f"node:{self.node}")

    def __str__(self) -> str:
        """One sentence."""
        return f"job {self.job_id} has left {self.node}"


@dataclass(frozen=True, slots=True)
class JobRequeued(Event):
    """Our requeue of an attempt succeeded: an interruption."""

    job_id: int = 0
    attempt: int = 0
    """The attempt that ended."""
    began: bool = True
    """Whether its batch step had begun: one that had not counts against no limit."""
    ended_after_s: float | None = None
    """How long it had run when it ended by itself; None where we ended it."""

    def refs(self) -> tuple[str, ...]:
        """The job."""
        return (f"job:{self.job_id}",)

    def __str__(self) -> str:
        """One sentence."""
        return f"job {self.job_id} was requeued after its attempt {self.attempt}"


@dataclass(frozen=True, slots=True)
class CommandIssued(Event):
    """A command was decided on; it is carried out after this is durable."""

    command_id: int
    command: Command

    def refs(self) -> tuple[str, ...]:
        """What the command concerns."""
        return self.command.refs()

    def __str__(self) -> str:
        """The command's own sentence."""
        return str(self.command)


@dataclass(frozen=True, slots=True)
class CommandFinished(Event):
    """What came of a command."""

    command_id: int = 0
    key: str = ""
    outcome: str = "ok"
    """`ok`, `moot` (the fence found that there is nothing to do), `failed` (may be tried again after `retry_s`) or `refused`."""
    detail: str = ""
    retry_s: float = 1.0
    about: tuple[str, ...] = ()

    def refs(self) -> tuple[str, ...]:
        """What the command concerned."""
        return self.about

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.outcome}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class LaunchEnded(Event):
    """The cloud answered a launch: instances, faults, or some of each."""

    launch_id: str = ""
    pool: str = ""
    instances: tuple[Instance, ...] = ()
    faults: tuple[Fault, ...] = ()
    price_usd_h: float | None = None
    on_demand_usd_h: float | None = None
    about: tuple[str, ...] = ()

    def refs(self) -> tuple[str, ...]:
        """The nodes and the job that it was for, and the instances."""
        return (*self.about, *(f"instance:{instance.instance_id}" for instance in self.instances))

    def __str__(self) -> str:
        """One sentence."""
        got = f"{len(self.instances)} instances started in {self.pool}"
        return got + (f"; {self.faults[0].kind}: {self.faults[0].code}" if self.faults else "")


@dataclass(frozen=True, slots=True)
class PolicySet(Event):
    """An admin set the policy."""

    revision: str = ""

    def __str__(self) -> str:
        """One sentence."""
        return f"policy {self.revision} is in force"


@dataclass(frozen=True, slots=True)
class ClockStepped(Event):
    """The clock of the controller's host was set. `at` is by the clock as it is now."""

    by_s: float = 0.0
    """By how much: negative where it was set back."""

    def __str__(self) -> str:
        """One sentence."""
        return f"the clock was set {'forward' if self.by_s > 0 else 'back'} by {abs(self.by_s):.0f} s"


@dataclass(frozen=True, slots=True)
class Ticked(Event):
    """Time has passed. Never journaled."""
