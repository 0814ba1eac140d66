"""The cloud's own word of an interruption, for nodes whose agent does not bring it: it is dead, or cannot read its metadata.

Where the agent lives it is first: its word comes within a second, and a second notice for the same end would only make the job look twice.
Level-triggered: each answer is compared with what the fleet has been told. An answer that fails says nothing.
"""

from collections.abc import Iterator

import structlog
from holdfast_common.clock import Clock
from holdfast_common.notice import Notice, NoticeKind

from holdfast_controller.events import Event, NoticeReceived, NoticeWithdrawn
from holdfast_controller.fleet import Fleet
from holdfast_controller.providers.base import Provider, Reclaim
from holdfast_controller.reactor import Reactor
from holdfast_controller.reconcile import Nudge
from holdfast_controller.records import InstanceRecord, Node

AGENT_FIRST_S = 5.0
"""How long the node's agent is given to bring the notice itself; also one that is away, since after our own start all of them are."""
SOURCE = "cloud"

log = structlog.get_logger()


class ReclaimWatcher:
    """Asks one cloud which instances it is about to take, apart from its lists: a call that hangs holds nothing else up."""

    def __init__(self, provider: Provider, reactor: Reactor, clock: Clock, *, busy_s: float, idle_s: float) -> None:
        self._provider = provider
        self._reactor = reactor
        self._clock = clock
        self._busy_s, self._idle_s = busy_s, idle_s
        self._failing = False
        self._first_seen: dict[str, float] = {}
        self.nudge = Nudge(clock)

    async def run(self) -> None:
        """Ask for ever; often while a node's agent is away."""
        while True:
            try:
                await self.look()
                self._failing = False
            except Exception as error:
                if not self._failing:
                    said = f"{type(error).__name__}: {error}"
                    log.warning("a cloud does not say what it takes back: nothing is concluded", cloud=self._provider.name, error=said)
                self._failing = True
            busy = bool(self._first_seen) or any(not record.connected for _, record in bound(self._reactor.fleet))
            await self.nudge.sleep(self._busy_s if busy and not self._failing else self._idle_s)

    async def look(self) -> None:
        """Ask once. Raises `ProviderError`."""
        fleet = self._reactor.fleet
        if not any(True for _ in bound(fleet)):
            self._first_seen.clear()
            return
        at = self._clock.now()
        reclaims = {each.instance_id: each for each in await self._provider.reclaims()}
        self._first_seen = {iid: self._first_seen.get(iid, at) for iid in reclaims if iid in fleet.instances}
        for event in reclaim_news(fleet, reclaims, self._first_seen, self._provider.name, at):
            self._reactor.post(event)


def bound(fleet: Fleet) -> Iterator[tuple[Node, InstanceRecord]]:
    """Yield the nodes that a living instance holds, with it; not those whose instance is on its way out by our own order."""
    for node in fleet.nodes.values():
        record = fleet.instance_of(node)
        if record is not None and record.alive and not fleet.given_up(node.instance_id):
            yield node, record


def notice_id(instance_id: str) -> str:
    """Return the id of the cloud's notice for an instance."""
    return f"{SOURCE}-{instance_id}"


def reclaim_news(fleet: Fleet, reclaims: dict[str, Reclaim], first_seen: dict[str, float], provider: str, at: float) -> list[Event]:
    """Return the notices that are new, and those that the cloud lists no longer although the instance lives."""
    news: list[Event] = []
    for node, record in bound(fleet):
        iid = record.instance.instance_id
        said, known = reclaims.get(iid), notice_id(iid) in node.notices
        if said is not None and not known and not _told(node) and at >= first_seen[iid] + AGENT_FIRST_S:
            notice = Notice(notice_id(iid), NoticeKind.PREEMPT, said.deadline, at, said.reason)
            news.append(NoticeReceived(at, node.name, notice, SOURCE))
        elif said is None and known and record.instance.pool.startswith(f"{provider}/") and not _leaving(node):
            news.append(NoticeWithdrawn(at, node.name, notice_id(iid)))
    return news


def _told(node: Node) -> bool:
    return any(doom.notice.kind is NoticeKind.PREEMPT for doom in node.notices.values())


def _leaving(node: Node) -> bool:
    """Whether the node is given up already: its instance ends by our own order, and the cloud says no more of a reclaim."""
    flags = node.view.flags if node.view is not None else frozenset()
    return node.power_down_at is not None or bool(flags & {"POWERED_DOWN", "POWERING_DOWN", "POWER_DOWN"})
