"""What was recorded by whoever did it: a job's attempts, the controller's journal, the cloud's account. Times are Unix seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


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
    """The job that ran the same undisturbed; empty for a reference, and where there is none."""
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
    """What the script wrote beside its final state: hash, step …"""
    tensors: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every tensor and value of its final state, computed from the file by whoever gathered this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One event or command of the controller's journal."""

    seq: int
    at: float
    kind: str
    text: str
    body: dict[str, Any]


class Records(Protocol):
    """Where the lives of machines are read from."""

    @property
    def journal(self) -> Sequence[JournalEntry]:
        """The controller's journal, oldest first."""

    @property
    def cloud(self) -> Sequence[dict[str, Any]]:
        """The simulated cloud's own record, cloud.jsonl."""
