"""Effects in Slurm behind their fences, on the Slurm in memory."""

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import Temporary
from holdfast_controller.commands import PowerDownNode
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
