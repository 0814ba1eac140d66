"""The agent alone with Slurm: each case ends with the job requeued once, started soon, and the node given up."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock, settle
from holdfast_common.errors import SlurmRefused, SlurmUnavailable
from holdfast_common.evacuation import Limits
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView
from holdfast_nodeagent.claims import Report
from holdfast_nodeagent.fallback import Fallback, declared
from holdfast_nodeagent.jobdirs import JobKey
from holdfast_nodeagent.record import Record
from holdfast_slurm.fake import FakeSlurm


class Alone:
    """A node whose controller may be silent; stands for `node.Node` and `jobs.Jobs`."""

    def __init__(self, clock: VirtualClock, slurm: FakeSlurm, run_dir: Path) -> None:
        self.clock = clock
        self.slurm = slurm
        self.run_dir = run_dir
        self.name = "spot-1"
        self.notice: Notice | None = None
        self.silence = 0.0
        self.reports: dict[JobKey, Report] = {}
        self.inhabited = False
        self.said: list[str] = []
        self.task: asyncio.Task[None] | None = None
        self.restart()

    def doom(self) -> Notice | None:
        return self.notice

    def say_notice(self, notice: Notice) -> None:
        self.said.append(notice.id)

    def occupied(self) -> bool:
        return self.inhabited

    def silence_s(self) -> float:
        return self.silence

    def restart(self) -> None:
        self.stop()
        self.record = Record(self.run_dir / "agent.json", "boot")
        fallback = Fallback(self, self, self.slurm, self.record, self.clock, Limits(2.0, 5.0), self.silence_s, 2.0)
        self.task = asyncio.ensure_future(fallback.run())

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def doomed_in(self, seconds: float) -> None:
        now = self.clock.now()
        self.notice = Notice("n-1", NoticeKind.PREEMPT, now + seconds, now, "taken back")

    def parked(self, key: JobKey) -> None:
        self.reports[key] = Report(key, 1.0, "parked", "n-1", 7, 7, 0.0, all_ranks_parked=True, ranks=1)

    def running(self, key: JobKey) -> None:
        self.reports[key] = Report(key, 1.0, "running", "", 7, 3, 0.0, ranks=1)

    def calls(self, *methods: str) -> list[str]:
        return [method for _, method, _ in self.slurm.calls if method in methods]

    async def job(self) -> JobView:
        view = await self.slurm.job("1")
        assert view is not None
        return view


CHANGES = ("drain", "requeue", "start_after", "power_down", "down", "signal", "resume", "hold")
KEY = JobKey(1, 0)


@pytest.fixture
async def alone(run_dir: Path, clock: VirtualClock) -> AsyncIterator[Alone]:
    async with FakeSlurm(clock, ["spot-1", "spot-2", "spot-3"]) as slurm:
        here = Alone(clock, slurm, run_dir)
        yield here
        here.stop()
        await settle()


async def start_job(alone: Alone, nodes: int = 1, **about: object) -> None:
    """A job that runs on the first nodes."""
    alone.slurm.submit(nodes, **about)  # type: ignore[arg-type]
    await alone.clock.advance(3)
    for number in range(1, nodes + 1):
        alone.slurm.node_booted(f"spot-{number}")
    await alone.clock.advance(3)
    view = await alone.job()
    assert view.state == "RUNNING"
    assert "spot-1" in view.nodes
    alone.slurm.calls.clear()


async def test_while_the_controller_answers_nothing_is_done(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.parked(KEY)
    alone.silence = 2.0
    await alone.clock.advance(60)
    assert alone.calls(*CHANGES) == []
    assert alone.said == []


async def test_without_a_notice_nothing_is_done(alone: Alone) -> None:
    await start_job(alone)
    alone.silence = 1e6
    await alone.clock.advance(60)
    assert alone.slurm.calls == []


async def test_a_parked_job_is_requeued_once_started_soon_and_the_node_given_up(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.running(KEY)
    alone.silence = 5.0
    await alone.clock.advance(10)
    assert alone.calls(*CHANGES) == ["drain"]
    assert alone.said == ["n-1"]
    alone.parked(KEY)
    await alone.clock.advance(5)
    view = await alone.job()
    assert view.restarts == 1
    assert sorted(alone.calls(*CHANGES)) == ["drain", "power_down", "requeue", "start_after"]
    assert alone.calls(*CHANGES)[:2] == ["drain", "requeue"]
    await alone.clock.advance(5)
    alone.slurm.node_booted("spot-2")
    await alone.clock.advance(5)
    view = await alone.job()
    assert (view.state, view.nodes, view.restarts) == ("RUNNING", ("spot-2",), 1)
    assert alone.said == ["n-1"]


async def test_a_job_that_says_nothing_is_requeued_at_the_deadline_less_margin_and_kill_wait(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(60)
    alone.silence = 5.0
    await alone.clock.advance(52)
    assert "requeue" not in alone.calls(*CHANGES)
    await alone.clock.advance(2)
    assert alone.calls("requeue") == ["requeue"]


async def test_a_registered_job_has_until_the_margin(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(60)
    alone.running(KEY)
    alone.silence = 5.0
    await alone.clock.advance(57)
    assert "requeue" not in alone.calls(*CHANGES)
    await alone.clock.advance(1.5)
    assert alone.calls("requeue") == ["requeue"]


async def test_the_node_is_kept_while_its_processes_live(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.parked(KEY)
    alone.inhabited = True
    alone.silence = 5.0
    await alone.clock.advance(10)
    assert alone.calls("requeue", "power_down") == ["requeue"]
    alone.inhabited = False
    await alone.clock.advance(1)
    assert alone.calls("requeue", "power_down") == ["requeue", "power_down"]


async def test_a_slow_controller_that_was_quicker_after_all_is_not_repeated(alone: Alone) -> None:
    await start_job(alone, 2)
    alone.doomed_in(120)
    alone.running(KEY)
    alone.silence = 5.0
    await alone.clock.advance(1)
    await alone.slurm.requeue("1")
    alone.parked(KEY)
    await alone.clock.advance(5)
    assert alone.calls("requeue", "start_after") == ["requeue", "start_after"]
    assert (await alone.job()).restarts == 1


async def test_a_job_that_ended_well_meanwhile_is_done(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.running(KEY)
    alone.silence = 5.0
    await alone.clock.advance(1)
    alone.slurm.finish("1")
    await alone.clock.advance(5)
    assert alone.calls("requeue") == []
    assert (await alone.job()).state == "COMPLETED"
    assert alone.calls("power_down") == ["power_down"]


async def test_a_job_that_stopped_by_itself_on_the_notice_is_requeued_on_its_word(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.silence = 5.0
    await alone.clock.advance(1)
    alone.slurm.finish("1")
    alone.reports[KEY] = Report(KEY, 1.0, "done", "n-1", 7, 7, 0.0, ranks=1, stopped_on_notice=True)
    await alone.clock.advance(3)
    assert alone.calls("requeue") == ["requeue"]
    assert (await alone.job()).restarts == 1


@pytest.mark.parametrize(("about", "told"), [({"requeue": False}, []), ({"batch": False}, [])])
async def test_a_job_that_cannot_be_requeued_keeps_its_node_until_the_deadline(
    alone: Alone, about: dict[str, object], told: list[str]
) -> None:
    await start_job(alone, 1, **about)
    alone.doomed_in(30)
    alone.silence = 5.0
    await alone.clock.advance(29)
    assert alone.calls(*CHANGES) == ["drain", *told]
    await alone.clock.advance(2)
    assert alone.calls("requeue", "power_down") == ["power_down"]


async def test_a_declared_signal_is_sent_once(alone: Alone) -> None:
    await start_job(alone, comment="holdfast: signal=B:USR1")
    alone.doomed_in(60)
    alone.silence = 5.0
    await alone.clock.advance(20)
    assert [(signal, batch) for _, signal, batch in alone.slurm.fake_job("1").signals] == [("USR1", True)]


@pytest.mark.parametrize("moment", ["before the look", "after it"])
async def test_a_job_that_begins_to_end_as_it_is_requeued_is_judged_when_it_has_ended(
    alone: Alone, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`scontrol requeue incomplete` reports success, and does nothing, for such a job."""
    await start_job(alone, comment="holdfast: exit_code=85")
    alone.doomed_in(20)
    alone.silence = 5.0
    await alone.clock.advance(1)
    name = "job" if moment == "before the look" else "requeue"
    real = getattr(alone.slurm, name)

    async def ends_first(key: str, **options: bool) -> object:
        if alone.slurm.fake_job("1").state == "RUNNING" and alone.clock.now() > 1_700_000_000 + 12:
            alone.slurm.finish("1", 85)
        return await real(key, **options)

    monkeypatch.setattr(alone.slurm, name, ends_first)
    await alone.clock.advance(18)
    assert (await alone.job()).restarts == 1


