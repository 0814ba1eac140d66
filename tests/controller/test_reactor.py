"""The loop: durable before done, done once, and taken up again after a crash at any point."""

import asyncio
import contextlib

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.views import JobView, NodeView
from holdfast_controller import events as e
from holdfast_controller.journal import Journal
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Market, Pool
from holdfast_controller.reactor import Reactor

POOL = Pool("aws/r/a/g/spot", "aws", "r", "a", "g", Market.SPOT)


class SlowEffects:
    """Records what it was asked for, and answers when the test says so."""

    def __init__(self, clock: VirtualClock) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.release = asyncio.Event()
        self.error: Exception | None = None
        self._clock = clock

    async def run(self, command, *, resumed):  # type: ignore[no-untyped-def]
        self.asked.append((type(command).__name__, resumed))
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return (e.CommandFinished(self._clock.now(), 0, command.key),)


@contextlib.asynccontextmanager
async def running(path):  # type: ignore[no-untyped-def]
    clock = VirtualClock()
    journal = Journal(path)
    fleet = await journal.open()
    plans = Plans({"n1": Plan("spot", "gpu", (POOL,))})
    fleet.manage(frozenset(plans.by_node))
    fleet.cloud_listed = True
    effects = SlowEffects(clock)
    reactor = Reactor(journal, fleet, lambda: plans, effects, clock)
    reactor.deciding = True
    task = asyncio.create_task(reactor.run())
    await settle()
    try:
        yield reactor, effects, clock
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await journal.close()


async def want(reactor, clock) -> None:
    await reactor.record(e.NodesRequested(clock.now(), ("n1",), 7))
    await reactor.record(e.NodeChanged(clock.now(), NodeView("n1", "ALLOCATED", frozenset({"CLOUD", "POWERING_UP"}))))
    await reactor.record(e.JobChanged(clock.now(), JobView(7, "7", "CONFIGURING", nodes=("n1",))))
    await settle()


async def test_a_command_is_durable_before_it_runs_and_runs_once(tmp_path) -> None:
    async with running(tmp_path / "j") as (reactor, effects, clock):
        await want(reactor, clock)
        assert effects.asked == [("Launch", False)]
        kinds = [entry.kind for entry in await reactor.journal.read()]
        assert "Launch" in kinds
        assert "CommandFinished" not in kinds


async def test_after_a_crash_the_open_command_is_taken_up_as_resumed(tmp_path) -> None:
    async with running(tmp_path / "j") as (reactor, effects, clock):
        await want(reactor, clock)
        issued = reactor.fleet.open_issued()[0].command
    async with running(tmp_path / "j") as (reactor, effects, clock):
        assert effects.asked == [("Launch", True)]
        assert reactor.fleet.open_issued()[0].command == issued, "the same launch id, so the same instances"
        effects.release.set()
        await settle(200)
        await asyncio.sleep(0.05)
        assert reactor.fleet.open_issued() == []


async def test_an_effect_that_breaks_is_tried_again_and_breaks_nothing_else(tmp_path) -> None:
    async with running(tmp_path / "j") as (reactor, effects, clock):
        effects.error = RuntimeError("bug")
        effects.release.set()
        await want(reactor, clock)
        await asyncio.sleep(0.05)
        entries = [entry for entry in await reactor.journal.read() if entry.kind == "CommandFinished"]
        assert "RuntimeError: bug" in entries[0].text
        await reactor.record(e.Ticked(clock.now()))


async def test_nothing_is_decided_before_slurm_was_looked_at(tmp_path) -> None:
    async with running(tmp_path / "j") as (reactor, effects, clock):
        reactor.deciding = False
        await want(reactor, clock)
        assert effects.asked == []


async def test_an_event_is_recorded_when_record_returns(tmp_path) -> None:
    async with running(tmp_path / "j") as (reactor, _, clock):
        await reactor.record(e.NodesReleased(clock.now(), ("n1",)))
        assert [entry.kind for entry in await reactor.journal.read()] == ["NodesReleased"]


@pytest.mark.parametrize("state", ["failed", "ok"])
async def test_what_came_of_a_command_is_known_after_a_restart(tmp_path, state) -> None:
    async with running(tmp_path / "j") as (reactor, effects, clock):
        await want(reactor, clock)
        record = reactor.fleet.open_issued()[0]
        await reactor.record(e.CommandFinished(clock.now(), record.command_id, record.command.key, state))
    async with running(tmp_path / "j") as (reactor, effects, clock):
        assert [deed.state for deed in reactor.fleet.commands.values()] == [state]
        assert effects.asked == []


async def test_in_a_large_fleet_what_comes_soon_after_shares_a_round_of_decisions_and_what_comes_alone_waits_for_nothing(
    tmp_path, monkeypatch
) -> None:
    rounds: list[float] = []
    async with running(tmp_path / "j") as (reactor, _, clock):
        monkeypatch.setattr("holdfast_controller.reactor.LARGE", 0)
        monkeypatch.setattr("holdfast_controller.reactor.PAUSE_S", 0.5)
        monkeypatch.setattr("holdfast_controller.reactor.decide", lambda fleet, plans, now: rounds.append(now) or ())
        began = clock.now()
        await reactor.record(e.JobForgotten(clock.now(), 1))
        assert rounds == [began]
        later = [asyncio.create_task(reactor.record(e.JobForgotten(clock.now(), job_id))) for job_id in (2, 3)]
        await clock.advance(0.25)
        later.append(asyncio.create_task(reactor.record(e.JobForgotten(clock.now(), 4))))
        await clock.advance(0.2)
        assert not any(task.done() for task in later)
        await clock.advance(0.1)
        await asyncio.gather(*later)
        assert len(rounds) == 2
        assert rounds[1] == pytest.approx(began + 0.5, abs=0.06)
        await clock.advance(5.0)
        await reactor.record(e.JobForgotten(clock.now(), 5))
        assert rounds[2:] == [clock.now()]


async def test_listeners_are_shown_each_event_and_command_once_and_one_that_breaks_stops_nothing(tmp_path) -> None:
    async with running(tmp_path / "journal.sqlite") as (reactor, effects, clock):
        shown: list[tuple[str, bool]] = []

        def listener(event: e.Event) -> None:
            shown.append((type(event).__name__, "n1" in reactor.fleet.nodes and reactor.fleet.nodes["n1"].wanted_since is not None))

        def broken(event: e.Event) -> None:
            raise RuntimeError("counting is hard")

        reactor.listeners += [broken, listener]
        await reactor.record(e.NodesRequested(clock.now(), ("n1",), 7))
        reactor.post(e.Ticked(clock.now()))
        await want(reactor, clock)
        effects.release.set()
        await settle()
        names = [name for name, _ in shown]
        assert shown[0] == ("NodesRequested", True), "the fleet has taken it in"
        assert names.count("CommandIssued") == 1
        assert names.count("CommandFinished") == 1
        assert "Ticked" not in names


async def test_listeners_are_shown_that_the_clock_was_set(tmp_path) -> None:
    async with running(tmp_path / "journal.sqlite") as (reactor, _, clock):
        shown: list[e.Event] = []
        reactor.listeners.append(shown.append)
        reactor._resync = lambda: 7.0
        await reactor.record(e.CloudListed(clock.now()))
        assert [event.by_s for event in shown if isinstance(event, e.ClockStepped)] == [7.0]
