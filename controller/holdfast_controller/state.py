"""Everything that the controller knows, as plain data: `fleet` changes it, by events alone."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast_controller import index
from holdfast_controller.commands import GiveUp
from holdfast_controller.events import JobReported
from holdfast_controller.index import JobIds
from holdfast_controller.records import CommandRecord, InstanceRecord, JobRecord, LaunchRecord, Node, PoolMemory, QuotaMemory, StepsSeen

STRUCK_S = 3600.0
"""For so long it counts that a machine was given up for a rule."""


@dataclass(slots=True)
class State:
    """Nodes, instances, jobs, launches, pools and commands."""

    epoch: str = ""
    """Random, made with the journal: launch ids begin with it, so that a lost journal never repeats one."""
    nodes: dict[str, Node] = field(default_factory=dict)
    instances: dict[str, InstanceRecord] = field(default_factory=dict)
    launches: dict[str, LaunchRecord] = field(default_factory=dict)
    jobs: dict[int, JobRecord] = field(default_factory=dict)
    pools: dict[str, PoolMemory] = field(default_factory=dict)
    quotas: dict[str, QuotaMemory] = field(default_factory=dict)
    """By `capacity.quota_key`."""
    commands: dict[str, CommandRecord] = field(default_factory=dict)
    launch_count: int = 0
    fresh: bool = False
    """The journal was empty at the start: nothing is bought or terminated before every cloud has been listed."""
    cloud_listed: bool = False
    """Every cloud has been listed whole since the controller's start (a sample, not replayed)."""
    policy_revision: str = ""
    looked_at: float = 0.0
    """When the last look at Slurm began that was answered (a sample, as the next)."""
    steady_since: float = 0.0
    """When looks at Slurm began to be answered, after the controller's start or an outage."""
    struck: dict[str, float] = field(default_factory=dict)
    """`RULE INSTANCE` → when it was drained or condemned for the health rule, within the last `STRUCK_S`."""
    early: dict[str, JobReported] = field(default_factory=dict)
    """What agents said of jobs that no look at Slurm has shown yet."""
    put_off: dict[int, GiveUp] = field(default_factory=dict)
    """The same of jobs whose nodes every pool refused already."""
    clock_steps: int = 0
    """How often the clock was set."""
    newest_at: float = 0.0
    """When the newest event was, by the controller's clock: a clock behind it has been set back."""
    forgot_at: float = 0.0
    """When old commands, instances and launches were last dropped."""
    held: JobIds = field(default_factory=dict)
    """Node → the jobs that Slurm has there (an index, as the next: not stored)."""
    seen: JobIds = field(default_factory=dict)
    """Node → the jobs whose processes its agent sees there."""

    living: Counter[str] = field(default_factory=Counter)
    """Pool → how many instances live there (an index)."""
    steps: dict[str, StepsSeen] = field(default_factory=dict)
    """Instance → the processes that its agent's heartbeats told of (a sample, as the next)."""
    stepped: dict[int, int] = field(default_factory=dict)
    """Job → the newest attempt of which a heartbeat named a process."""

    def jobs_on(self, node: str) -> Iterator[JobRecord]:
        """Yield the jobs that Slurm has on the node (running, configuring or completing)."""
        return (self.jobs[job_id] for job_id in sorted(self.held.get(node, index.NO_JOBS)))

    def instance_of(self, node: Node) -> InstanceRecord | None:
        """Return the instance that holds the name, if any."""
        return self.instances.get(node.instance_id) if node.instance_id else None

    def given_up(self, instance_id: str) -> bool:
        """Whether the instance's end has been ordered."""
        return bool(instance_id) and f"terminate:{instance_id}" in self.commands
