"""What is to be done: frozen, imperative. Each is durable before it runs, runs once per `key` while its outcome is unknown, and its effect
looks up whether it has been done already before it does it (again).
"""

from dataclasses import dataclass
from typing import ClassVar

from holdfast_common.notice import Notice


@dataclass(frozen=True, slots=True)
class Command:
    """Base of all commands."""

    key: str
    """Names the deed, not the attempt at it: the same deed is never under way twice."""
    reason: str
    """One sentence of why; the log, the journal and `explain` show this same text."""
    repeats: ClassVar[bool] = True
    """Whether the deed is done again when it still is due long after it was done (its fence makes that harmless)."""

    def refs(self) -> tuple[str, ...]:
        """What it concerns, as `node:NAME`, `job:ID`, `instance:ID`."""
        return ()

    def __str__(self) -> str:
        """What and why, in one line."""
        return f"{type(self).__name__}: {self.reason}"


@dataclass(frozen=True, slots=True)
class NodeCommand(Command):
    """Base of what is done to one node in Slurm."""

    node: str = ""

    def refs(self) -> tuple[str, ...]:
        """The node."""
        return (f"node:{self.node}",)


@dataclass(frozen=True, slots=True)
class DrainNode(NodeCommand):
    """Let nothing new start on the node."""

    rule: str = ""
    """The health rule that asks for it."""


@dataclass(frozen=True, slots=True)
class UndrainNode(NodeCommand):
    """Undo our own drain; fence: the reason is ours and the node is not powering down."""


@dataclass(frozen=True, slots=True)
class PowerDownNode(NodeCommand):
    """POWER_DOWN_FORCE; fence: not powering down already, and `instance_id` (if any) is still the one bound."""

    instance_id: str = ""
    if_empty: bool = False
    """Only while no job of Slurm's is on it: on a live node POWER_DOWN_FORCE ends them."""


@dataclass(frozen=True, slots=True)
class SetNodeDown(NodeCommand):
    """DOWN; fence: a job still completes on it."""


@dataclass(frozen=True, slots=True)
class ReviveNode(NodeCommand):
    """Make a name usable again that Slurm itself holds DOWN for want of a machine; fence: DOWN, for one of Slurm's own reasons or ours."""


@dataclass(frozen=True, slots=True)
class CondemnNode(NodeCommand):
    """Have the node's jobs leave it, as for a cloud's notice: its machine is sick; fence: `instance_id` still holds the name."""

    instance_id: str = ""
    notice: Notice | None = None
    keep_until: float = 0.0
    """The empty machine is kept for so long, Unix seconds; 0: it is not."""
    rule: str = ""
    """The health rule that asks for it."""


@dataclass(frozen=True, slots=True)
class PardonNode(NodeCommand):
    """Take back what `CondemnNode` said: the node is well again."""

    notice_id: str = ""


@dataclass(frozen=True, slots=True)
class PowerUpNode(NodeCommand):
    """POWER_UP: buy a node before the job that needs it is requeued; fence: powered down."""

    repeats: ClassVar[bool] = False
    for_job: int = 0


def replacement_key(job: str, attempt: int, place: int) -> str:
    """Return the key of the `PowerUpNode` that fills the `place`-th of the places which an attempt loses."""
    return f"power_up:{job}:{attempt}:{place}"


@dataclass(frozen=True, slots=True)
class JobCommand(Command):
    """Base of what is done to one job in Slurm."""

    job: str = ""
    """What scontrol calls it."""
    job_id: int = 0

    def refs(self) -> tuple[str, ...]:
        """The job."""
        return (f"job:{self.job_id}",)

    def once_in(self) -> int | None:
        """The attempt in which it is done once, or so often in a row: its record is all that is remembered of that. None: no such limit."""
        return None


@dataclass(frozen=True, slots=True)
class SignalJob(JobCommand):
    """Send the signal that the job declared; fence: it runs with `attempt` restarts."""

    repeats: ClassVar[bool] = False
    attempt: int = 0
    signal: str = ""

    def once_in(self) -> int | None:
        """The attempt."""
        return self.attempt


@dataclass(frozen=True, slots=True)
class RequeueJob(JobCommand):
    """Requeue; fence: `attempt` restarts, and not finished by itself unless `ended`."""

    attempt: int = 0
    ended: bool = False
    began: bool = True
    """Whether a process of the attempt ever ran: one that never did counts against no limit."""

    def once_in(self) -> int | None:
        """The attempt."""
        return self.attempt


@dataclass(frozen=True, slots=True)
class StartJob(JobCommand):
    """StartTime=now+delay_s; fence: pending, not completing, `restarts` restarts."""

    restarts: int = 0
    delay_s: int = 1


@dataclass(frozen=True, slots=True)
class ReserveNodes(JobCommand):
    """Keep nodes for the job by a reservation, and let it use that; fence: it runs with `attempt` restarts, in no reservation but ours."""

    repeats: ClassVar[bool] = False
    attempt: int = 0
    nodes: tuple[str, ...] = ()

    def refs(self) -> tuple[str, ...]:
        """The job and the nodes."""
        return (f"job:{self.job_id}", *(f"node:{node}" for node in self.nodes))


