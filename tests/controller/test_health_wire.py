"""What agents say of health becomes an event: bounded, strict, only where it matters, and the same from the journal."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.errors import InputError
from holdfast_common.health.model import Action, Finding
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller import commands as c
from holdfast_controller import events as e
from holdfast_controller.effects import ControllerEffects
from holdfast_controller.fleet import Fleet
from holdfast_controller.health_wire import MOST_FINDINGS, MOST_READINGS, findings_of, health_event
from holdfast_controller.journal import Journal, decode, encode
from holdfast_controller.providers.base import Instance
from holdfast_controller.records import Node
from holdfast_controller.wire import to_events
from holdfast_protos.v1 import agent_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_700_000_000.0
FINDING = Finding("xid-79", Action.REPLACE, NOW - 5, "GPU-1", "gone", "NVIDIA", False, 2, (7, 8))
NOTICE = Notice("health-i-1-5", NoticeKind.HEALTH, NOW + 600, NOW, "xid-79")


def said(*findings: Finding, ready: bool = True) -> pb.Health:
    made = [
        pb.HealthFinding(
            rule=each.rule,
            gpu=each.gpu,
            action=str(each.action),
            since=each.since,
            text=each.text,
            advice=each.advice,
            dry_run=each.dry_run,
            strikes=each.strikes,
            job_ids=each.job_ids,
        )
        for each in findings
    ]
    return pb.Health(ready=ready, findings=made)


def node(*findings: Finding, heard: float = NOW - 60) -> Node:
    return Node("n1", instance_id="i-1", findings=findings, health_heard=heard)


def test_a_finding_arrives_as_it_was_said() -> None:
    assert findings_of(said(FINDING), NOW) == (FINDING,)


@pytest.mark.parametrize(
    ("before", "now", "news"),
    [
        (node(), said(FINDING), (FINDING,)),
        (node(FINDING), said(), ()),
        (node(FINDING), said(replace(FINDING, action=Action.DRAIN)), (replace(FINDING, action=Action.DRAIN),)),
        (node(FINDING), said(replace(FINDING, dry_run=True)), (replace(FINDING, dry_run=True),)),
        (node(heard=0.0), said(), ()),
        (node(FINDING), said(replace(FINDING, text="gone for 5 s", since=NOW - 1, strikes=3)), None),
        (node(FINDING), said(FINDING), None),
        (node(), said(), None),
    ],
    ids=["new", "over", "milder", "dry run", "the first word", "another text", "the same", "healthy still"],
)
def test_only_what_matters_is_an_event(before: Node, now: pb.Health, news: tuple[Finding, ...] | None) -> None:
    event = health_event(now, before, NOW)
    assert (event.findings if event is not None else None) == news


def test_an_agent_that_has_not_read_everything_yet_takes_nothing_back() -> None:
    other = Finding("ecc", Action.DRAIN, NOW)
    assert health_event(said(ready=False), node(FINDING), NOW) is None
    event = health_event(said(other, ready=False), node(FINDING), NOW)
    assert event is not None
    assert {finding.key for finding in event.findings} == {FINDING.key, other.key}
    milder = replace(FINDING, action=Action.DRAIN)
    event = health_event(said(milder, ready=False), node(FINDING), NOW)
    assert event is not None
    assert event.findings == (milder,), "what it does say counts"


@pytest.mark.parametrize(
    "wrong",
    [
        pb.Health(findings=[pb.HealthFinding(rule="x", action="explode")]),
        pb.Health(findings=[pb.HealthFinding(rule="", action="drain")]),
        pb.Health(findings=[pb.HealthFinding(rule="X; rm", action="drain")]),
        pb.Health(findings=[pb.HealthFinding(rule="x", action="drain", gpu="a b")]),
        pb.Health(findings=[pb.HealthFinding(rule="x", action="drain", gpu="g" * 97)]),
        pb.Health(findings=[pb.HealthFinding(rule="x", action="drain")] * (MOST_FINDINGS + 1)),
        pb.Health(readings=[pb.HealthReading()] * (MOST_READINGS + 1)),
        pb.Health(driver="x" * 1_000_001),
    ],
    ids=["action", "no rule", "rule", "gpu", "long gpu", "findings", "readings", "bytes"],
)
def test_what_no_agent_says_is_dropped_as_a_whole(wrong: pb.Health) -> None:
    with pytest.raises(InputError):
        health_event(wrong, node(), NOW)


def test_it_is_bounded_and_printable() -> None:
    finding = pb.HealthFinding(
        rule="x", action="note", text="\x1b[2Ja\nb" + "t" * 999, advice="a" * 999, since=NOW + 999, strikes=4_000_000_000
    )
    (made,) = findings_of(pb.Health(findings=[finding]), NOW)
    assert made.text.startswith("[2Jabt")
    assert (len(made.text) <= 300, len(made.advice), made.since, made.strikes) == (True, 500, NOW, 1000)


def test_many_jobs_to_blame_hide_no_other_finding() -> None:
    program = replace(FINDING, rule="xid-program", action=Action.NOTE, job_ids=tuple(range(1, 151)))
    event = health_event(said(program, FINDING), node(), NOW)
    assert event is not None
    assert [finding.key for finding in event.findings] == [program.key, FINDING.key]
    assert event.findings[0].job_ids == tuple(range(51, 151)), "the newest"


@pytest.mark.parametrize("since", [math.nan, math.inf, -math.inf, -5.0, 0.0])
def test_a_moment_that_is_none_is_now(since: float) -> None:
    (made,) = findings_of(pb.Health(findings=[pb.HealthFinding(rule="x", action="note", since=since)]), NOW)
    assert (made.since, made.strikes) == (NOW, 1)


hostile = st.builds(
    pb.Health,
    ready=st.booleans(),
    gpus_visible=st.integers(0, 2**32 - 1),
    driver=st.text(max_size=20),
    findings=st.lists(
        st.builds(
            pb.HealthFinding,
            rule=st.one_of(st.text(max_size=60), st.just("xid-79")),
            gpu=st.one_of(st.text(max_size=20), st.just("GPU-1")),
            action=st.one_of(st.text(max_size=10), st.sampled_from(list(map(str, Action)))),
            since=st.floats(),
            text=st.text(max_size=400),
            strikes=st.integers(0, 2**32 - 1),
            dry_run=st.booleans(),
            job_ids=st.lists(st.integers(0, 2**32 - 1), max_size=5),
        ),
        max_size=4,
    ),
    readings=st.lists(st.builds(pb.HealthReading, name=st.text(max_size=5), value=st.floats()), max_size=3),
)


@given(message=hostile)
def test_hostile_words_are_refused_or_make_an_event_that_the_journal_keeps(message: pb.Health) -> None:
    fleet = Fleet(epoch="ep")
    fleet.manage(frozenset({"n1"}))
    fleet.nodes["n1"].instance_id = "i-1"
    try:
        events = to_events(pb.AgentMessage(health=message), "n1", fleet, NOW)
    except InputError:
        return
    for event in events:
        assert decode(*encode(event)) == event
        assert str(event).isprintable()
        fleet.apply(event)
        assert all(math.isfinite(finding.since) and finding.since <= NOW for finding in fleet.nodes["n1"].findings)
    assert to_events(pb.AgentMessage(health=message), "n1", fleet, NOW) == [], "said again it is no news"


def test_a_word_on_a_node_that_is_not_managed_is_none(world: Any) -> None:
    assert to_events(pb.AgentMessage(health=said(FINDING)), "", world.fleet, NOW) == []


STORY = [
    e.NodesRequested(1.0, ("n1",), 7),
    e.InstanceChanged(1.1, Instance("i-1", "hf-1", "aws/r/a/g/spot", "running")),
    e.CommandIssued(1.2, 9, c.BindInstance("bind:i-1", "why", "n1", "i-1")),
    e.CommandFinished(1.3, 9, "bind:i-1", "ok"),
    e.HealthReported(2.0, "n1", "i-1", (FINDING, Finding("ecc", Action.NOTE, 1.0))),
    e.CommandIssued(3.0, 1, c.CondemnNode("condemn:n1:i-1", "why", "n1", "i-1", NOTICE, 50.0)),
    e.NoticeReceived(4.0, "n1", NOTICE, "health", 50.0),
    e.CommandFinished(5.0, 1, "condemn:n1:i-1", "ok"),
    e.HealthReported(6.0, "n1", "i-1", ()),
    e.CommandIssued(7.0, 2, c.PardonNode("pardon:n1", "why", "n1", NOTICE.id)),
    e.NoticeWithdrawn(8.0, "n1", NOTICE.id),
    e.CommandFinished(9.0, 2, "pardon:n1", "ok"),
    e.HealthRulesSet(10.0, "0123456789ab"),
]


@pytest.mark.parametrize("steps", range(1, len(STORY) + 1))
async def test_the_journal_gives_the_same_fleet_after_each_step(tmp_path: Any, steps: int) -> None:
    journal = Journal(tmp_path / "j")
    fleet = await journal.open()
    fleet.manage(frozenset({"n1"}))
    for event in STORY[:steps]:
        fleet.apply(event)
    await journal.write(STORY[:steps])
    await journal.close()
    again = await Journal(tmp_path / "j").open(frozenset({"n1"}))
    again.epoch, again.fresh = fleet.epoch, fleet.fresh
    assert again == fleet
    if steps == 5:
        assert again.nodes["n1"].findings == STORY[4].findings  # type: ignore[attr-defined]


# -- the commands -----------------------------------------------------------------------------------------------------------------


def effects(clock: VirtualClock, holder: str) -> ControllerEffects:
    slurm, cloud, agents = (cast(Any, SimpleNamespace(launch=None, terminate=None)) for _ in range(3))
    return ControllerEffects(slurm, cloud, agents, clock, bound=lambda name: holder)


async def test_a_machine_is_condemned_only_while_it_has_the_name() -> None:
    command = c.CondemnNode("condemn:n1:i-1", "why", "n1", "i-1", NOTICE, NOW + 900)
    outcome = await effects(VirtualClock(NOW), "i-1").run(command, resumed=False)
    (noticed,) = [each for each in outcome if isinstance(each, e.NoticeReceived)]
    assert (noticed.notice, noticed.source, noticed.keep_until) == (NOTICE, "health", NOW + 900)
    moot = await effects(VirtualClock(NOW), "i-2").run(command, resumed=False)
    assert [(type(each), getattr(each, "outcome", "")) for each in moot] == [(e.CommandFinished, "moot")]
