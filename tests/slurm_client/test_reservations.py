"""Nodes that are kept for a job, over its requeue: the same tests over the fake and over a real slurmctld."""

from typing import Any

import pytest
from holdfast_common.errors import SlurmRefused

pytestmark = pytest.mark.timeout(60)


async def test_a_requeued_job_gets_its_reserved_node_and_not_the_next_in_line(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2", "spot-3")
    key = world.submit(2)
    await world.is_state(key, "RUNNING")
    other = world.submit()
    await world.is_state(other, "RUNNING")
    rivals = [world.submit(), world.submit()]
    job = await world.job(key)
    [stays, goes], name = job.nodes, f"holdfast-{job.job_id}"
    await world.slurm.reserve(name, job.nodes, job.user)
    await world.slurm.use_reservation(key, name)
    assert (await world.job(key)).reservation == name
    with pytest.raises(SlurmRefused, match="in use"):
        await world.slurm.unreserve(name)
    with pytest.raises(SlurmRefused, match="overlaps"):
        await world.slurm.reserve("holdfast-99", [stays], job.user)
    await world.slurm.drain([goes], "holdfast: it goes")
    await world.slurm.requeue(key)
    await world.is_state(key, "PENDING")
    assert (await world.job(key)).reservation == name, "it outlives the requeue"
    await world.slurm.start_after(key, 1)

    async def waits() -> bool:
        return (await world.job(key)).reason == "Resources" and "RESERVED" in (await world.node(stays)).flags

    await world.until(waits)
    assert [(await world.job(rival)).state for rival in rivals] == ["PENDING", "PENDING"]
    # A node outside the reservation is the job's as well, before those that wait longer.
    world.finish(other, 0)
    await world.is_state(key, "RUNNING")
    taken = (await world.job(key)).nodes
    assert stays in taken
    assert goes not in taken
    await world.slurm.use_reservation(key, "")
    await world.slurm.unreserve(name)
    await world.slurm.unreserve(name)  # again: there is none
    view = await world.job(key)
    assert (view.state, view.reservation, view.restarts) == ("RUNNING", "", 1)


async def test_a_job_that_waits_can_be_taken_out_of_it_and_an_ended_one_holds_nothing(world: Any) -> None:
    key = world.submit(4)
    job = await world.job(key)
    name = f"holdfast-{job.job_id}"
    with pytest.raises(SlurmRefused, match="invalid"):
        await world.slurm.use_reservation(key, name)
    await world.slurm.reserve(name, ["spot-1"], job.user)
    await world.slurm.reserve(name, ["spot-2", "spot-3"], job.user)  # one of that name gets these nodes instead
    assert [("RESERVED" in view.flags) for view in await world.slurm.nodes()] == [False, True, True]
    await world.slurm.use_reservation(key, name)
    with pytest.raises(SlurmRefused, match="in use"):
        await world.slurm.unreserve(name)
    await world.slurm.use_reservation(key, "")
    await world.slurm.unreserve(name)
    assert (await world.job(key)).reservation == ""
    assert not any("RESERVED" in view.flags for view in await world.slurm.nodes())
