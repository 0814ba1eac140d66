"""Everything that the demo judges and reports from: plain values taken from the journal, the attempts' files, Slurm and the cloud."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from holdfast_sandbox.history.model import JobRun, JournalEntry

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
