"""What Slurm says of a node and of a job: plain values, shared by the Slurm client, the pure decisions and the agent."""

from dataclasses import dataclass


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
        return "POWERED_DOWN" in self.flags and not self.flags & {
            "POWERING_DOWN",
            "POWERING_UP",
            "POWER_UP",
            "POWER_DOWN",
        }


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
    het_job_id: int = 0
    """Leader's id where the job is part of a heterogeneous one, else 0."""
    reservation: str = ""
    """The reservation that it uses, its user's or ours (`holdfast-JOBID`); empty: none."""
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
