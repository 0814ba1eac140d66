"""What the fleet keeps about where jobs are equals what a look through all jobs says, after any events, and after a snapshot."""

from dataclasses import replace

import pytest
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView, NodeView
from holdfast_controller import events as e
from holdfast_controller import index
from holdfast_controller.commands import TellJob
from holdfast_controller.decide.reclaim import Homes
from holdfast_controller.fleet import Fleet
from holdfast_controller.journal import dump_fleet, load_fleet
from holdfast_controller.providers.base import Instance
from holdfast_controller.records import InstanceRecord
from hypothesis import given
from hypothesis import strategies as st

NODES = ("n1", "n2", "n3")
jobs = st.integers(1, 3)
nodes = st.sampled_from(NODES)
views = st.builds(
    JobView,
    job_id=jobs,
    key=st.just("1"),
    state=st.sampled_from(["PENDING", "RUNNING", "COMPLETED", "CONFIGURING"]),
    completing=st.booleans(),
    restarts=st.integers(0, 1),
    nodes=st.lists(nodes, unique=True).map(tuple),
)
happened = st.one_of(
    views.map(lambda view: e.JobChanged(1.0, view)),
    jobs.map(lambda job_id: e.JobForgotten(1.0, job_id)),
    st.builds(e.JobReported, at=st.just(1.0), node=nodes, job_id=jobs, attempt=st.integers(0, 1)),
    st.builds(e.JobLeftNode, at=st.just(1.0), node=nodes, job_id=jobs, attempt=st.integers(0, 1)),
    nodes.map(lambda name: e.NoticeReceived(1.0, name, Notice(f"notice-{name}", NoticeKind.PREEMPT, 61.0, 1.0))),
    nodes.map(lambda name: e.NoticeWithdrawn(1.0, name, f"notice-{name}")),
)


def of(events: list[e.Event]) -> Fleet:
    fleet = Fleet()
    fleet.manage(frozenset(NODES))
    for event in events:
        fleet.apply(event)
    return fleet


@given(st.lists(happened, max_size=30))
def test_the_index_says_what_a_look_through_all_jobs_says(events: list[e.Event]) -> None:
    fleet = of(events)
    for name in NODES:
        held = [job for _, job in sorted(fleet.jobs.items()) if job.view.active and name in job.view.nodes]
        assert list(fleet.jobs_on(name)) == held
        assert (name in fleet.held) == bool(held)
        assert (name in fleet.seen) == any(name in job.present for job in fleet.jobs.values())
    assert (fleet.held, fleet.seen) == index.build(fleet.jobs)


@given(st.lists(happened, max_size=30))
def test_a_job_on_a_doomed_node_must_leave_and_only_such_a_one(events: list[e.Event]) -> None:
    fleet = of(events)
    for job in fleet.jobs.values():
        doomed = {name for name in job.view.nodes if fleet.nodes[name].doom is not None}
        running = job.view.active and not job.view.completing
        leaves = job.evacuation is not None and job.evacuation.attempt == job.view.restarts
        if doomed and running:
            assert leaves
            assert doomed <= job.evacuation.doomed.keys()


@given(st.lists(happened, max_size=20))
def test_a_snapshot_leaves_it_out_and_it_comes_back(events: list[e.Event]) -> None:
    fleet = of(events)
    text = dump_fleet(fleet)
    assert '"held"' not in text
    assert load_fleet(text) == fleet


def test_old_commands_are_dropped_now_and_then_and_not_with_each_outcome(world) -> None:
    world.running(7, "n1")
    world.notice("n1")
    for command in world.due():
        world.finish(command)
    assert world.fleet.commands
    world.later(4000)
    world.running(8, "n2")
    for command in world.due():
        world.finish(command)
    kept = [old for old in world.fleet.commands.values() if old.state != "open" and old.done_at <= world.now - 3600]
    assert {type(old.issued.command) for old in kept} == {TellJob}, "what limits what is done for a job stays as long as the job"
    world.apply(e.JobForgotten(world.now, 7))
    world.later(61)
    world.job(8, "RUNNING", "n2", restarts=1)
    for command in world.due():
        world.finish(command)
    assert all(record.state == "open" or record.done_at > world.now - 3600 for record in world.fleet.commands.values())


def test_an_unmanaged_address_is_no_home() -> None:
    fleet = of([e.NodeChanged(1.0, NodeView("n1", "IDLE", address="10.0.0.1")), e.NodeChanged(1.0, NodeView("n2", "IDLE"))])
    here = InstanceRecord(Instance("i-1", "", "", "running", "10.0.0.1"), 1.0)
    nowhere = replace(here, instance=Instance("i-2", "", "", "running", ""))
    assert (Homes(fleet).has(here), Homes(fleet).has(nowhere)) == (True, False)


@pytest.mark.parametrize("end", ["gone", "rebooted", "off", "off, and gone with what it said late"])
def test_processes_of_a_lost_machine_are_not_waited_for_in_the_names_next_life(world, end) -> None:
    """No agent says that they have left: an empty node that is doomed would be paid for until its deadline."""
    world.running(7, "n1")
    world.registered(7, "n1")
    assert world.fleet.seen == {"n1": {7}}
    if end == "gone":
        instance = world.fleet.instances["i-n1"].instance
        world.apply(e.AgentLost(world.now, "i-n1"), e.InstanceChanged(world.now, replace(instance, state="gone")))
    elif end == "rebooted":
        world.apply(e.AgentRebooted(world.now, "i-n1", "other"))
    else:
        world.node("n1", "IDLE", "CLOUD", "POWERED_DOWN")
    if end.endswith("late"):
        world.registered(7, "n1")
        world.apply(e.InstanceChanged(world.now, replace(world.fleet.instances["i-n1"].instance, state="gone")))
    assert (world.fleet.seen, world.fleet.jobs[7].present) == ({}, {})
    assert world.fleet.jobs[7].reports["n1"].attempt == 0, "that it ran is still known"
