"""The words of health: a sample, an event of a GPU, a finding and the action it asks for. Times are Unix seconds."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Action(StrEnum):
    """What a rule asks for, the mildest first."""

    NOTE = "note"
    """It is recorded and exported; nothing is done."""
    DRAIN = "drain"
    """No new job; the node is given up when its last job has ended."""
    EVACUATE = "evacuate"
    """Its jobs save and are requeued now; then the machine is given up, or kept for a while to be looked at (policy)."""
    REPLACE = "replace"
    """As `evacuate`, but the machine is never kept: it is terminated, and another is bought elsewhere."""

    @property
    def rank(self) -> int:
        """How grave it is: 0 to 3."""
        return _RANKS[self]


_RANKS = {Action.NOTE: 0, Action.DRAIN: 1, Action.EVACUATE: 2, Action.REPLACE: 3}

State = Literal["ok", "unsupported", "failed"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of one thing at one time."""

    at: float
    name: str
    """A reading of the catalogue."""
    value: float | None = None
    """In the catalogue's unit; None unless `state` is `ok`."""
    gpu: str = ""
    """The GPU's uuid; empty for readings of the node."""
    state: State = "ok"
    """`unsupported`: this GPU or driver does not tell; `failed`: it was asked, and gave an error (`detail`)."""
    detail: str = ""
    """An error's name, or of which path or link the value is."""


@dataclass(frozen=True, slots=True)
class GpuEvent:
    """What the driver said by itself: an XID, an SXid of a switch, or that a GPU has fallen off the bus."""

    at: float
    kind: Literal["xid", "sxid", "off_bus"]
    code: int = 0
    """The XID's or SXid's number; 0 for `off_bus`."""
    gpu: str = ""
    """The GPU's uuid, or its PCI address as the kernel writes it where the uuid is not known."""
    text: str = ""
    """The kernel's own line, or empty where NVML told."""
    fatal: bool = False
    """The line calls itself fatal (NVLink's XIDs 144 to 150 and SXids do so)."""
    pid: int = 0
    """The process that the kernel names; 0: none."""
    process: str = ""
    job_id: int = 0
    """The Slurm job that the process belongs to (or the only one on the GPU then); 0: not known."""
    source: Literal["kmsg", "nvml"] = "kmsg"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that holds for one GPU, or for the node."""

    rule: str
    action: Action
    since: float
    gpu: str = ""
    """The GPU's uuid (or PCI address); empty: the node."""
    text: str = ""
    """One sentence of what was seen, with the figures."""
    advice: str = ""
    """Whose advice the action is."""
    dry_run: bool = False
    """It is only said what would be done."""
    strikes: int = 1
    """How often the rule has fired for this GPU within its window."""
    job_ids: tuple[int, ...] = field(default=())
    """The jobs that are to blame, where the rule blames jobs."""

    @property
    def key(self) -> str:
        """Names it among a node's findings."""
        return f"{self.rule}:{self.gpu}" if self.gpu else self.rule


def worst(findings: tuple[Finding, ...]) -> Finding | None:
    """Return the gravest finding that is not a dry run (the oldest of those); None where there is none."""
    real = [finding for finding in findings if not finding.dry_run]
    return min(real, key=lambda finding: (-finding.action.rank, finding.since, finding.key), default=None)