@dataclass(frozen=True, slots=True)
class UnreserveNodes(JobCommand):
    """End the reservation; the job, if it waits or runs, uses it no longer."""


@dataclass(frozen=True, slots=True)
class HoldJob(JobCommand):
    """Hold the job, and tell it why; fence: pending, `restarts` restarts."""

    repeats: ClassVar[bool] = False
    restarts: int = 0

    def once_in(self) -> int | None:
        """The attempt that is not begun: who releases the job wants it tried."""
        return self.restarts


@dataclass(frozen=True, slots=True)
class ReleaseJob(JobCommand):
    """Release a job that Slurm itself held; fence: pending with priority 0, `restarts` restarts."""

    repeats: ClassVar[bool] = False
    restarts: int = 0

    def once_in(self) -> int | None:
        """The attempt that is to begin."""
        return self.restarts


@dataclass(frozen=True, slots=True)
class TellJob(JobCommand):
    """Write the reason into AdminComment, where `scontrol show job` and `holdfast explain` show it."""

    repeats: ClassVar[bool] = False
    text: str = ""
    attempt: int = 0

    def once_in(self) -> int | None:
        """The attempt that it is told of."""
        return self.attempt


@dataclass(frozen=True, slots=True)
class PrepareJobs(NodeCommand):
    """Have the agent of `node` tell its jobs of a notice (for another node of theirs, or from the controller)."""

    repeats: ClassVar[bool] = False
    instance_id: str = ""
    job_ids: tuple[int, ...] = ()
    notice: Notice | None = None
    cancelled: bool = False

    def refs(self) -> tuple[str, ...]:
        """The node and the jobs."""
        return (f"node:{self.node}", *(f"job:{job_id}" for job_id in self.job_ids))


@dataclass(frozen=True, slots=True)
class Launch(Command):
    """Buy instances for nodes: for one job, or for several jobs of one node each, in one call. Idempotent by `launch_id`."""

    repeats: ClassVar[bool] = False
    launch_id: str = ""
    pool: str = ""
    nodes: tuple[str, ...] = ()
    job_id: int = 0
    minimum: int = 0
    """Fewer instances are of no use; 0: all are needed."""
    others: tuple[str, ...] = ()
    """Pools that will do as well, for clouds that choose among several in one call."""
    job_ids: tuple[int, ...] = ()
    """The jobs, where they are several."""

    def refs(self) -> tuple[str, ...]:
        """The nodes and the jobs."""
        jobs = self.job_ids or ((self.job_id,) if self.job_id else ())
        return (*(f"node:{node}" for node in self.nodes), *(f"job:{job_id}" for job_id in jobs))


@dataclass(frozen=True, slots=True)
class RedirectLaunch(NodeCommand):
    """What was bought ahead for `node` serves `to`, which Slurm chose instead; `node` is powered down. Fence: no job is on `node`."""

    repeats: ClassVar[bool] = False
    launch_id: str = ""
    to: str = ""
    job_id: int = 0

    def refs(self) -> tuple[str, ...]:
        """Both nodes and the job."""
        return (f"node:{self.node}", f"node:{self.to}", f"job:{self.job_id}")


@dataclass(frozen=True, slots=True)
class BindInstance(NodeCommand):
    """Give the instance the node's name: tell slurmctld the address, then the agent its name."""

    repeats: ClassVar[bool] = False
    instance_id: str = ""
    address: str = ""

    def refs(self) -> tuple[str, ...]:
        """The node and the instance."""
        return (f"node:{self.node}", f"instance:{self.instance_id}")


@dataclass(frozen=True, slots=True)
class TerminateInstance(Command):
    """Terminate an instance; asked again until the cloud says that it is gone."""

    instance_id: str = ""
    pool: str = ""
    node: str = ""

    def refs(self) -> tuple[str, ...]:
        """The instance and its node."""
        return (f"instance:{self.instance_id}", *((f"node:{self.node}",) if self.node else ()))


@dataclass(frozen=True, slots=True)
class TurnAwayAgent(Command):
    """Tell an agent that it is not wanted (its instance is unknown, or its name belongs to another)."""

    instance_id: str = ""

    def refs(self) -> tuple[str, ...]:
        """The instance."""
        return (f"instance:{self.instance_id}",)


@dataclass(frozen=True, slots=True)
class GiveUp(Command):
    """No pool will have the nodes: power them down, and let the job wait until `until` (Unix seconds), told why."""

    repeats: ClassVar[bool] = False
    nodes: tuple[str, ...] = ()
    job_id: int = 0
    until: float = 0.0

    def refs(self) -> tuple[str, ...]:
        """The nodes and the job."""
        return (*(f"node:{node}" for node in self.nodes), *((f"job:{self.job_id}",) if self.job_id else ()))
