"""What is known of this node's health at one moment: the exporter, the verdict file and the controller's message are made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast_common.health.model import Finding, Sample
from holdfast_common.health.rules import ReadingRule

from holdfast_nodeagent.gpu.inventory import Inventory


@dataclass(frozen=True, slots=True)
class GpuJob:
    """A job that uses a GPU."""

    uuid: str
    job_id: int
    user: str = ""
    account: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class XidCount:
    """How often an XID came for a GPU, and when last."""

    count: int
    last_at: float


@dataclass(frozen=True, slots=True)
class TierTime:
    """How long the rounds of readings of a tier took since the agent's start."""

    count: int = 0
    sum_s: float = 0.0
    buckets: tuple[int, ...] = ()
    """Rounds of at most `metrics.SHORT_S[i]` seconds, cumulative."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it. Times are Unix seconds."""

    node: str = ""
    """Its name in Slurm; empty until it has one."""
    ready: bool = False
    """Everything has been read at least once since the agent's start (or, without GPUs, all that there is)."""
    polled_at: float = 0.0
    """When readings of GPUs last came; 0: never."""
    inventory: Inventory = field(default_factory=Inventory)
    gpus_expected: int | None = None
    """None: nobody said."""
    samples: Mapping[tuple[str, str], Sample] = field(default_factory=dict)
    """(Reading, GPU's uuid or empty) → the newest."""
    findings: tuple[Finding, ...] = ()
    rules: tuple[ReadingRule, ...] = ()
    """The rules on readings by which it is judged."""
    xids: Mapping[tuple[str, int], XidCount] = field(default_factory=dict)
    """(GPU's uuid, XID) → count."""
    gpu_jobs: tuple[GpuJob, ...] = ()
    tiers: Mapping[str, TierTime] = field(default_factory=dict)
    stalls: int = 0
    """Heartbeats that the NVML process missed since the agent's start."""
    restarts: int = 0
    """Starts of the NVML process after its first."""
    quick_check: str = ""
    """Before slurmd was started: empty: not yet; `passed`; or what failed."""
    deep_check: str = ""
