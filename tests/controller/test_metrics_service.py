"""The controller's metrics as they are served, and the file of targets: with a real reactor, journal and hub."""

import asyncio
import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.errors import ConfigError
from holdfast_common.views import JobView
from holdfast_controller import events as e
from holdfast_controller.agents import AgentHub
from holdfast_controller.commands import Command
from holdfast_controller.journal import Journal
from holdfast_controller.metrics.service import ACCRUE_S, MetricsService
from holdfast_controller.plan import Plan, Plans
from holdfast_controller.providers.base import Instance, Market, Pool, Quote
from holdfast_controller.reactor import Reactor
from holdfast_protos.v1 import agent_pb2

POOL = Pool("aws/r/a/g/spot", "aws", "r", "a", "g", Market.SPOT)


class Stage:
    def __init__(self, reactor: Reactor, hub: AgentHub, clock: VirtualClock, plans: Plans) -> None:
        self.reactor, self.hub, self.clock = reactor, hub, clock
        self.metrics = MetricsService(reactor, hub, lambda: plans, clock, "lab")

    async def up(self) -> None:
        """One node, whose agent serves metrics."""
        now = self.clock.now()
        await self.reactor.record(e.InstanceChanged(now, Instance("i-1", "l-1", POOL.name, "running", "10.0.0.7")))
        await self.reactor.record(e.AgentArrived(now, "i-1", "b", "l-1", "10.0.0.7", "n1", 9465))
        self.reactor.fleet.instances["i-1"].node = "n1"
        self.reactor.fleet.nodes["n1"].instance_id = "i-1"


class NoEffects:
    async def run(self, command: Command, *, resumed: bool) -> tuple[e.Event, ...]:
        raise AssertionError("nothing is decided here")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    clock = VirtualClock()
    journal = Journal(tmp_path / "journal.sqlite")
    fleet = await journal.open(frozenset({"n1"}))
    plans = Plans({"n1": Plan("spot", "gpu", (POOL,))}, {POOL.name: Quote(2.0, 6.0)})
    fleet.manage(frozenset(plans.by_node))
    reactor = Reactor(journal, fleet, lambda: plans, NoEffects(), clock)
    hub = AgentHub(reactor, b"s" * 32, "lab", clock, lost_s=20.0, on_lost=lambda: None, on_left=lambda: None)
    task = asyncio.create_task(reactor.run())
    yield Stage(reactor, hub, clock, plans)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await journal.close()


async def fetched(port: int, path: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, f"{answer.headers['Content-Type']}\n{answer.read().decode()}"
        except urllib.error.HTTPError as error:
            return error.code, ""

    return await asyncio.to_thread(get)


async def test_metrics_and_targets_are_served(stage: Stage) -> None:
    await stage.up()
    stage.metrics.serve("127.0.0.1:0")
    with contextlib.closing(stage.metrics):
        status, told = await fetched(stage.metrics.port, "/metrics")
        assert status == 200
        assert told.startswith("text/plain; version=0.0.4")
        assert 'holdfast_node_agent_connected{node="n1"} 1.0' in told
        status, told = await fetched(stage.metrics.port, "/sd")
        kind, _, body = told.partition("\n")
        assert (status, kind) == (200, "application/json"), "Prometheus takes no other"
        labels = {"node": "n1", "cluster": "lab", "pool": POOL.name, "provider": "aws"}
        assert json.loads(body) == [{"targets": ["10.0.0.7:9465"], "labels": labels}]
        assert (await fetched(stage.metrics.port, "/-/healthy"))[0] == 200
        assert (await fetched(stage.metrics.port, "/"))[0] == 404


async def test_a_controller_that_hangs_is_not_healthy_and_lists_nobody(stage: Stage) -> None:
    stage.metrics.serve("127.0.0.1:0", 0.1)
    with contextlib.closing(stage.metrics):
        paths = ("/metrics", "/sd", "/-/healthy")
        asked = [asyncio.create_task(fetched(stage.metrics.port, path)) for path in paths]
        await asyncio.sleep(0)
        time.sleep(0.8)  # noqa: ASYNC251 - that is what hangs
        assert [status for status, _ in await asyncio.gather(*asked)] == [503] * 3, "Prometheus keeps the targets that it knows"


async def test_a_taken_port_ends_the_controllers_start(stage: Stage) -> None:
    stage.metrics.serve("127.0.0.1:0")
    with contextlib.closing(stage.metrics), pytest.raises(ConfigError, match="cannot listen"):
        MetricsService(stage.reactor, stage.hub, Plans, stage.clock, "lab").serve(f"127.0.0.1:{stage.metrics.port}")


async def test_the_file_follows_the_fleet_and_a_folder_that_is_not_there_ends_nothing(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "sd" / "agents.json"
    keeping = asyncio.create_task(stage.metrics.run(str(path)))
    await settle()
    assert not path.exists()
    path.parent.mkdir()
    await stage.up()
    await stage.clock.advance(ACCRUE_S + 0.1)
    assert [group["targets"] for group in json.loads(path.read_text())] == [["10.0.0.7:9465"]]
    await stage.reactor.record(e.InstanceChanged(stage.clock.now(), Instance("i-1", "l-1", POOL.name, "gone")))
    await stage.clock.advance(ACCRUE_S + 0.1)
    assert json.loads(path.read_text()) == []
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_time_that_the_clock_was_set_by_costs_nothing(stage: Stage) -> None:
    await stage.up()
    keeping = asyncio.create_task(stage.metrics.run(""))
    await settle()
    await stage.clock.advance(360.0)
    spent = stage.metrics.counts.value("cost_usd", "spot")
    assert spent == pytest.approx(2.0 * 360.0 / 3600.0, rel=0.03)
    stage.clock.step(300.0)
    await stage.clock.advance(ACCRUE_S)
    assert stage.metrics.counts.value("cost_usd", "spot") - spent < 2.0 * 15.0 / 3600.0
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_what_a_job_says_is_bounded_and_a_node_without_its_processes_hides_nothing(stage: Stage) -> None:
    await stage.reactor.record(e.JobChanged(stage.clock.now(), JobView(7, "7", "RUNNING", nodes=("n1",))))
    said = agent_pb2.JobStatus(job_id=7, attempt=1, ranks=8, step=40, saved_step=30, step_s=float("nan"))
    stage.hub._note(said)
    stage.hub._note(agent_pb2.JobStatus(job_id=7, attempt=1, ranks=0, saved_step=-1))
    progress = stage.metrics._progress(7)
    assert progress is not None
    assert (progress.step, progress.saved_step, progress.step_s) == (40, 30, 0.0)
    stage.hub._note(agent_pb2.JobStatus(job_id=7, attempt=2, ranks=0, saved_step=-1))
    progress = stage.metrics._progress(7)
    assert progress is not None
    assert progress.attempt == 2, "that is another one"
