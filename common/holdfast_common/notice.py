"""A notice: the cloud's (or an admin's, or a health rule's) word that a node goes away, with a deadline."""

from dataclasses import dataclass
from enum import StrEnum

MAINTENANCE_LEAD_S = 300.0
"""Maintenance that is due within this time is evacuated from; further ahead it only asks for an early checkpoint."""


class NoticeKind(StrEnum):
    """What a notice announces."""

    PREEMPT = "preempt"
    """The cloud takes the instance back."""
    MAINTENANCE = "maintenance"
    """The host is to be worked on."""
    HEALTH = "health"
    """The node is sick: a preemption that we choose."""
    YIELD = "yield"
    """The job is to make room."""
    DRAIN = "drain"
    """An admin wants the node."""
    ADVISE = "advise"
    """The risk has risen (a rebalance recommendation): 30 % of these come true, so they ask for a save and never for a drain."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice for one node."""

    id: str
    """Unique; the same after a restart of whoever reads it."""
    kind: NoticeKind
    deadline: float
    """Unix seconds: after it the machine may be gone."""
    received: float
    """Unix seconds, when it was first read."""
    reason: str = ""

    def evacuates(self, now: float) -> bool:
        """Whether jobs must leave the node, as against only saving early."""
        if self.kind is NoticeKind.ADVISE:
            return False
        return self.kind is not NoticeKind.MAINTENANCE or self.deadline - now <= MAINTENANCE_LEAD_S

    @property
    def action(self) -> str:
        """What the job is asked for, as `node/notice.json` words it (for the moment at which it was received)."""
        return "save_and_park" if self.evacuates(self.received) else "save"
