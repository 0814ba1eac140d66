"""The cloud's own word of an interruption, for nodes whose agent does not bring it: it is dead, or cannot read its metadata.

Where the agent lives it is first: its word comes within a second, and a second notice for the same end would only make the job look twice.
Level-triggered: each answer is compared with what the fleet has been told. An answer that fails says nothing.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from holdfast_common.clock import Clock
from holdfast_common.notice import Notice, NoticeKind

from holdfast_controller.events import Event, NoticeReceived, NoticeWithdrawn
from holdfast_controller.fleet import Fleet
from holdfast_controller.providers.base import PartialAnswerError, Provider, Reclaim
from holdfast_controller.reactor import Reactor
from holdfast_controller.records import InstanceRecord, Node
from holdfast_controller.watcher import Watcher

AGENT_FIRST_S = 5.0
"""How long the node's agent is given to bring the notice itself; also one that is away, since after our own start all of them are."""
OVER_S, OVER_LOOKS = 15.0, 3
"""A mark is gone when whole answers have left it out for so long, so often: they lag, and one empty answer proves nothing."""
SOURCE = "cloud"


@dataclass(slots=True)
class Sighting:
    """An instance that the cloud has said it takes back. Times are monotonic seconds."""

    since: float
    missing_since: float | None = None
    missing_looks: int = 0

    def seen(self) -> None:
        """An answer names it."""
        self.missing_since, self.missing_looks = None, 0

    def missed(self, now: float) -> None:
        """A whole answer leaves it out."""
        self.missing_since = now if self.missing_since is None else self.missing_since
        self.missing_looks += 1

    def is_over(self, now: float) -> bool:
        """Whether the cloud has changed its mind."""
        return self.missing_since is not None and self.missing_looks >= OVER_LOOKS and now >= self.missing_since + OVER_S


class ReclaimWatcher(Watcher):
    """Asks one cloud which instances it is about to take, apart from its lists: a call that hangs holds nothing else up."""

    complaint = "a cloud does not say, or not all of, what it takes back: nothing is concluded from what is missing"

    def __init__(self, provider: Provider, reactor: Reactor, clock: Clock, *, busy_s: float, idle_s: float) -> None:
        super().__init__(provider.name, clock, busy_s=busy_s, idle_s=idle_s)
        self._provider = provider
        self._reactor = reactor
        self._sightings: dict[str, Sighting] = {}

    def busy(self) -> bool:
        """Whether a mark is under way, or a node's agent is away."""
        return bool(self._sightings) or any(not record.connected for _, record in bound(self._reactor.fleet))

    async def look(self) -> None:
        """Ask once. Raises `ProviderError`; what some regions said is believed."""
        if not any(True for _ in bound(self._reactor.fleet)):
            self._sightings.clear()
            return
        try:
            reclaims = await self._provider.reclaims()
        except PartialAnswerError as partial:
            self._tell(partial.reclaims, whole=False)
            raise
        self._tell(reclaims, whole=True)

    def _tell(self, reclaims: tuple[Reclaim, ...], *, whole: bool) -> None:
        fleet, at, now = self._reactor.fleet, self._clock.now(), self._clock.monotonic()
        named = {each.instance_id: each for each in reclaims if each.instance_id in fleet.instances}
        for iid in {*named, *self._told_of()}:
            self._sightings.setdefault(iid, Sighting(now))
        for iid, sighting in self._sightings.items():
            if iid in named:
                sighting.seen()
            elif whole:
                sighting.missed(now)
        over = {iid for iid, sighting in self._sightings.items() if sighting.is_over(now)}
        marked_s = {iid: now - self._sightings[iid].since for iid in named}
        for event in reclaim_news(fleet, named, marked_s, over, at):
            self._reactor.post(event)
        for iid in over:
            del self._sightings[iid]

    def _told_of(self) -> set[str]:
        """Return this cloud's instances with a notice of ours: it may be from before our restart."""
        ours = f"{self._provider.name}/"
        held = [(node, record.instance) for node, record in bound(self._reactor.fleet) if record.instance.pool.startswith(ours)]
        return {instance.instance_id for node, instance in held if notice_id(instance.instance_id) in node.notices}


def bound(fleet: Fleet) -> Iterator[tuple[Node, InstanceRecord]]:
    """Yield the nodes that a living instance holds, with it; not those whose instance is on its way out by our own order."""
    for node in fleet.nodes.values():
        record = fleet.instance_of(node)
        if record is not None and record.alive and not fleet.given_up(node.instance_id):
            yield node, record


def notice_id(instance_id: str) -> str:
    """Return the id of the cloud's notice for an instance."""
    return f"{SOURCE}-{instance_id}"


def reclaim_news(fleet: Fleet, reclaims: Mapping[str, Reclaim], marked_s: Mapping[str, float], over: Set[str], at: float) -> list[Event]:
    """Return the notices that are new, and those that are over although the instance lives. `marked_s`: for how long each is known."""
    news: list[Event] = []
    for node, record in bound(fleet):
        iid = record.instance.instance_id
        said, known = reclaims.get(iid), notice_id(iid) in node.notices
        if said is not None and not known and not _told(node) and marked_s[iid] >= AGENT_FIRST_S:
            notice = Notice(notice_id(iid), NoticeKind.PREEMPT, said.deadline, at, said.reason)
            news.append(NoticeReceived(at, node.name, notice, SOURCE))
        elif iid in over and known and not _leaving(node):
            news.append(NoticeWithdrawn(at, node.name, notice_id(iid)))
    return news


def _told(node: Node) -> bool:
    return any(doom.notice.kind is NoticeKind.PREEMPT for doom in node.notices.values())


def _leaving(node: Node) -> bool:
    """Whether the node is given up already: its instance ends by our own order, and the cloud says no more of a reclaim."""
    flags = node.view.flags if node.view is not None else frozenset()
    return node.power_down_at is not None or bool(flags & {"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN"})