async def test_what_slurm_refuses_for_one_job_holds_up_no_other(alone: Alone) -> None:
    await start_job(alone, shared=True)
    other = alone.slurm.submit(shared=True)
    await alone.clock.advance(3)
    alone.doomed_in(120)
    alone.parked(KEY)
    alone.parked(JobKey(int(other), 0))
    alone.silence = 5.0
    alone.slurm.fail_next("requeue", SlurmRefused("not this one"), times=1)
    await alone.clock.advance(0.5)
    assert sorted(job.restarts for job in alone.slurm.engine.queue.values()) == [0, 1]
    await alone.clock.advance(3)
    assert [job.restarts for job in alone.slurm.engine.queue.values()] == [1, 1]


async def test_slurm_away_for_a_while(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.parked(KEY)
    alone.silence = 5.0
    alone.slurm.unavailable = True
    await alone.clock.advance(10)
    alone.slurm.unavailable = False
    await alone.clock.advance(5)
    assert (await alone.job()).restarts == 1


@pytest.mark.parametrize("method", ["drain", "requeue", "start_after", "power_down", "jobs", "nodes", "job"])
async def test_a_call_that_fails_is_made_again(alone: Alone, method: str) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.parked(KEY)
    alone.silence = 5.0
    alone.slurm.fail_next(method, SlurmUnavailable("no answer"))
    await alone.clock.advance(10)
    view = await alone.job()
    assert view.restarts == 1
    assert view.eligible_time < alone.clock.now() + 2
    (node,) = await alone.slurm.nodes(["spot-1"])
    assert node.flags & {"POWERING_DOWN", "POWERED_DOWN"}


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0])
async def test_a_restart_at_any_moment_leads_to_the_same_end(alone: Alone, after_s: float) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.parked(KEY)
    alone.silence = 5.0
    await alone.clock.advance(after_s)
    alone.restart()
    await alone.clock.advance(8)
    view = await alone.job()
    assert view.restarts == 1
    assert view.eligible_time < alone.clock.now() + 2
    assert len(alone.calls("power_down")) == 1
    assert alone.said == ["n-1"]


