"""Effects in Slurm behind their fences, on the Slurm in memory."""

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import Temporary
from holdfast_controller.commands import PowerDownNode, RedirectLaunch, RequeueJob
from holdfast_controller.events import CommandFinished
from holdfast_controller.slurm_effects import SlurmEffects
from holdfast_slurm.fake import FakeSlurm


async def test_a_node_on_which_a_job_has_begun_is_not_powered_down_for_being_empty() -> None:
    clock = VirtualClock(1000.0)
    async with FakeSlurm(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "i-1")
        slurm.submit()
        await clock.advance(3.0)
        slurm.node_booted("n1")
        await clock.advance(40.0)
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


async def test_a_job_that_ends_between_the_look_and_the_requeue_is_not_counted_as_requeued() -> None:
    """Slurm reports success for such a requeue, and does nothing."""

    class EndsFirst(FakeSlurm):
        async def requeue(self, key: str, *, ended: bool = False) -> None:
            self.finish(key)
            await super().requeue(key, ended=ended)

    clock = VirtualClock(1000.0)
    async with EndsFirst(clock, ["n1"]) as slurm:
        effects = SlurmEffects(slurm, clock, lambda name: "i-1")
        key = slurm.submit()
        await clock.advance(3.0)
        slurm.node_booted("n1")
        await clock.advance(40.0)
        (outcome,) = await effects.requeue(RequeueJob("k", "n1 goes away", key, int(key), 0), False)
        assert isinstance(outcome, CommandFinished)
        assert outcome.outcome == "moot"
        assert "COMPLETED" in outcome.detail
        assert slurm.fake_job(key).restarts == 0
        await clock.advance(0.1)
