"""A step of the clock moves every moment that the fleet noted by it. Each field that holds a number of seconds is looked at."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest
from holdfast_common.notice import Notice, NoticeKind
from holdfast_common.views import JobView
from holdfast_controller import events as e
from holdfast_controller import records as r
from holdfast_controller.commands import GiveUp, TellJob
from holdfast_controller.fleet import Fleet
from holdfast_controller.moments import shift
from holdfast_controller.providers.base import Instance

AT, BY_S = 1_000_000.0, -600.0
STAY = {
    ("InstanceRecord", "price_usd_h"),
    ("InstanceRecord", "on_demand_usd_h"),
    ("PoolMemory", "heat"),  # how many, as the next two
    ("PoolMemory", "hours"),
    ("PoolMemory", "reclaims"),
    ("Evacuation", "doomed"),  # deadlines: those of clouds stay, and are tried below
    ("JobRecord", "begins_at"),  # by the clock of Slurm's host, as it was given
    ("JobRecord", "short_runs_s"),  # how long
}


def number_in(hint: Any) -> bool:
    """Whether a field of this type holds seconds: float, float | None, dict[..., float], tuple[float, ...]."""
    return "float" in str(hint) if hint is not float else True


def filled(kind: type[Any], *args: Any) -> Any:
    """Return a record whose every moment is `AT`."""
    record = kind(*args)
    for name, hint in get_type_hints(kind).items():
        if number_in(hint):
            setattr(record, name, {7: AT} if "dict" in str(hint) else (AT,) if "tuple" in str(hint) else AT)
    return record


def fleet_of_all() -> tuple[Fleet, list[Any]]:
    """Return a fleet with one record of each kind, and those records."""
    notice = Notice("x", NoticeKind.PREEMPT, AT, AT)
    node, evacuation = filled(r.Node, "n1"), filled(r.Evacuation, 0, ("n1",))
    node.doom = r.Doom(notice, keep_until=AT)
    node.notices["x"] = node.doom
    job = filled(r.JobRecord, JobView(7, "7", "RUNNING"))
    job.evacuation = evacuation
    instance = filled(r.InstanceRecord, Instance("i-1", "hf-1", "p", "running"), AT)
    instance.agent = e.AgentArrived(AT, "i-1")
    launch, pool = filled(r.LaunchRecord, "hf-1", "p", ("n1",), 7, AT), filled(r.PoolMemory)
    quota = filled(r.QuotaMemory, 8, AT, AT)
    command = filled(r.CommandRecord, e.CommandIssued(AT, 1, TellJob("k", "why", "7", 7, "text")))
    steps = filled(r.StepsSeen, AT, AT)
    fleet = filled(Fleet)
    fleet.nodes, fleet.jobs, fleet.instances, fleet.launches = {"n1": node}, {7: job}, {"i-1": instance}, {"hf-1": launch}
    fleet.pools, fleet.quotas, fleet.commands, fleet.steps = {"p": pool}, {"q": quota}, {"k": command}, {"i-1": steps}
    fleet.put_off = {8: GiveUp("g", "none left", ("n1",), 8, AT)}
    return fleet, [fleet, node, node.doom, evacuation, job, instance, launch, pool, quota, command, steps]


def still(record: Any) -> Iterator[tuple[str, str]]:
    """Yield the moments of a record that did not move."""
    for name, hint in get_type_hints(type(record)).items():
        if number_in(hint):
            value = getattr(record, name)
            (moment,) = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            if moment != AT + BY_S:
                assert moment == AT
                yield type(record).__name__, name


def test_every_kind_of_record_is_looked_at() -> None:
    kinds = {name for name, kind in vars(r).items() if isinstance(kind, type) and kind.__module__ == r.__name__}
    assert {type(record).__name__ for record in fleet_of_all()[1]} == kinds | {"Fleet"}


def test_every_moment_moves_with_the_clock_and_nothing_else_does() -> None:
    fleet, records = fleet_of_all()
    shift(fleet, BY_S)
    fleet.newest_at = AT + BY_S  # the event of the step itself says when it is
    assert {moment for record in records for moment in still(record)} == STAY
    assert (fleet.instances["i-1"].agent.at, fleet.put_off[8].until, fleet.commands["k"].issued.at) == (AT + BY_S,) * 3


@pytest.mark.parametrize(("source", "moves"), [("health", True), ("admin", True), ("agent", False), ("cloud", False)])
def test_the_time_to_leave_stays_as_long_where_nobody_but_us_has_set_it(world: Any, source: str, moves: bool) -> None:
    world.running(7, "n1")
    deadline = world.notice("n1", 600.0, source).deadline
    world.apply(e.ClockStepped(world.now + 3600.0, 3600.0))
    expected = deadline + (3600.0 if moves else 0.0)
    node, evacuation = world.fleet.nodes["n1"], world.fleet.jobs[7].evacuation
    assert (node.doom.notice.deadline, node.notices["notice-n1"].notice.deadline) == (expected, expected)
    assert evacuation.doomed == {"n1": expected}


def test_never_stays_never() -> None:
    fleet = Fleet(nodes={"n1": r.Node("n1")}, jobs={7: r.JobRecord(JobView(7, "7", "PENDING"))})
    before = {name: replace(node) for name, node in fleet.nodes.items()}
    shift(fleet, BY_S)
    assert fleet.nodes == before
    assert all(not getattr(fleet.jobs[7], name.name) for name in fields(r.JobRecord) if name.name in {"changed_at", "not_before"})


def test_a_name_in_doubt_is_in_doubt_no_longer_after_the_clock_was_set_back() -> None:
    fleet = Fleet(fresh=True)
    fleet.manage(frozenset({"n1"}))
    fleet.apply(e.CloudListed(AT))
    left_s = fleet.nodes["n1"].doubtful_until - AT
    fleet.apply(e.ClockStepped(AT + BY_S, BY_S))
    assert fleet.nodes["n1"].doubtful_until - (AT + BY_S) == left_s > 0
