"""What Holdfast needs of Slurm, as a protocol. Implementations: `scontrol.ScontrolClient` (text commands, every version),
`fake.FakeSlurm` (in memory, ships for tests and the simulator). One contract suite runs over both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as `scontrol show nodes -o` prints it."""

    name: str
    state: str
    """Base state in upper case: IDLE, ALLOCATED, MIXED, DOWN, UNKNOWN, FUTURE…"""
    flags: frozenset[str] = frozenset()
    """Flags in upper case: CLOUD, DRAIN, POWERED_DOWN, POWERING_UP, POWERING_DOWN, POWER_DOWN, POWER_UP, NOT_RESPONDING, COMPLETING…"""
    reason: str = ""
    """Without the `[user@time]` that Slurm appends."""
    address: str = ""
    partitions: tuple[str, ...] = ()
    boot_time: float | None = None
    """Unix seconds; None while Slurm knows none."""

    @property
    def up(self) -> bool:
        """Whether the node has registered and can run jobs: no POWER* flag, responding, not down."""
        return (
            self.state in {"IDLE", "ALLOCATED", "MIXED", "COMPLETING"}
            and not any(flag.startswith("POWER") for flag in self.flags)
            and "NOT_RESPONDING" not in self.flags
        )

    @property
    def powered_down(self) -> bool:
        """Whether Slurm holds the node for switched off, with nothing under way."""
        return "POWERED_DOWN" in self.flags and not self.flags & {"POWERING_DOWN", "POWERING_UP", "POWER_UP", "POWER_DOWN"}


@dataclass(frozen=True, slots=True)
class JobView:
    """One job (or array task, or leader of a heterogeneous job) as `scontrol show jobs -o` prints it."""

    job_id: int
    key: str
    """What scontrol must be told: `12`, or `12_3` for a task of array 12 (the plain id of an array means all its tasks)."""
    state: str
    """Base state in upper case: PENDING, RUNNING, CONFIGURING, SUSPENDED, COMPLETED, FAILED, CANCELLED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY…
    COMPLETING is a flag here, never the state."""
    completing: bool = False
    reason: str = ""
    """Slurm's Reason= (BeginTime, Resources, Priority, BadConstraints, JobHeldUser…); empty for None."""
    restarts: int = 0
    requeue: bool = True
    batch: bool = True
    """False for salloc and srun: they cannot be requeued."""
    uid: int = 0
    user: str = ""
    partition: str = ""
    nodes: tuple[str, ...] = ()
    num_nodes: int = 1
    priority: int = 0
    nice: int = 0
    submit_time: float = 0.0
    eligible_time: float = 0.0
    start_time: float = 0.0
    end_time: float = 0.0
    exit_code: int = 0
    exit_signal: int = 0
    comment: str = ""
    admin_comment: str = ""
    het_job_id: int = 0
    """Leader's id where the job is part of a heterogeneous one, else 0."""
    signal: str = ""
    """The batch signal that the job declared with `--signal`, as Slurm prints it (`B:10@60`); empty without one."""

    @property
    def active(self) -> bool:
        """Whether it holds nodes: running, suspended, configuring or completing."""
        return self.completing or self.state in {"RUNNING", "SUSPENDED", "CONFIGURING", "STAGE_OUT", "STOPPED"}

    @property
    def pending(self) -> bool:
        """Whether it waits, with nothing of its last run left (PENDING and not COMPLETING)."""
        return self.state == "PENDING" and not self.completing


class Slurm(Protocol):
    """A slurmctld. Every method raises `SlurmUnavailable` when there was no answer and `SlurmRefused` when the answer was no.

    Listings are whole or raise: a partial answer is never returned. Node lists are given as plain names and folded into ranges for the call.
    """

    async def ping(self) -> bool:
        """Return whether slurmctld answers."""

    async def version(self) -> tuple[int, int]:
        """Return the running slurmctld's release, such as (22, 5)."""

    async def nodes(self, names: Sequence[str] | None = None) -> tuple[NodeView, ...]:
        """Return all nodes, or those named; a node that Slurm hides (22.05 without PrivateData=cloud) is simply not there."""

    async def jobs(self) -> tuple[JobView, ...]:
        """Return every job that slurmctld still remembers (MinJobAge, 300 s, after its end)."""

    async def job(self, key: str) -> JobView | None:
        """Return one job, or None where slurmctld says that there is no such job."""

    async def drain(self, names: Sequence[str], reason: str) -> None:
        """Let no new job start on the nodes. `reason` must start with `holdfast:`."""

    async def resume(self, names: Sequence[str]) -> None:
        """Undo a drain or a DOWN. The caller makes sure that the reason is ours, and that the node is not POWERING_DOWN."""

    async def down(self, names: Sequence[str], reason: str) -> None:
        """Set DOWN: jobs on the nodes are requeued or ended."""

    async def power_down(self, names: Sequence[str], reason: str) -> None:
        """POWER_DOWN_FORCE: give the nodes up now. Slurm forgets processes that still run there."""

    async def power_up(self, names: Sequence[str]) -> None:
        """POWER_UP: ask Slurm to resume the nodes without a job."""

    async def set_addresses(self, addresses: Mapping[str, str]) -> None:
        """Tell slurmctld where each node is reached (name → IP address or host name)."""

    async def requeue(self, key: str) -> None:
        """`scontrol requeue incomplete`: requeue, unless the job has completed."""

    async def start_after(self, key: str, delay_s: int) -> None:
        """`StartTime=now+N` (0: `now`). Only sensible while the job is `pending`: Slurm overwrites it before."""

    async def update_job(
        self, key: str, *, admin_comment: str | None = None, nice: int | None = None, priority: int | None = None
    ) -> None:
        """Set what is not None. A numeric priority stays until `release`."""

    async def hold(self, key: str) -> None:
        """Hold a pending job."""

    async def release(self, key: str) -> None:
        """Release a held job and give its priority back to Slurm."""

    async def signal(self, key: str, signal: str, *, batch: bool = False) -> None:
        """`scancel --signal`: to the job's steps, or with `batch` to the batch shell only (never --full: an untrapped shell dies)."""
