"""What a cloud says at one look, and the notices that follow from it: pure, and the same for every cloud."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from holdfast_common.notice import Notice, NoticeKind

MOVED_S = 60.0
"""A deadline that moves out by less than this is the same notice: the earlier time is kept, which is safe."""

MAX_PER_KIND = 16
"""Of the notices of one kind that one source says now, so many count; and as many of those that stand while its answers are unclear,
since deadlines may move at each look. It is the earliest deadlines that count."""


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
    """What could be read all the same. It counts, but nothing is withdrawn because it is missing here, unless there is too much of it."""


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
    """Return what an answer changes. `active` is by source; an unclear answer withdraws nothing that `MAX_PER_KIND` leaves room for."""
    old = active.get(source, ())
    said: dict[str, Notice] = {}
    for seen in answer.seen if isinstance(answer, Unclear) else answer:
        same = next((notice for notice in old if _same(notice, seen)), None)
        notice = same or Notice(notice_id(instance_id, seen.kind, seen.at), seen.kind, seen.at, now, seen.reason)
        said[notice.id] = notice
    standing = {notice.id: notice for notice in old if notice.id not in said} if isinstance(answer, Unclear) else {}
    counts = _earliest(said.values()) | _earliest(standing.values())
    kept = {id_: notice for id_, notice in {**standing, **said}.items() if id_ in counts}
    known = {notice.id for notice in old}
    if isinstance(answer, Unclear) and kept.keys() == known:
        return Change(active)
    return Change(
        active={**active, source: tuple(kept.values())},
        appeared=tuple(notice for notice in kept.values() if notice.id not in known),
        cancelled=tuple(notice for notice in old if notice.id not in kept),
    )


def _earliest(notices: Iterable[Notice]) -> set[str]:
    """Return the ids of each kind's `MAX_PER_KIND` earliest."""
    of_kind: dict[NoticeKind, list[Notice]] = {}
    for notice in sorted(notices, key=lambda notice: notice.deadline):
        of_kind.setdefault(notice.kind, []).append(notice)
    return {notice.id for found in of_kind.values() for notice in found[:MAX_PER_KIND]}


def strongest(notices: Iterable[Notice], now: float) -> Notice | None:
    """Return the notice that a job must be told of: one to leave before one to save, then the earliest deadline."""
    return min(notices, key=lambda notice: (not notice.evacuates(now), notice.deadline), default=None)


def _same(notice: Notice, seen: Seen) -> bool:
    return notice.kind is seen.kind and 0 <= seen.at - notice.deadline <= (math.inf if seen.counted else MOVED_S)
