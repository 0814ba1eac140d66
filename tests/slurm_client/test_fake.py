"""The fake's own behaviour: what the contract suite cannot ask of a real slurmctld in seconds."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import SlurmRefused, SlurmUnavailable
from holdfast_slurm.client import Slurm
from holdfast_slurm.fake import FakeJob, FakeSettings, FakeSlurm


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_800_000_000.0)


@pytest.fixture
async def make(clock: VirtualClock) -> AsyncIterator[Callable[..., FakeSlurm]]:
    made: list[FakeSlurm] = []

    def build(nodes: int = 3, settings: FakeSettings | None = None, **hooks: Any) -> FakeSlurm:
        made.append(FakeSlurm(clock, [f"spot-{number}" for number in range(1, nodes + 1)], settings, **hooks))
        return made[-1]

    yield build
    for slurm in made:
        await slurm.close()


async def start(slurm: FakeSlurm, clock: VirtualClock, **job: Any) -> str:
    key = slurm.submit(**job)
    await clock.advance(1.5)
    for name in slurm.fake_job(key).nodes:
        slurm.node_booted(name)
    await clock.advance(0.5)
    assert slurm.fake_job(key).state == "RUNNING"
    return key


def test_it_is_a_slurm(clock: VirtualClock) -> None:
    slurm: Slurm = FakeSlurm(clock, [])
    assert slurm is not None


async def test_a_restart_within_the_second_on_the_same_node_fails(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key = await start(slurm, clock)
    await clock.advance(0.1)
    await slurm.requeue(key)
    await clock.advance(0.11)
    assert (await slurm.job(key)).pending
    await slurm.start_after(key, 0)
    await clock.advance(0.2)
    view = await slurm.job(key)
    assert (view.state, view.reason, view.exit_code) == ("FAILED", "NonZeroExitCode", 1)
    assert ("Job credential revoked", key) in [(event, subject) for _, event, subject in slurm.engine.log]


async def test_now_plus_one_avoids_that(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key = await start(slurm, clock)
    await slurm.requeue(key)
    await clock.advance(0.11)
    await slurm.start_after(key, 1)
    await clock.advance(1.2)
    assert ((await slurm.job(key)).state, slurm.fake_job(key).attempts) == ("RUNNING", 2)


async def test_the_delay_ends_by_itself(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key = await start(slurm, clock)
    await slurm.requeue(key)
    await clock.advance(121.0)
    assert (await slurm.job(key)).state == "PENDING"
    await clock.advance(0.3)
    assert (await slurm.job(key)).state == "RUNNING"


@pytest.mark.parametrize(("gate", "least", "most"), [(True, 0.1, 0.5), (False, 0.5, 30.0)])
async def test_with_the_gate_a_job_starts_at_once_and_without_on_the_tick(
    make: Any, clock: VirtualClock, gate: bool, least: float, most: float
) -> None:
    slurm = make(2, FakeSettings(gate=gate))
    key = slurm.submit(2)
    await clock.advance(7)
    slurm.node_booted("spot-1")
    await clock.advance(1)
    slurm.node_booted("spot-2")
    booted = clock.now()
    await clock.advance(31)
    started = slurm.fake_job(key).start_time
    assert slurm.fake_job(key).state == "RUNNING"
    assert least <= started - booted <= most
    assert gate or started % 30 == 0


async def test_a_gate_of_the_tests_own(make: Any, clock: VirtualClock) -> None:
    async def gate(job: FakeJob) -> None:
        await clock.sleep(5)

    slurm = make(1, on_gate=gate)
    key = slurm.submit()
    await clock.advance(2)
    slurm.node_booted("spot-1")
    await clock.advance(2)
    assert slurm.fake_job(key).state == "CONFIGURING"
    await clock.advance(1.2)
    assert slurm.fake_job(key).state == "RUNNING"


async def test_a_gang_is_asked_for_in_one_call_and_prefers_nodes_that_are_up(make: Any, clock: VirtualClock) -> None:
    calls: list[tuple[str, ...]] = []

    async def on_resume(names: tuple[str, ...]) -> None:
        calls.append(names)

    slurm = make(4, on_resume=on_resume)
    first = slurm.submit(2)
    await clock.advance(1.5)
    assert calls == [("spot-1", "spot-2")]
    for name in calls[0]:
        slurm.node_booted(name)
    await clock.advance(1)
    slurm.finish(first)
    await clock.advance(1)
    second = slurm.submit(3)
    await clock.advance(1.5)
    assert slurm.fake_job(second).nodes == ("spot-1", "spot-2", "spot-3")
    assert calls[1:] == [("spot-3",)]


async def test_nobody_overtakes_the_job_that_waits_for_nodes(make: Any, clock: VirtualClock) -> None:
    slurm = make(3)
    await start(slurm, clock)
    big, small = slurm.submit(3), slurm.submit(1)
    await clock.advance(1)
    assert [(slurm.fake_job(key).state, slurm.fake_job(key).reason) for key in (big, small)] == [
        ("PENDING", "Resources"),
        ("PENDING", "Priority"),
    ]
    await slurm.update_job(small, priority=4_294_967_000)
    await clock.advance(1)
    assert slurm.fake_job(small).state == "CONFIGURING"


async def test_the_backfill_scheduler_lets_those_pass_who_put_nobody_off(make: Any, clock: VirtualClock) -> None:
    slurm = make(3)
    await start(slurm, clock, time_limit_s=600.0)
    big = slurm.submit(3)
    long, short = slurm.submit(1), slurm.submit(1, time_limit_s=60.0)
    await clock.advance(3)
    assert [slurm.fake_job(key).state for key in (big, long, short)] == ["PENDING", "PENDING", "CONFIGURING"]
    await slurm.drain(["spot-2"], "holdfast: x")  # now nobody can say when the big one will start
    slurm.engine.look()
    await clock.advance(3)
    assert [slurm.fake_job(key).state for key in (big, long)] == ["PENDING", "CONFIGURING"]


@pytest.mark.parametrize("age", [False, True])
async def test_with_age_a_requeued_job_goes_to_the_end_of_the_line(make: Any, clock: VirtualClock, age: bool) -> None:
    slurm = make(1, FakeSettings(age=age))
    first = await start(slurm, clock)
    await clock.advance(5)
    second = slurm.submit()
    await slurm.requeue(first)
    await clock.advance(0.15)
    assert [slurm.fake_job(key).state for key in (first, second)] == ["PENDING", "PENDING"]
    ahead = slurm.fake_job(first).current_priority() > slurm.fake_job(second).current_priority()
    assert ahead == (not age)
    await clock.advance(0.5)
    assert slurm.fake_job(second).state == "RUNNING", "the first is not eligible yet, and holds nothing against the next in line"


async def test_a_job_that_cannot_start_in_the_moment_of_a_resume_is_passed(make: Any, clock: VirtualClock) -> None:
    """Measured: a survivor that was held by DRAIN goes to the next in line when it is resumed."""
    slurm = make(2, FakeSettings(suspend_timeout_s=100))
    first = await start(slurm, clock, num_nodes=2)
    second = slurm.submit()
    await slurm.drain(["spot-1", "spot-2"], "holdfast: x")
    await slurm.requeue(first)
    await slurm.power_down(["spot-2"], "holdfast: x")
    await clock.advance(0.2)
    await slurm.start_after(first, 1)
    await clock.advance(1.2)
    await slurm.resume(["spot-1"])
    assert "NOT_RESPONDING" in (await slurm.nodes())[0].flags
    await clock.advance(1.4)
    assert slurm.fake_job(second).state == "PENDING"
    await clock.advance(2)
    assert [slurm.fake_job(key).state for key in (first, second)] == ["PENDING", "RUNNING"]


async def test_resume_timeout(make: Any, clock: VirtualClock) -> None:
    failed: list[tuple[str, ...]] = []

    async def on_fail(names: tuple[str, ...]) -> None:
        failed.append(names)

    slurm = make(1, FakeSettings(resume_timeout_s=60), on_resume_fail=on_fail)
    key = slurm.submit()
    await clock.advance(63)
    (node,) = await slurm.nodes()
    assert (node.state, failed) == ("DOWN", [("spot-1",)])
    assert "POWERED_DOWN" in node.flags
    assert ((await slurm.job(key)).state, (await slurm.job(key)).restarts) == ("PENDING", 1)
    await slurm.resume(["spot-1"])
    assert (await slurm.nodes())[0].powered_down


async def test_powering_down_takes_its_time_clears_our_drain_and_ignores_a_second_order(make: Any, clock: VirtualClock) -> None:
    slurm = make(1, FakeSettings(suspend_timeout_s=20))
    key = await start(slurm, clock)
    await slurm.drain(["spot-1"], "holdfast: notice")
    await slurm.power_down(["spot-1"], "holdfast: gone")
    await clock.advance(1.1)
    (node,) = await slurm.nodes()
    assert "POWERING_DOWN" in node.flags
    assert "DRAIN" not in node.flags
    await clock.advance(10)
    await slurm.power_down(["spot-1"], "holdfast: gone")
    slurm.node_booted("spot-1")  # too early: taken for the old machine
    await clock.advance(10.1)
    assert (await slurm.nodes())[0].powered_down
    assert [event for _, event, _ in slurm.engine.log].count("SuspendProgram") == 1
    assert (await slurm.job(key)).restarts == 1


async def test_resume_ends_powering_down_at_once(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    await start(slurm, clock)
    await slurm.power_down(["spot-1"], "holdfast: gone")
    await clock.advance(1.1)
    await slurm.resume(["spot-1"])
    assert (await slurm.nodes())[0].powered_down


async def test_slurm_notices_a_dead_node_after_its_timeout(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key = await start(slurm, clock)
    slurm.node_dies("spot-1")
    await clock.advance(299)
    assert (await slurm.job(key)).state == "RUNNING"
    await clock.advance(2)
    (node,) = await slurm.nodes()
    assert (node.state, (await slurm.job(key)).state) == ("DOWN", "PENDING")
    assert "NOT_RESPONDING" in node.flags
    await slurm.resume(["spot-1"])
    assert not (await slurm.nodes())[0].up


async def test_a_dead_node_delays_the_survivors(make: Any, clock: VirtualClock) -> None:
    slurm = make(2)
    key = await start(slurm, clock, num_nodes=2)
    slurm.node_dies("spot-2")
    await slurm.requeue(key)
    await clock.advance(9)
    assert (await slurm.job(key)).nodes == ("spot-1", "spot-2")
    await clock.advance(1.1)
    assert (await slurm.job(key)).nodes == ("spot-2",)


async def test_jobs_that_cannot_be_requeued_are_lost_with_their_node(make: Any, clock: VirtualClock) -> None:
    slurm = make(2)
    key, interactive = await start(slurm, clock, requeue=False), await start(slurm, clock, batch=False)
    await slurm.down(["spot-1", "spot-2"], "holdfast: x")
    assert [(await slurm.job(job)).state for job in (key, interactive)] == ["NODE_FAIL", "NODE_FAIL"]
    with pytest.raises(SlurmRefused, match="Only batch"):
        await slurm.requeue(interactive)


async def test_runs_end_by_themselves_and_ended_jobs_are_forgotten(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key = await start(slurm, clock, duration_s=100.0)
    await clock.advance(101)
    assert (await slurm.job(key)).state == "COMPLETED"
    await clock.advance(300)
    assert await slurm.job(key) is None


async def test_a_job_may_act_on_a_signal(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key = await start(slurm, clock, on_signal=lambda job, name: slurm.finish(job.key, 85))
    await slurm.signal(key, "USR1")
    view = await slurm.job(key)
    assert (view.state, view.exit_code, view.completing) == ("FAILED", 85, True)
    await clock.advance(0.2)
    await slurm.requeue(key)
    assert (await slurm.job(key)).pending


async def test_a_user_cancels(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    key, waiting = await start(slurm, clock), slurm.submit()
    slurm.cancel(key)
    slurm.cancel(waiting)
    await clock.advance(1)
    assert [(await slurm.job(job)).state for job in (key, waiting)] == ["CANCELLED", "CANCELLED"]


async def test_faults_on_order(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    slurm.fail_next("drain", SlurmRefused("Access/permission denied"), times=2)
    for _ in range(2):
        with pytest.raises(SlurmRefused, match="denied"):
            await slurm.drain(["spot-1"], "holdfast: x")
    await slurm.drain(["spot-1"], "holdfast: x")
    slurm.unavailable = True
    assert not await slurm.ping()
    with pytest.raises(SlurmUnavailable):
        await slurm.jobs()
    assert [method for _, method, _ in slurm.calls] == ["drain", "drain", "drain", "jobs"]


async def test_slowness_is_in_virtual_time(make: Any, clock: VirtualClock) -> None:
    slurm = make(1)
    slurm.slow_s = 7.0
    done: list[float] = []

    async def look() -> None:
        await slurm.nodes()
        done.append(clock.now())

    slurm.engine.start(look())
    began = clock.now()
    await clock.advance(6.9)
    assert not done
    await clock.advance(0.2)
    assert done == [began + 7.0]


async def test_it_is_deterministic(clock: VirtualClock) -> None:
    async def story() -> list[tuple[float, str, str]]:
        own = VirtualClock(1_800_000_000.0)
        async with FakeSlurm(own, ["spot-1", "spot-2", "spot-3"]) as slurm:
            keys = [slurm.submit(count, duration_s=50.0) for count in (2, 1, 3)]
            for _ in range(40):
                await own.advance(5)
                for view in await slurm.nodes():
                    if "POWERING_UP" in view.flags:
                        slurm.node_booted(view.name)
            await slurm.requeue(keys[2])
            await own.advance(200)
            return slurm.engine.log

    first, second = await story(), await story()
    assert first == second
    assert len(first) > 10
