"""The stream against a real gRPC server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from holdfast_common.clock import SystemClock, VirtualClock
from holdfast_common.errors import Temporary
from holdfast_nodeagent.fakes import FakeController
from holdfast_nodeagent.link import Link
from holdfast_nodeagent.outbox import Outbox
from holdfast_protos.v1 import agent_pb2 as pb

MakeLink = Callable[..., Link]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.sent: list[float] = []
        self.news = asyncio.Event()

    def note(self, what: str) -> None:
        self.said.append(what)
        self.news.set()

    async def until(self, count: int) -> None:
        while len(self.said) < count:
            self.news.clear()
            await self.news.wait()

    def hello(self) -> pb.Hello:
        return pb.Hello(instance_id="i-1", launch_token="secret")

    def on_welcome(self, welcome: pb.Welcome) -> None:
        self.note(f"welcome {welcome.node}")

    def on_prepare(self, prepare: pb.Prepare) -> None:
        self.note(f"prepare {list(prepare.job_ids)}")

    def on_release(self, release: pb.Release) -> None:
        self.note(f"release {release.reason}")

    def on_hazard(self, hazard: pb.Hazard) -> None:
        self.note(f"hazard {hazard.hazard_per_h}")

    def on_health_rules(self, rules: pb.HealthRules) -> None:
        self.note(f"rules {rules.revision}")

    def on_health_order(self, order: pb.HealthOrder) -> None:
        self.note(f"resolve {order.resolve_rule}")

    def on_sent(self, sent_at: float) -> None:
        self.sent.append(sent_at)

    def heartbeat(self) -> pb.Heartbeat:
        return pb.Heartbeat(slurmd_running=True)


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def make_link(controller: FakeController, listener: Listener) -> AsyncIterator[Callable[..., Link]]:
    tasks = []

    def make(*, urgent: bool = True, patience_s: float = 0.3) -> Link:
        link = Link(controller.channel, listener, Outbox(), SystemClock(), lambda: urgent, patience_s)
        tasks.append(asyncio.ensure_future(link.run()))
        return link

    yield make
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def job(step: int) -> pb.AgentMessage:
    return pb.AgentMessage(job_status=pb.JobStatus(job_id=12, step=step))


async def test_hello_comes_first_and_nothing_else_before_the_welcome(
    controller: FakeController, listener: Listener, make_link: MakeLink
) -> None:
    controller.welcome = False
    link = make_link()
    link.put("job:12.0", job(1))
    hello = await controller.until("hello")
    assert (hello.hello.instance_id, hello.hello.launch_token) == ("i-1", "secret")
    await asyncio.sleep(0.05)
    assert len(controller.received) == 1
    assert not link.welcomed
    controller.say("w", welcome=pb.Welcome(node="spot-1", heartbeat_s=0.2))
    assert (await controller.until("job_status")).job_status.step == 1
    assert listener.said == ["welcome spot-1"]


async def test_messages_are_acknowledged_and_made_once(controller: FakeController, listener: Listener, make_link: MakeLink) -> None:
    make_link()
    await controller.until("hello")
    for _ in range(3):
        controller.say("p", prepare=pb.Prepare(job_ids=[12]))
    controller.say("r", release=pb.Release(reason="over"))
    controller.say("h", hazard=pb.Hazard(hazard_per_h=0.5))
    controller.say("j", health_rules=pb.HealthRules(revision="r2"), sent_at=17.5)
    controller.say("o", health_order=pb.HealthOrder(resolve_rule="xid_79"))
    acks = [(await controller.until("ack", number)).ack.id for number in range(1, 9)]
    assert acks == ["w-1", "p-1", "p-1", "p-1", "r-1", "h-1", "j-1", "o-1"]
    assert listener.said == ["welcome spot-1", "prepare [12]", "release over", "hazard 0.5", "rules r2", "resolve xid_79"]
    assert listener.sent == [17.5]


async def test_a_lost_stream_is_made_anew_and_what_was_not_acknowledged_goes_again(
    controller: FakeController, listener: Listener, make_link: MakeLink
) -> None:
    controller.acks = False
    link = make_link()
    link.put("job:12.0", job(1))
    first = await controller.until("job_status")
    controller.end_stream()
    again = await controller.until("job_status", 2)
    assert again.id == first.id
    controller.acks = True
    link.put("job:12.0", job(2))
    assert (await controller.until("job_status", 3)).job_status.step == 2
    assert controller.streams == 2


async def test_a_controller_that_comes_back_is_found(
    controller: FakeController, listener: Listener, make_link: MakeLink, eventually: Eventually
) -> None:
    link = make_link()
    await listener.until(1)
    await controller.stop()
    await eventually(lambda: not link.welcomed)
    link.put("notice:n", pb.AgentMessage(notice=pb.Notice(id="n")))
    before = link.silence_s()
    await asyncio.sleep(0.05)
    assert link.silence_s() > before
    await controller.start()
    assert (await controller.until("notice")).notice.id == "n"
    await eventually(lambda: link.silence_s() == 0)
    assert len(listener.said) == 2


async def test_a_silent_controller_on_an_open_stream_is_noticed(
    controller: FakeController, listener: Listener, make_link: MakeLink, eventually: Eventually
) -> None:
    link = make_link(patience_s=0.2)
    await listener.until(1)
    controller.acks = False
    started = asyncio.get_running_loop().time()
    await eventually(lambda: link.silence_s() >= 0.2)
    assert asyncio.get_running_loop().time() - started < 1.0  # by heartbeats alone, no notice was sent
    controller.acks = True


async def test_a_refusal_waits_and_tries_again_where_it_says_so(
    controller: FakeController, listener: Listener, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    controller.welcome = False
    make_link()
    await controller.until("hello")
    controller.say("x", refused=pb.Refused(reason="no such instance", retry=True))
    await controller.until("hello", 2)
    assert "refused: no such instance" in caplog.text
    assert "secret" not in caplog.text


async def test_a_controller_that_does_not_welcome_us_owes_an_answer_and_is_heard_all_the_same(
    controller: FakeController, make_link: MakeLink, eventually: Eventually
) -> None:
    controller.welcome = False
    link = make_link(patience_s=0.2)
    await controller.until("heartbeat", 6)
    assert link.silence_s() >= 0.5
    assert link.unheard_s() < link.silence_s() - 0.2
    controller.acks = False
    await eventually(lambda: link.unheard_s() >= 0.5)
    await controller.stop()
    unheard_s = link.unheard_s()
    await asyncio.sleep(0.3)
    assert link.unheard_s() >= unheard_s + 0.3  # a stream that is tried anew is no word
    controller.acks = True


async def test_a_refusal_is_a_word_too(controller: FakeController, make_link: MakeLink, eventually: Eventually) -> None:
    controller.welcome = controller.acks = False
    link = make_link()
    await controller.until("hello")
    await eventually(lambda: link.unheard_s() >= 0.5)
    controller.say("x", refused=pb.Refused(reason="not yet", retry=True))
    await controller.until("hello", 2)
    assert link.unheard_s() < 0.5 <= link.silence_s()


async def test_a_controller_that_has_nothing_to_say_is_not_unheard(
    listener: Listener, clock: VirtualClock, controller: FakeController
) -> None:
    link = Link(controller.channel, listener, Outbox(), clock, lambda: False, 2.0)
    link.welcomed = True  # and its heartbeat is far apart
    await clock.advance(60)
    assert link.unheard_s() == 0
    link.welcomed = False
    assert link.unheard_s() == 60


class Converting:
    """A channel whose stream answers a cancellation with a fault of its own, as grpc.aio's may."""

    def __init__(self) -> None:
        self.read = asyncio.Event()

    def stream_stream(self, *_: object, **__: object) -> Callable[..., "Converting"]:
        return lambda *_: self

    def __aiter__(self) -> "Converting":
        return self

    async def __anext__(self) -> pb.ControllerMessage:
        self.read.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Temporary("the call was cancelled") from None
        raise AssertionError("not reached")

    async def close(self) -> None:
        pass


async def test_a_cancellation_ends_it_whatever_the_stream_makes_of_it(listener: Listener) -> None:
    channel = Converting()
    task = asyncio.ensure_future(Link(lambda: channel, listener, Outbox(), SystemClock(), lambda: True, 0.3).run())
    await channel.read.wait()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done, "it goes on for ever"
    assert task.cancelled()
