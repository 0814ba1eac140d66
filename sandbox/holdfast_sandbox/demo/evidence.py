"""Everything that the demo judges and reports from: plain values taken from the journal, the attempts' files, Slurm and the cloud."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

ReclaimKind = Literal["free", "saving", "one_of_two", "unnoticed"]
KINDS: tuple[ReclaimKind, ...] = ("free", "saving", "one_of_two", "unnoticed")
TITLES: dict[ReclaimKind, str] = {
    "free": "at a free moment",
    "saving": "while it saved",
    "one_of_two": "one node of two",
    "unnoticed": "without notice",
}


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A machine that the demo had the cloud take back. Times are Unix seconds."""

    kind: ReclaimKind
    job: str
    attempt: int
    node: str
    instance_id: str
    at: float
    """When the cloud was told to."""

    @property
    def noticed(self) -> bool:
        """Whether the cloud was to give notice first."""
        return self.kind != "unnoticed"


@dataclass(frozen=True, slots=True)
class Start:
    """A line of starts.txt: the batch script began."""

    t: float
    attempt: int
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """One job as its own files and Slurm tell it."""

    job_id: int
    nodes: int
    total_steps: int
    every_steps: int
    """A periodic checkpoint every so many steps."""
    reference: str = ""
    """The job that ran the same undisturbed; empty for a reference."""
    slurm: dict[str, str] = field(default_factory=dict)
    """`scontrol show job` at the end: JobState, ExitCode, Restarts …"""
    completions: list[str] = field(default_factory=list)
    """JobState of each line that Slurm's completion log has for it, in order."""
    starts: list[Start] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)
    """attempts.jsonl (see `holdfast.timeline`)."""
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    """What its output says it trained: attempt, first and last step of each unbroken run of steps."""
    outcome: dict[str, Any] = field(default_factory=dict)
    """What train.py wrote beside its final state: hash, step, world_size."""
    tensors: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every tensor and value of its final state, computed from the file by the demo itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One event or command of the controller's journal."""

    seq: int
    at: float
    kind: str
    text: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One run of the demo."""

    v: Literal[1] = 1
    began: float
    ended: float
    """When the records were read; what ran then is charged up to here."""
    slurm_version: str
    gpus_per_node: int
    """Pretended: the simulated nodes have none."""
    on_demand_usd_h: float
    """For a node."""
    jobs: dict[str, JobRun]
    reclaims: list[Reclaim]
    journal: list[JournalEntry]
    cloud: list[dict[str, Any]]
    """The simulated cloud's own record, cloud.jsonl."""
    nodes: dict[str, dict[str, str]]
    """State and Reason of each node at the end, as `scontrol show node` says them."""
    leftovers: list[str] = field(default_factory=list)
    """Command lines of processes that outlived the sandbox."""


_ADAPTER = TypeAdapter(Evidence)


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write it as JSON. Raises OSError."""
    path.write_bytes(_ADAPTER.dump_json(evidence) + b"\n")


def read_evidence(path: Path) -> Evidence:
    """Read what `write_evidence` wrote. Raises OSError, pydantic.ValidationError."""
    return _ADAPTER.validate_json(path.read_bytes())
