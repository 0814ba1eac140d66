"""What a cloud says at one look, and the notices that follow from it: pure, and the same for every cloud."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from holdfast_common.notice import Notice, NoticeKind

MOVED_S = 60.0
"""A deadline that moves out by less than this is the same notice: the earlier time is kept, which is safe."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A notice as one look found it."""

    kind: NoticeKind
    at: float
    """Unix seconds: the deadline, or for an advice the time at which it was given."""
    reason: str
    counted: bool = False
    """The cloud names no moment: `at` is counted from this look, so a notice of this kind that stands already keeps its earlier time."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """No usable answer: neither the whole of the notices nor their absence. `fault` is one sentence."""

    fault: str
    seen: tuple[Seen, ...] = ()
    """What could be read all the same. It counts, but nothing is withdrawn because it is missing here."""


Answer = tuple[Seen, ...] | Unclear
"""What one source says now; an empty tuple is the cloud's word that there is nothing."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the instance is, by its metadata service."""

    instance_id: str
    provider: str
    zone: str = ""
    instance_type: str = ""
    market: str = ""
    """spot or on_demand; empty: not said."""
    address: str = ""
    cluster: str = ""
    launch_id: str = ""
    launch_token: str = ""
    """From the user data; secret: never logged."""


class NoticeSource(Protocol):
    """One instance's metadata service."""

    window_s: float
    """Seconds of notice that this cloud gives, at best; what holds for this instance may become known with a look."""

    async def identity(self) -> Identity:
        """Return what the instance is. Raises Temporary where the service gives no usable answer."""

    async def look(self) -> Mapping[str, Answer]:
        """Return each source's answer by its name; a source that was not asked this time, or has nothing new to say, is left out.

        May wait for as long as there is nothing new. Never raises for a bad answer.
        """

    def close(self) -> None:
        """End what is under way, at once: it is not asked any more."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one look changed. `appeared` comes before `cancelled`, so that a notice is never missing between the two."""

    active: Mapping[str, tuple[Notice, ...]]
    appeared: tuple[Notice, ...] = ()
    cancelled: tuple[Notice, ...] = ()


def notice_id(instance_id: str, kind: NoticeKind, at: float) -> str:
    """Return the notice's id: the same for the same notice after a restart of the agent."""
    text = f"{instance_id} {kind} {at:.0f}"
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def follow(active: Mapping[str, tuple[Notice, ...]], source: str, answer: Answer, now: float, instance_id: str) -> Change:
    """Return what an answer changes. `active` is by source; an unclear answer withdraws nothing."""
    old = active.get(source, ())
    kept: dict[str, Notice] = {notice.id: notice for notice in old} if isinstance(answer, Unclear) else {}
    for seen in answer.seen if isinstance(answer, Unclear) else answer:
        same = next((notice for notice in old if _same(notice, seen)), None)
        notice = same or Notice(notice_id(instance_id, seen.kind, seen.at), seen.kind, seen.at, now, seen.reason)
        kept[notice.id] = notice
    if isinstance(answer, Unclear) and len(kept) == len(old):
        return Change(active)
    known = {notice.id for notice in old}
    return Change(
        active={**active, source: tuple(kept.values())},
        appeared=tuple(notice for notice in kept.values() if notice.id not in known),
        cancelled=tuple(notice for notice in old if notice.id not in kept),
    )


def strongest(notices: Iterable[Notice], now: float) -> Notice | None:
    """Return the notice that a job must be told of: one to leave before one to save, then the earliest deadline."""
    return min(notices, key=lambda notice: (not notice.evacuates(now), notice.deadline), default=None)


def _same(notice: Notice, seen: Seen) -> bool:
    return notice.kind is seen.kind and 0 <= seen.at - notice.deadline <= (math.inf if seen.counted else MOVED_S)