async def test_the_controllers_return_hands_the_rest_back(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(120)
    alone.running(KEY)
    alone.silence = 5.0
    await alone.clock.advance(2)
    alone.silence = 0.0
    alone.parked(KEY)
    await alone.clock.advance(30)
    assert alone.calls(*CHANGES) == ["drain"]


async def test_a_controller_that_answers_but_does_not_act_is_helped_at_the_last_moment(alone: Alone) -> None:
    await start_job(alone)
    alone.doomed_in(60)
    alone.running(KEY)
    await alone.clock.advance(58.5)
    assert alone.calls(*CHANGES) == []
    await alone.clock.advance(1)
    assert alone.calls("requeue") == ["requeue"]


@pytest.mark.parametrize(
    ("signal", "comment", "expected"),
    [
        ("", "", ("", None)),
        ("B:10@60", "", ("B:10", None)),
        ("USR1@60", "", ("USR1", None)),
        ("", "holdfast: signal=SIGUSR2 exit_code=85", ("USR2", 85)),
        ("B:10@60", "holdfast: signal=USR2", ("USR2", None)),
        ("R:10@60", "holdfast: sgnal=USR2", ("10", None)),
        ("$(x)", "mine", ("", None)),
    ],
)
def test_what_a_job_declared(signal: str, comment: str, expected: tuple[str, int | None]) -> None:
    assert declared(JobView(1, "1", "RUNNING", signal=signal, comment=comment)) == expected
