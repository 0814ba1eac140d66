"""The benchmark's arithmetic: parts that follow one another, add up, and are taken from the right records."""

import io
import json
from dataclasses import replace

import pytest
from holdfast_common.notice import Notice, NoticeKind
from holdfast_controller.commands import BindInstance, PowerUpNode, RedirectLaunch, RequeueJob, StartJob
from holdfast_controller.events import AgentArrived, CommandFinished, CommandIssued, InstanceChanged, NoticeReceived
from holdfast_controller.journal import encode
from holdfast_controller.providers.base import Instance
from rich.console import Console

from bench import summary, tables
from bench.cases import CASES, LOSSES, FirstStart, Outcome, plan, plan_losses
from bench.evidence import PARTS, Interruption, LogLine, Records, parts_of, read_slurmctld_log
from bench.jobs import Job, Start
from bench.plain import PlainOutcome

T = 1_795_488_000.0
IID = "i-1"


@pytest.fixture
def job(tmp_path):
    """A two-node job whose second rank parks last."""
    job = Job(tmp_path / "job", 2)
    for rank, (seen, parked) in enumerate([(0.11, 0.15), (0.15, 0.35)]):
        folder = job.folder / f"rank-{rank}"
        folder.mkdir(parents=True)
        lines = [
            {"event": "first_step_done", "attempt": 0, "t": T - 5},
            {"event": "notice_seen", "attempt": 0, "t": T + seen},
            {"event": "parked", "attempt": 0, "t": T + parked},
            {"event": "parked", "attempt": 1, "t": T + 50},
        ]
        (folder / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "half')
    return job


@pytest.fixture
def interruption(job):
    return Interruption("case", job, 7, 0, "spot-1", IID, ("spot-1", "spot-2"), ("spot-2", "spot-3"), T + 6.0, True)


def as_read(event):
    """An event as `read_journal` returns it."""
    kind, body = encode(event)
    return {"kind": kind, **json.loads(body)}


@pytest.fixture
def records():
    return Records(
        cloud=[
            {"event": "requested", "t": T - 60, "instance_id": IID, "tags": {"holdfast:nodes": "spot-1"}},
            {"event": "notice", "t": T, "instance_id": IID},
            {"event": "requested", "t": T + 1.4, "instance_id": "i-2", "tags": {"holdfast:nodes": "spot-[3-4]"}},
        ],
        journal=[
            as_read(NoticeReceived(T + 0.12, "spot-1", Notice("n", NoticeKind.PREEMPT, T + 120, T + 0.1, ""))),
            as_read(CommandIssued(T + 0.2, 8, PowerUpNode("p1", "", "spot-9", 7))),
            as_read(CommandIssued(T + 0.2, 9, PowerUpNode("p2", "", "spot-3", 7))),
            as_read(CommandIssued(T + 0.4, 1, RequeueJob("r", "", "7", 7, 0))),
            as_read(CommandFinished(T + 0.45, 1)),
            as_read(CommandIssued(T + 0.55, 2, StartJob("s1", "", "7", 7, 1, 1))),
            as_read(CommandFinished(T + 0.6, 2)),
            as_read(CommandIssued(T + 0.7, 3, StartJob("s2", "", "8", 8, 1, 1))),
            as_read(CommandFinished(T + 0.8, 3)),
        ],
        slurmctld=[
            LogLine(T - 50, "sched: Allocate JobId=7 NodeList=spot-[1-2] #CPUs=8 Partition=spot"),
            LogLine(T - 49, "prolog_running_decr: Configuration for JobId=7 is complete"),
            LogLine(T + 0.5, "Requeuing JobId=7"),
            LogLine(T + 0.52, "Requeuing JobId=77"),
            LogLine(T + 1.1, "sched/backfill: _start_job: Started JobId=7 in spot on spot-[2-3]"),
            LogLine(T + 5.0, "Node spot-3 now responding"),
            LogLine(T + 5.2, "prolog_running_decr: Configuration for JobId=7 is complete"),
            LogLine(T + 5.9, "Node spot-1 now responding"),
        ],
    )


def test_each_part_from_its_record(interruption, records):
    parts = parts_of(interruption, records)
    wanted = [0.1, 0.05, 0.2, 0.05, 0.1, 0.1, 0.5, 0.3, 3.6, 0.2, 0.8]
    assert parts == pytest.approx(dict(zip(PARTS, wanted, strict=True)), abs=1e-6)


def test_a_moment_that_nobody_recorded_costs_its_part_nothing_and_the_sum_stays(interruption, records):
    bare = Records(records.cloud[:2], [], [line for line in records.slurmctld if "Requeuing" in line.text])
    parts = parts_of(interruption, bare)
    assert sum(parts.values()) == pytest.approx(6.0)
    assert {name for name, seconds in parts.items() if seconds > 1e-6} == {"telling", "save", "requeue", "start"}


def test_an_interruption_without_a_notice_is_refused(interruption, records):
    with pytest.raises(LookupError, match=IID):
        parts_of(interruption, Records(records.cloud[:1], records.journal, records.slurmctld))


def test_a_loss_is_counted_from_when_it_is_known(interruption, records):
    lost = replace(interruption, killed_at=T - 0.5)
    with pytest.raises(LookupError, match="gone"):
        parts_of(lost, records)
    gone = as_read(InstanceChanged(T + 0.3, Instance(IID, "hf-1", "a", "gone")))
    known = Records(records.cloud, [*records.journal, gone], records.slurmctld)
    parts = parts_of(lost, known)
    assert sum(parts.values()) == pytest.approx(5.7)
    (row,) = summary.rows_of(Outcome((lost,), (), known))
    assert (row.lost, row.kind) == (True, ""), "two nodes: Slurm waits there, and no target is for it"
    assert row.known_after_s == pytest.approx(0.8)
    (one,) = summary.rows_of(Outcome((replace(lost, before=("spot-1",)),), (), known))
    assert one.kind == "loss_fresh"


def test_an_instance_is_the_node_that_its_name_was_bound_to(interruption, records):
    cloud = [*records.cloud, {"event": "requested", "t": T + 0.2, "instance_id": "i-9", "tags": {"holdfast:nodes": "spot-9"}}]
    journal = [
        *records.journal,
        as_read(CommandIssued(T + 1.2, 10, RedirectLaunch("x", "", "spot-9", "hf-9", "spot-3", 7))),
        as_read(AgentArrived(T + 2.0, "i-9")),
        as_read(CommandIssued(T + 2.5, 11, BindInstance("b", "", "spot-3", "i-9", "127.77.0.9"))),
        as_read(AgentArrived(T + 2.9, "i-2")),
        as_read(CommandIssued(T + 2.9, 12, BindInstance("c", "", "spot-4", "i-2", "127.77.0.2"))),
    ]
    served = Records(cloud, journal, records.slurmctld)
    (row,) = summary.rows_of(Outcome((interruption,), (), served))
    assert (row.bought_in_vain, row.redirected) == ((), ("spot-9",))
    assert row.whole_boot_s == pytest.approx(4.8)
    assert row.parts_s["ordering"] == pytest.approx(0.5), "it was there, and waited half a second for its name"
    assert row.parts_s["boot"] == pytest.approx(3.4)
    assert sum(row.parts_s.values()) == pytest.approx(6.0)


def test_loading_is_the_slowest_ranks(job):
    assert job.loading(1) is None
    for rank, late in enumerate((0.0, 0.5)):
        lines = [(name, late + at) for at, name in enumerate(("process_start", "library_imported", "resumed", "first_step_done"))]
        text = "".join(json.dumps({"event": name, "attempt": 1, "t": T + at}) + "\n" for name, at in lines)
        (job.folder / f"rank-{rank}" / "attempts.jsonl").write_text(text)
    assert job.loading(1) == {"process_start": T + 0.5, "library_imported": T + 1.5, "resumed": T + 2.5, "first_step_done": T + 3.5}


def test_losses_are_of_each_kind_and_mostly_of_single_node_jobs():
    chosen = plan_losses(10)
    assert set(chosen) == set(LOSSES)
    assert sum(case.nodes == 1 for case in chosen) == 6
    assert plan_losses(1) == [LOSSES[0]]


def test_figures_and_tables(interruption, records):
    first = FirstStart(7, T - 60, Start(0, T - 48.5, ("spot-1",)))
    early = LogLine(T - 49.5, "Node spot-1 now responding")
    outcome = Outcome((interruption,), (first,), Records(records.cloud, records.journal, [*records.slurmctld, early]))
    gate = summary.registered_to_start(outcome)
    assert gate == pytest.approx([1.0, 1.0])
    rows = summary.rows_of(outcome)
    assert rows[0].net_s == pytest.approx(6.0 - 0.2 - 3.6)
    assert rows[0].whole_boot_s == pytest.approx(3.6)
    assert rows[0].bought_in_vain == ("spot-9",)
    found = summary.figures(rows, gate, PlainOutcome((20.0, 10.0, 2.0), 148.0, 27.0, 121.5))
    assert found["targets_met"] == {"fresh_median_s": False, "fresh_worst_s": True, "gate_median_s": False}
    assert found["plain_slurm"]["ratio_dead_node"] == pytest.approx(438.0 / 2.2)
    assert found["registered_to_start_s"]["without_gate"] == {"median": 10.0, "worst": 20.0, "count": 3}
    assert json.loads(json.dumps(found))["interruptions"][0]["doomed"] == "spot-1"
    text = io.StringIO()
    tables.show({**found, "setup": {"machine": "2 cores"}}, Console(file=text, width=240))
    for wanted in ("438", "x 199", "2.20", "with Holdfast's gate", "MISSED", "machine: 2 cores"):
        assert wanted in text.getvalue()


def test_a_node_that_was_up_before_the_job_got_it_says_nothing_of_the_gate(interruption, records):
    log = [line for line in records.slurmctld if "spot-3" not in line.text or "Started" in line.text]
    outcome = Outcome((interruption,), (), Records(records.cloud, records.journal, [*log, LogLine(T + 1.0, "Node spot-3 now responding")]))
    assert summary.registered_to_start(outcome) == []


def test_slurmctlds_log_is_read_with_its_times(tmp_path):
    path = tmp_path / "log"
    path.write_text("[2026-11-24T03:14:01.977] Requeuing JobId=1\nno time\n[2026-11-24T03:14:02.000] error: x\n")
    lines = read_slurmctld_log(path)
    assert [line.text for line in lines] == ["Requeuing JobId=1", "error: x"]
    assert lines[1].at - lines[0].at == pytest.approx(0.023, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 12, 20])
def test_the_cases_take_turns(count):
    chosen = plan(count)
    numbers = [chosen.count(case) for case in CASES]
    assert len(chosen) == count
    assert max(numbers) - min(numbers) <= 1
    assert [case.nodes for case in chosen] == sorted(case.nodes for case in chosen)
