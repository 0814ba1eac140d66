"""Effects in Slurm behind their fences, on the Slurm in memory."""

import asyncio

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import SlurmUnavailable, Temporary
from holdfast_controller.commands import PowerDownNode, RedirectLaunch, RequeueJob, SignalJob
from holdfast_controller.events import CommandFinished
from holdfast_controller.slurm_effects import SlurmEffects
from holdfast_slurm.fake import FakeSettings, FakeSlurm


async def running_job(slurm: FakeSlurm, clock: VirtualClock) -> str:
    """Submit a job, have n1 boot for it, and return its id when it runs."""
    key = slurm.submit()
    await clock.advance(3.0)
    slurm.node_booted("n1")
    await clock.advance(40.0)
    return key


async def test_a_node_on_which_a_job_has_begun_is_not_powered_down_for_being_empty() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "i-1")
        await running_job(slurm, clock)
        (view,) = await slurm.jobs()
        assert (view.state, view.nodes) == ("RUNNING", ("n1",))
        with pytest.raises(Temporary, match=f"job {view.key} is on it"):
            await effects.power_down(PowerDownNode("k", "the last job is out of n1", "n1", "i-1", if_empty=True), False)
        assert [method for _, method, _ in slurm.calls if method == "power_down"] == []
        assert await effects.power_down(PowerDownNode("k", "the deadline of n1 has passed", "n1", "i-1"), False) == ()
        assert [method for _, method, _ in slurm.calls if method == "power_down"] == ["power_down"]
        await clock.advance(0.1)


@pytest.mark.parametrize("taken", ["by nobody", "before the look", "before the drain"])
async def test_a_node_that_boots_for_nobody_is_let_go_and_one_that_a_job_came_to_is_not(taken: str) -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "")
        await slurm.power_up(["n1"])
        await clock.advance(3.0)
        if taken == "before the look":
            slurm.submit()
            await clock.advance(1.0)
        if taken == "before the drain":
            drain = slurm.drain

            async def late(names: list[str], reason: str) -> None:
                slurm.fake_node("n1").jobs[slurm.submit()] = False
                await drain(names, reason)

            slurm.drain = late  # type: ignore[assignment,method-assign]
        facts = await effects.let_go(RedirectLaunch("k", "Slurm chose n2", "n1", "hf-1", "n2", 7), False)
        done = {method for _, method, _ in slurm.calls}
        assert ("power_down" in done) == (taken == "by nobody") == (facts == ())
        assert not slurm.fake_node("n1").drain or taken == "by nobody"
        await clock.advance(0.1)


async def test_where_a_try_before_had_drained_the_node_that_a_job_came_to_it_is_undrained() -> None:
    class Interrupted(FakeSlurm):
        async def resume(self, names: list[str]) -> None:
            if self.mute:
                self.mute = False
                raise SlurmUnavailable("no answer")
            await super().resume(names)

        async def drain(self, names: list[str], reason: str) -> None:
            self.fake_node("n1").jobs[self.submit()] = False
            await super().drain(names, reason)

        mute = True

    clock = VirtualClock(1000.0)
    async with Interrupted(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "")
        await slurm.power_up(["n1"])
        await clock.advance(3.0)
        command = RedirectLaunch("k", "Slurm chose n2", "n1", "hf-1", "n2", 7)
        with pytest.raises(SlurmUnavailable):
            await effects.let_go(command, False)
        assert slurm.fake_node("n1").drain
        (outcome,) = await effects.let_go(command, False)
        assert isinstance(outcome, CommandFinished)
        assert (outcome.outcome, slurm.fake_node("n1").drain) == ("moot", False)
        await clock.advance(0.1)


async def test_a_job_that_ends_between_the_look_and_the_requeue_is_not_counted_as_requeued() -> None:
    """Slurm reports success for such a requeue, and does nothing."""

    class EndsFirst(FakeSlurm):
        async def requeue(self, key: str, *, ended: bool = False) -> None:
            self.finish(key)
            await super().requeue(key, ended=ended)

    clock = VirtualClock(1000.0)
    async with EndsFirst(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "i-1")
        key = await running_job(slurm, clock)
        (outcome,) = await effects.requeue(RequeueJob("k", "n1 goes away", key, int(key), 0), False)
        assert isinstance(outcome, CommandFinished)
        assert outcome.outcome == "moot"
        assert "COMPLETED" in outcome.detail
        assert slurm.fake_job(key).restarts == 0
        await clock.advance(0.1)


async def test_a_signal_that_may_have_been_sent_before_a_crash_counts_as_sent() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "i-1")
        key = await running_job(slurm, clock)
        command = SignalJob("k", "it declared USR1", key, int(key), 0, "USR1")
        (outcome,) = await effects.signal(command, True)
        assert isinstance(outcome, CommandFinished)
        assert outcome.outcome == "ok", "moot would be tried again a second later"
        assert [method for _, method, _ in slurm.calls if method == "signal"] == []
        assert await effects.signal(command, False) == ()
        assert [method for _, method, _ in slurm.calls if method == "signal"] == ["signal"]
        await clock.advance(0.1)


async def test_in_a_mass_reclaim_no_requeue_waits_behind_the_looks_of_others() -> None:
    clock, names = VirtualClock(1000.0), [f"n{number}" for number in range(100)]
    async with FakeSlurm(clock, names, FakeSettings(max_commands=16)) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "i-1")
        keys = [slurm.submit() for _ in names]
        await clock.advance(3.0)
        for name in names:
            slurm.node_booted(name)
        await clock.advance(40.0)
        slurm.slow_s = 0.2
        slurm.calls.clear()
        deeds = [asyncio.create_task(effects.requeue(RequeueJob(f"k{key}", "all go away", key, int(key), 0), False)) for key in keys]
        await clock.advance(30.0)
        assert all(deed.done() for deed in deeds)
        looked = {arguments[0]: at for at, method, arguments in reversed(slurm.calls) if method == "job"}
        gaps_s = [at - looked[arguments[0]] for at, method, arguments in slurm.calls if method == "requeue"]
        assert len(gaps_s) == len(keys)
        assert max(gaps_s) < 0.3, "each follows its look at once"
        assert [slurm.fake_job(key).restarts for key in keys] == [1] * len(keys)
