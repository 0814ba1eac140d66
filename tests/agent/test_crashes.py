"""Death at each fault point, then a new start: the end is the one that would have been reached.

In this process `os._exit` becomes an exception that nothing catches, and everything in memory is thrown away; the first test shows that
the real one ends a real process at the pass that was asked for.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from holdfast_common import faults
from holdfast_common.clock import SystemClock, VirtualClock, settle
from holdfast_common.evacuation import Limits
from holdfast_common.notice import Notice, NoticeKind
from holdfast_nodeagent.app import Agent
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.config import AgentConfig
from holdfast_nodeagent.fakes import FakeController, FakeJob, FakeMetadata, http_answer
from holdfast_nodeagent.fallback import Fallback
from holdfast_nodeagent.jobdirs import JobKey
from holdfast_nodeagent.notices.aws import AwsMetadata
from holdfast_nodeagent.notices.http import MetadataHttp
from holdfast_nodeagent.processes import Processes
from holdfast_nodeagent.record import Record
from holdfast_slurm.fake import FakeSlurm


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def die(_: int) -> None:
        raise Died

    def arm(point: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, point)
        faults._passes.clear()

    monkeypatch.setattr("holdfast_common.faults.os._exit", die)
    yield arm
    faults._passes.clear()


@pytest.mark.parametrize(("said", "passes"), [("a.point", 1), ("a.point:1", 1), ("a.point:3", 3), ("a.point:x", 1)])
def test_a_process_ends_at_the_pass_that_was_asked_for(said: str, passes: int) -> None:
    code = "from holdfast_common.faults import fault_point as f\nf('other')\nwhile True:\n print('pass', flush=True)\n f('a.point')"
    done = subprocess.run([sys.executable, "-c", code], env={faults.VARIABLE: said}, capture_output=True, text=True, check=False)
    assert done.returncode == 86
    assert done.stdout.count("pass") == passes


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults.fault_point("a.point")


@pytest.fixture
def start(
    run_dir: Path, metadata: FakeMetadata, controller: FakeController, processes: Processes, clock: VirtualClock
) -> Iterator[Callable[[], asyncio.Task[None]]]:
    """Start an agent, over what the one before it has left on disk."""
    (run_dir / "boot").write_text("b")
    config = AgentConfig(
        controller="127.0.0.1:1", cluster="lab", run_dir=run_dir, boot_id_path=run_dir / "boot", metadata_url=metadata.url, poll_s=0.05
    )
    http = MetadataHttp(metadata.url)

    def begin() -> asyncio.Task[None]:
        source = AwsMetadata(http, SystemClock())
        slurm = FakeSlurm(clock, ["spot-1"])
        return asyncio.ensure_future(Agent(config, SystemClock(), controller.channel, slurm, source, processes).run())

    yield begin
    http.close()


Start = Callable[[], "asyncio.Task[None]"]


def in_two_minutes() -> str:
    return datetime.fromtimestamp(time.time() + 120, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("point", ["agent.node_file", "agent.notice_told", "agent.record:2", "agent.notice_kept"])
async def test_a_notice_is_told_and_sent_whatever_happens_meanwhile(
    point: str,
    die_at: Callable[[str], None],
    start: Start,
    metadata: FakeMetadata,
    controller: FakeController,
    make_job: Callable[..., FakeJob],
) -> None:
    metadata.notice(in_two_minutes())
    job = make_job()
    die_at(point)
    with pytest.raises((Died, BaseExceptionGroup)):
        await start()
    die_at("nowhere")
    agent = start()
    notice = (await controller.until("notice")).notice
    assert (job.node("notice.json") or {})["id"] == notice.id
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)


async def test_a_notice_that_was_told_but_not_remembered_is_taken_back_once_the_cloud_has_none(
    die_at: Callable[[str], None],
    start: Start,
    metadata: FakeMetadata,
    make_job: Callable[..., FakeJob],
    eventually: Callable[[Callable[[], object]], Awaitable[None]],
) -> None:
    metadata.notice(in_two_minutes())
    job = make_job()
    die_at("agent.notice_told")
    with pytest.raises((Died, BaseExceptionGroup)):
        await start()
    assert job.node("notice.json") is not None
    die_at("nowhere")
    metadata.notice(None)
    path = "/latest/meta-data/spot/instance-action"
    metadata.raw[path] = http_answer(500)  # no answer is not the word that there is nothing
    asked = len(metadata.requests)
    agent = start()
    await eventually(lambda: metadata.requests[asked:].count(f"GET {path}") >= 3)
    assert job.node("notice.json") is not None
    del metadata.raw[path]
    await eventually(lambda: job.node("notice.json") is None)
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)


class Here:
    """A doomed node with one parked job, and no controller."""

    name = "spot-1"

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        key = JobKey(1, 0)
        self.reports = {key: Report(key, 1.0, "parked", notice.id, 7, 7, 0.0, all_ranks_parked=True, ranks=1)}

    def doom(self) -> Notice:
        return self.notice

    def say_notice(self, notice: Notice) -> None:
        assert notice is self.notice

    def occupied(self) -> bool:
        return False


POINTS = ["declared", "listed", "drain", "requeue", "startafter", "powerdown"]


@pytest.mark.parametrize("point", [f"agent.fallback.{name}" for name in POINTS] + ["agent.record:1", "agent.record:2", "agent.record:3"])
async def test_an_evacuation_without_a_controller_ends_the_same(
    point: str, die_at: Callable[[str], None], run_dir: Path, clock: VirtualClock
) -> None:
    async with FakeSlurm(clock, ["spot-1", "spot-2"]) as slurm:
        slurm.submit()
        await clock.advance(3)
        slurm.node_booted("spot-1")
        await clock.advance(3)
        here = Here(Notice("n", NoticeKind.PREEMPT, clock.now() + 120, clock.now(), "taken back"))

        def start() -> asyncio.Task[None]:
            record = Record(run_dir / "agent.json", "boot")
            return asyncio.ensure_future(Fallback(here, here, slurm, record, clock, Limits(), lambda: 9.0, 2.0).run())

        die_at(point)
        first = start()
        await clock.advance(10)
        assert first.done(), f"{point} was never passed"
        with pytest.raises(Died):
            await first
        die_at("nowhere")
        second = start()
        await clock.advance(10)
        second.cancel()
        await settle()
        job = await slurm.job("1")
        (node,) = await slurm.nodes(["spot-1"])
        assert job is not None
        assert job.restarts == 1
        assert job.eligible_time < clock.now() + 2
        assert node.flags & {"POWERING_DOWN", "POWERED_DOWN"}
        assert [method for _, method, _ in slurm.calls].count("power_down") == 1
