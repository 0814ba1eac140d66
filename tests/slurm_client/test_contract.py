"""What every implementation of the Slurm protocol must do: the same tests over the fake and over a real slurmctld."""

import asyncio
from typing import Any

import pytest
from holdfast_common.errors import InputError, SlurmRefused
from holdfast_common.views import NodeView


async def test_it_answers_and_tells_its_release(world: Any) -> None:
    assert await world.slurm.ping()
    assert await world.slurm.version() >= (22, 5)
    await world.slurm.reconfigure()
    assert await world.slurm.ping()


async def test_nodes_are_listed_and_a_missing_one_is_simply_not_there(world: Any) -> None:
    views = await world.slurm.nodes()
    assert [view.name for view in views] == ["spot-1", "spot-2", "spot-3"]
    assert all(view.powered_down and not view.up and view.partitions == ("spot",) and view.boot_time is None for view in views)
    assert [view.name for view in await world.slurm.nodes(["spot-3", "ghost-1"])] == ["spot-3"]
    assert await world.slurm.nodes(["ghost-1"]) == ()
    assert await world.slurm.nodes([]) == ()


async def test_power_up_and_down(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2")
    view = await world.node("spot-1")
    assert (view.state, view.up, view.powered_down) == ("IDLE", True, False)
    assert view.boot_time is not None
    assert world.hooks() == ["resume spot-[1-2]"] or world.hooks() == ["resume spot-1,spot-2"]

    await world.slurm.power_down(["spot-1"], "holdfast: gone State=IDLE [x@y]")
    assert not (await world.node("spot-1")).up

    async def off() -> bool:
        return bool((await world.node("spot-1")).powered_down)

    await world.until(off)
    assert world.hooks()[-1] == "suspend spot-1"
    assert (await world.node("spot-2")).up


async def test_what_is_done_together_waits_in_line_once_however_many_look_meanwhile(world: Any) -> None:
    world.slow()
    crowd = [asyncio.create_task(world.slurm.nodes()) for _ in range(40)]

    async def fenced() -> int:
        async with world.slurm.together():
            (view,) = await world.slurm.nodes(["spot-1"])
            assert "DRAIN" not in view.flags
            late = [asyncio.create_task(world.slurm.nodes()) for _ in range(100)]
            crowd.extend(late)
            await asyncio.sleep(0)  # all of them are in line now
            await world.slurm.drain(["spot-1"], "holdfast: x")
            return sum(task.done() for task in late)

    deed = asyncio.create_task(fenced())

    async def done() -> bool:
        return deed.done() and all(task.done() for task in crowd)

    await world.until(done)
    assert await deed < 50, "the deed did not wait behind looks that began after its own"


async def test_the_jobs_of_a_node(world: Any) -> None:
    first, other = world.submit(2), world.submit()

    async def placed() -> bool:
        return all(view.nodes for view in await world.slurm.jobs())

    await world.until(placed)
    waiting = world.submit()
    jobs = await world.slurm.jobs()
    for name in ("spot-1", "spot-2", "spot-3"):
        assert {view.key for view in await world.slurm.jobs(name)} == {view.key for view in jobs if name in view.nodes} != set()
    keys = [view.key for name in ("spot-1", "spot-2", "spot-3") for view in await world.slurm.jobs(name)]
    assert sorted(keys) == sorted([first, first, other])
    assert waiting in {view.key for view in jobs}


async def test_drain_and_resume(world: Any) -> None:
    await world.bring_up("spot-1")
    with pytest.raises(SlurmRefused, match="Invalid node state"):
        await world.slurm.resume(["spot-1"])
    await world.slurm.drain(["spot-1", "spot-2"], "holdfast: notice until 18:00")
    for view in await world.slurm.nodes(["spot-1", "spot-2"]):
        assert "DRAIN" in view.flags
        assert view.reason == "holdfast: notice until 18:00"
    await world.slurm.resume(["spot-1", "spot-2"])
    assert not any("DRAIN" in view.flags or view.reason for view in await world.slurm.nodes())
    assert "NOT_RESPONDING" in (await world.node("spot-1")).flags, "until it has answered a ping"

    async def up() -> bool:
        view: NodeView = await world.node("spot-1")
        return view.up

    await world.until(up, 5)


async def test_a_requeued_job_is_passed_while_it_is_not_eligible_and_then_waits_at_its_old_place(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2", "spot-3")
    first, other = world.submit(2), world.submit()
    await world.is_state(first, "RUNNING")
    await world.is_state(other, "RUNNING")
    second = world.submit()
    await world.slurm.requeue(first)
    await world.is_state(second, "RUNNING")
    third = world.submit()  # fits beside the second
    await world.is_state(third, "RUNNING")
    fourth = world.submit()
    await world.slurm.start_after(first, 1)
    await world.pause(2.0)
    world.finish(second, 0)
    world.finish(third, 0)
    await world.is_state(first, "RUNNING")
    assert ((await world.job(fourth)).state, (await world.job(first)).restarts) == ("PENDING", 1)


async def test_an_unknown_node_refuses_the_whole_update(world: Any) -> None:
    with pytest.raises(SlurmRefused, match="Invalid node name"):
        await world.slurm.drain(["spot-1", "ghost-1"], "holdfast: x")
    assert "DRAIN" not in (await world.node("spot-1")).flags


async def test_addresses(world: Any) -> None:
    await world.slurm.set_addresses({"spot-3": "127.0.0.3", "spot-1": "127.0.0.9"})
    assert {view.name: view.address for view in await world.slurm.nodes(["spot-1", "spot-3"])} == {
        "spot-1": "127.0.0.9",
        "spot-3": "127.0.0.3",
    }


async def test_a_job_runs_and_ends(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2")
    key = world.submit(2, comment="holdfast: tail=5%")
    await world.is_state(key, "RUNNING")
    view = await world.job(key)
    assert (view.key, view.nodes, view.num_nodes, view.restarts, view.batch, view.requeue) == (key, ("spot-1", "spot-2"), 2, 0, True, True)
    assert view.comment == "holdfast: tail=5%"
    assert view.active
    assert (await world.node("spot-1")).state == "ALLOCATED"
    assert [job.key for job in await world.slurm.jobs()] == [key]
    world.finish(key, 3)
    await world.is_state(key, "FAILED")
    view = await world.job(key)
    assert (view.exit_code, view.exit_signal, view.reason) == (3, 0, "NonZeroExitCode")
    assert not view.active


async def test_requeue_and_cutting_the_delay_short(world: Any) -> None:
    await world.bring_up("spot-1")
    key = world.submit()
    await world.is_state(key, "RUNNING")
    priority = (await world.job(key)).priority
    await world.slurm.requeue(key)
    await world.is_state(key, "PENDING")
    view = await world.job(key)
    assert view.pending
    assert (view.restarts, view.nodes, view.priority) == (1, (), priority)
    assert view.eligible_time - view.submit_time in {120, 121}  # the two are read off the clock one after the other
    await world.slurm.requeue(key)  # again: nothing happens
    with pytest.raises(SlurmRefused, match="pending"):
        await world.slurm.requeue(key, ended=True)
    assert (await world.job(key)).restarts == 1
    await world.slurm.start_after(key, 1)
    await world.is_state(key, "RUNNING")
    assert (await world.job(key)).restarts == 1


async def test_a_start_time_set_while_the_job_completes_is_overwritten(world: Any) -> None:
    await world.bring_up("spot-1")
    key = world.submit(stubborn=True)
    await world.is_state(key, "RUNNING")
    await world.pause(0.5)  # the script sets its trap
    await world.slurm.requeue(key)
    view = await world.job(key)
    assert (view.state, view.completing, view.pending, view.active) == ("PENDING", True, False, True)
    await world.slurm.start_after(key, 0)
    await world.is_state(key, "PENDING")
    view = await world.job(key)
    assert view.eligible_time - view.submit_time in {120, 121}  # the two are read off the clock one after the other


async def test_a_dead_node_keeps_a_requeued_job_completing_until_it_is_powered_down(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2")
    key = world.submit(2)
    await world.is_state(key, "RUNNING")
    submitted = (await world.job(key)).submit_time
    world.kill("spot-2")
    await world.pause(0.3)
    await world.slurm.requeue(key)
    view = await world.job(key)
    assert (view.state, view.completing, view.restarts) == ("PENDING", True, 1)
    await world.pause(5)
    view = await world.job(key)
    assert (view.state, view.completing, view.nodes) == ("PENDING", True, ("spot-2",))
    await world.slurm.power_down(["spot-2"], "holdfast: reclaimed")
    view = await world.job(key)
    assert not view.completing
    # Freed from its last node by an update, it is not begun anew: no delay, and the old times.
    assert (view.submit_time, view.restarts) == (submitted, 1)
    assert view.nodes in {(), ("spot-1", "spot-3")}

    async def placed() -> bool:
        return bool((await world.job(key)).nodes)

    await world.until(placed, 5)
    assert (await world.job(key)).nodes == ("spot-1", "spot-3")  # the survivor and a fresh one


async def test_power_down_of_a_dead_node_under_a_running_job_frees_it_only_the_second_time(world: Any) -> None:
    await world.bring_up("spot-1")
    key = world.submit()
    await world.is_state(key, "RUNNING")
    world.kill("spot-1")
    await world.pause(0.3)
    await world.slurm.power_down(["spot-1"], "holdfast: reclaimed")
    await world.pause(0.2)
    assert ((await world.job(key)).state, (await world.job(key)).completing) == ("PENDING", True)
    await world.slurm.power_down(["spot-1"], "holdfast: reclaimed")
    assert not (await world.job(key)).completing


async def test_a_job_that_ended_while_a_node_is_dead_is_not_taken_for_requeued(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2")
    key = world.submit(2)
    await world.is_state(key, "RUNNING")
    world.kill("spot-2")
    world.finish(key, 0)

    async def ended() -> bool:
        return bool((await world.job(key)).completing)

    await world.until(ended)
    view = await world.job(key)
    assert (view.state, view.pending, view.restarts) == ("COMPLETED", False, 0)
    await world.slurm.down(["spot-2"], "holdfast: reclaimed")
    await world.is_state(key, "COMPLETED")


async def test_down_requeues_and_leaves_the_node_down(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2")
    key, other = world.submit(), world.submit()
    await world.is_state(key, "RUNNING")
    await world.is_state(other, "RUNNING")
    world.kill("spot-1")
    await world.pause(0.3)
    await world.slurm.down(["spot-1", "spot-2"], "holdfast: sick")
    await world.is_state(key, "PENDING")
    await world.is_state(other, "PENDING")
    view = await world.job(key)
    assert (view.restarts, view.eligible_time - view.submit_time) == (1, 121)
    assert (await world.node("spot-1")).state == "DOWN"
    await world.pause(2)
    assert (await world.node("spot-1")).state == "DOWN"
    assert (await world.node("spot-2")).up  # it lives and answered the kill: ReturnToService=2 took it back
    await world.slurm.resume(["spot-1"])
    assert (await world.node("spot-1")).state == "IDLE"


async def test_a_completed_job_is_rerun_only_when_told_so(world: Any) -> None:
    await world.bring_up("spot-1")
    key = world.submit()
    await world.is_state(key, "RUNNING")
    world.finish(key, 0)
    await world.is_state(key, "COMPLETED")
    await world.slurm.requeue(key)
    assert (await world.job(key)).state == "COMPLETED"
    for refused in (world.slurm.start_after(key, 0), world.slurm.update_job(key, nice=1), world.slurm.hold(key)):
        with pytest.raises(SlurmRefused, match="already finished"):
            await refused
    await world.slurm.requeue(key, ended=True)
    await world.is_state(key, "PENDING")
    assert (await world.job(key)).restarts == 1


async def test_refusals(world: Any) -> None:
    await world.bring_up("spot-1")
    key = world.submit(requeue=False)
    await world.is_state(key, "RUNNING")
    assert not (await world.job(key)).requeue
    with pytest.raises(SlurmRefused, match="disabled"):
        await world.slurm.requeue(key)
    with pytest.raises(SlurmRefused, match="no longer pending"):
        await world.slurm.start_after(key, 1)
    assert await world.slurm.job("4711") is None
    for refused in (world.slurm.requeue("4711"), world.slurm.start_after("4711", 1), world.slurm.signal("4711", "USR1")):
        with pytest.raises(SlurmRefused, match="Invalid job id"):
            await refused


async def test_hold_release_and_what_an_operator_sets(world: Any) -> None:
    await world.bring_up("spot-1")
    running, key = world.submit(), world.submit(3)
    await world.is_state(running, "RUNNING")
    before = (await world.job(key)).priority
    await world.slurm.update_job(key, admin_comment="holdfast: waits for H100\nJobId=1 JobState=FAILED", nice=-5)
    view = await world.job(key)
    assert (view.nice, view.priority) == (-5, before + 5)
    assert world.admin_comment(key).startswith("holdfast: waits for H100")
    await world.slurm.update_job(key, priority=900_000)
    assert (await world.job(key)).priority == 900_000
    await world.slurm.hold(key)
    assert ((await world.job(key)).priority, (await world.job(key)).reason) == (0, "JobHeldAdmin")
    await world.slurm.release(key)
    assert (await world.job(key)).priority > 0
    assert world.admin_comment(running) == ""


async def test_a_task_of_an_array_is_requeued_alone(world: Any) -> None:
    await world.bring_up("spot-1", "spot-2")
    array = world.submit(tasks=2)
    for task in (f"{array}_1", f"{array}_2"):
        await world.is_state(task, "RUNNING")
    await world.slurm.requeue(f"{array}_2")
    await world.is_state(f"{array}_2", "PENDING")
    views = {view.key: view for view in await world.slurm.jobs()}
    assert (views[f"{array}_1"].state, views[f"{array}_1"].restarts) == ("RUNNING", 0)
    assert (views[f"{array}_2"].state, views[f"{array}_2"].restarts) == ("PENDING", 1)
    await world.slurm.start_after(f"{array}_2", 1)
    await world.is_state(f"{array}_2", "RUNNING")


async def test_signal_to_the_batch_shell(world: Any) -> None:
    await world.bring_up("spot-1")
    key = world.submit()
    await world.is_state(key, "RUNNING")
    await world.pause(0.5)  # the script sets its trap
    await world.slurm.signal(key, "USR1", batch=True)

    async def got() -> bool:
        return bool(world.signalled(key))

    await world.until(got)
    assert (await world.job(key)).state == "RUNNING"


async def test_a_configuring_job_waits_for_its_node(world: Any) -> None:
    key = world.submit()

    async def asked() -> bool:
        return "POWERING_UP" in (await world.node("spot-1")).flags

    await world.until(asked)
    view = await world.job(key)
    assert (view.state, view.nodes, view.active) == ("CONFIGURING", ("spot-1",), True)
    assert world.hooks() == ["resume spot-1"]
    await world.slurm.power_down(["spot-1"], "holdfast: no capacity")
    await world.is_state(key, "PENDING")
    assert (await world.job(key)).restarts == 1


@pytest.mark.parametrize("bad", ["1 Priority=9", "1,2", "", "x", "1_", "1;reboot", "--help", "1_[3", "\u0661"])
async def test_a_bad_key_is_never_sent(world: Any, bad: str) -> None:
    with pytest.raises(InputError):
        await world.slurm.requeue(bad)
    with pytest.raises(InputError):
        await world.slurm.job(bad)


async def test_a_reason_must_be_ours(world: Any) -> None:
    with pytest.raises(InputError, match="holdfast:"):
        await world.slurm.drain(["spot-1"], "because")
    with pytest.raises(InputError):
        await world.slurm.drain(["spot-1 state=down"], "holdfast: x")
