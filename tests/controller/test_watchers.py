"""Looking again and again: what an answer that is not whole says, and what it does not; and how often one looks."""

import asyncio
from typing import Any

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import events as e
from holdfast_controller.fleet import Fleet
from holdfast_controller.providers.base import Fault, FaultKind, Instance, PartialAnswerError, ProviderError, Reclaim
from holdfast_controller.reclaims import AGENT_FIRST_S, OVER_S, ReclaimWatcher, notice_id
from holdfast_controller.reconcile import VANISHED_LOOKS, VANISHED_S, CloudWatcher

SILENT = Fault(FaultKind.TRANSIENT, "ReadTimeout", "us-west-2 does not answer")


class Regions:
    """A cloud with a region that may be silent."""

    name = "aws"

    def __init__(self) -> None:
        self.listed: tuple[Instance, ...] = ()
        self.marked: tuple[Reclaim, ...] = ()
        self.error: Exception | None = None

    async def instances(self) -> tuple[Instance, ...]:
        if self.error is not None:
            raise self.error
        return self.listed

    async def reclaims(self) -> tuple[Reclaim, ...]:
        if self.error is not None:
            raise self.error
        return self.marked


class Posts:
    """A reactor that only takes events in."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.events: list[e.Event] = []

    def post(self, event: e.Event) -> None:
        self.events.append(event)
        self.fleet.apply(event)

    def taken(self) -> list[str]:
        found, self.events = [type(event).__name__ for event in self.events], []
        return found


@pytest.fixture
def cloud() -> Regions:
    return Regions()


@pytest.fixture
def posts(world: Any) -> Posts:
    world.running(7, "n1")
    return Posts(world.fleet)


@pytest.fixture
def clock(world: Any) -> VirtualClock:
    return VirtualClock(world.now)


@pytest.fixture
def lists(cloud: Regions, posts: Posts, clock: VirtualClock) -> CloudWatcher:
    return CloudWatcher(cloud, posts, clock, busy_s=1.0, idle_s=10.0)  # type: ignore[arg-type]


@pytest.fixture
def marks(cloud: Regions, posts: Posts, clock: VirtualClock) -> ReclaimWatcher:
    return ReclaimWatcher(cloud, posts, clock, busy_s=1.0, idle_s=10.0)  # type: ignore[arg-type]


async def test_what_one_region_says_is_believed_while_another_is_silent(
    lists: CloudWatcher, cloud: Regions, posts: Posts, world: Any
) -> None:
    gone = Instance("i-n1", "l", world.pools[0].name, "gone", state_reason="Server.SpotInstanceTermination", reclaimed=True)
    cloud.error = PartialAnswerError(SILENT, instances=(gone,))
    with pytest.raises(ProviderError):
        await lists.look()
    assert posts.taken() == ["InstanceChanged"]
    assert world.fleet.nodes["n1"].doom.dead
    assert not lists.listed, "it was not the whole list, before which nothing is bought after a loss of the journal"


async def test_what_a_partial_list_leaves_out_has_not_vanished(
    lists: CloudWatcher, cloud: Regions, posts: Posts, clock: VirtualClock, world: Any
) -> None:
    world.apply(e.AgentLost(world.now, "i-n1"))
    world.node("n1", "ALLOCATED", "CLOUD", "NOT_RESPONDING")
    for look in range(VANISHED_LOOKS + 1):
        cloud.error = PartialAnswerError(SILENT) if look < VANISHED_LOOKS else None
        if cloud.error is None:
            await lists.look()
        else:
            with pytest.raises(ProviderError):
                await lists.look()
        await clock.advance(VANISHED_S)
    assert posts.taken() == []
    for _ in range(VANISHED_LOOKS):
        await lists.look()
    assert posts.taken() == ["InstanceChanged"], "whole lists that leave it out are believed in the end"


async def test_a_mark_in_a_partial_answer_is_a_notice_and_its_absence_from_one_no_withdrawal(
    marks: ReclaimWatcher, cloud: Regions, posts: Posts, clock: VirtualClock, world: Any
) -> None:
    mark = Reclaim("i-n1", world.now + 100, "marked-for-termination")
    for marked in ((mark,), (mark,), (), (), (), ()):
        cloud.error = PartialAnswerError(SILENT, reclaims=marked)
        with pytest.raises(ProviderError):
            await marks.look()
        await clock.advance(max(AGENT_FIRST_S, OVER_S))
    assert posts.taken() == ["NoticeReceived"]


@pytest.mark.parametrize("told", ["by us", "before our restart"])
async def test_a_mark_is_withdrawn_when_whole_answers_leave_it_out_for_long_enough(
    told: str, marks: ReclaimWatcher, cloud: Regions, posts: Posts, clock: VirtualClock, world: Any
) -> None:
    if told == "by us":
        cloud.marked = (Reclaim("i-n1", world.now + 100, "marked-for-termination"),)
        await marks.look()
        await clock.advance(AGENT_FIRST_S)
        await marks.look()
        assert posts.taken() == ["NoticeReceived"]
        cloud.marked = ()
    else:
        notice = Notice(notice_id("i-n1"), NoticeKind.PREEMPT, world.now + 100, world.now, "marked")
        world.apply(e.NoticeReceived(world.now, "n1", notice, "cloud"))
    await marks.look()
    assert marks.busy()
    await clock.advance(OVER_S)
    await marks.look()
    assert posts.taken() == [], "twice only"
    await marks.look()
    assert posts.taken() == ["NoticeWithdrawn"]
    assert not marks.busy()


@pytest.mark.parametrize(
    ("error", "looks"),
    [(None, 10), (PartialAnswerError(SILENT), 10), (ProviderError(SILENT), 1), (ValueError("a list that nobody can read"), 1)],
)
async def test_a_cloud_that_answers_is_asked_often_while_something_is_under_way_and_one_that_does_not_is_left_alone(
    error: Exception | None, looks: int, lists: CloudWatcher, cloud: Regions, clock: VirtualClock, world: Any
) -> None:
    asked = 0

    async def counted() -> tuple[Instance, ...]:
        nonlocal asked
        asked += 1
        if error is not None:
            raise error
        return ()

    cloud.instances = counted  # type: ignore[method-assign]
    world.want(8, "n2")
    watching = asyncio.create_task(lists.run())
    await clock.advance(9.5)
    assert asked == looks
    watching.cancel()


def test_a_notice_whose_deadline_is_far_ahead_makes_nobody_hurry_once_all_has_been_said(world: Any) -> None:
    world.running(7, "n1")
    world.registered(7, "n1")
    assert not world.fleet.busy()
    notice = Notice("sick", NoticeKind.HEALTH, world.now + 3600, world.now, "ECC")
    world.apply(e.NoticeReceived(world.now, "n1", notice))
    assert world.fleet.busy()
    world.later(61)
    assert not world.fleet.busy()
    world.parked(7, "n1", notice)
    assert world.fleet.busy(), "now it is requeued"
    world.later(61)
    assert not world.fleet.busy()
    world.later(3600 - 122 - 59)
    assert world.fleet.busy(), "the deadline is near"
