"""What the demo reckons from the record: interruptions, costs, timelines, the report."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from holdfast_sandbox.demo.checks import Failure
from holdfast_sandbox.demo.costs import costs
from holdfast_sandbox.demo.evidence import KINDS, Evidence, Reclaim, ReclaimKind
from holdfast_sandbox.demo.interruptions import interruption, interruptions
from holdfast_sandbox.demo.picture import picture
from holdfast_sandbox.demo.report import result, table, text
from holdfast_sandbox.demo.svg import render_svg
from holdfast_sandbox.history.attempts import phases
from holdfast_sandbox.history.machines import machines
from holdfast_sandbox.history.model import JobRun


def test_the_parts_of_an_interruption_add_up(evidence: Evidence) -> None:
    seen = interruptions(evidence)
    assert {each.kind for each in seen} == set(KINDS)
    for each in seen:
        parts = (each.save_s, each.slurm_s, each.boot_s, each.interpreter_s, each.load_s)
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(each.to_first_step_s, abs=1e-6)
        assert each.to_first_line_s == pytest.approx(each.save_s + each.slurm_s + each.boot_s, abs=1e-6)


def test_steps_are_lost_only_without_a_notice(evidence: Evidence) -> None:
    lost = {each.kind: each.lost for each in interruptions(evidence)}
    assert lost["unnoticed"] > 0
    assert {kind: lost[kind] for kind in KINDS if kind != "unnoticed"} == {"free": 0, "saving": 0, "one_of_two": 0}


def test_a_machine_that_was_up_before_the_notice_costs_no_boot(evidence: Evidence, reclaim_of: Callable[[ReclaimKind], Reclaim]) -> None:
    reclaim = reclaim_of("free")
    assert interruption(evidence, reclaim).boot_s > 0
    after = next(e.body["view"]["nodes"][0] for e in evidence.journal if e.kind == "JobChanged" and _ran(e.body["view"], 1))
    for line in evidence.cloud:
        if line["event"] == "requested" and line["instance_id"] in {m.instance_id for m in machines(evidence).values() if m.node == after}:
            line["t"] = evidence.began
    seen = interruption(evidence, reclaim)
    assert seen.boot_s == 0
    assert seen.slurm_s == pytest.approx(seen.to_first_line_s - seen.save_s)


def _ran(view: dict[str, object], attempt: int) -> bool:
    return (view["job_id"], view["restarts"], view["state"]) == (1, attempt, "RUNNING")


def test_what_is_not_on_record_is_said(evidence: Evidence, reclaim_of: Callable[[ReclaimKind], Reclaim]) -> None:
    evidence.jobs["pair"].starts.pop()
    with pytest.raises(LookupError, match="no record of a start of pair's attempt 1"):
        interruption(evidence, reclaim_of("one_of_two"))


def test_costs_are_the_clouds(evidence: Evidence) -> None:
    spent = costs(evidence)
    charged = sum(line["cost_usd"] for line in evidence.cloud if line["event"] == "terminated")
    alive = [machine for machine in machines(evidence).values() if machine.gone is None]
    assert alive
    still = sum(machine.price_usd_h * (evidence.ended - (machine.running or 0)) / 3600 for machine in alive)
    assert spent.usd == pytest.approx(charged + still)
    assert spent.gpu_hours == pytest.approx(spent.node_hours * evidence.gpus_per_node)
    assert spent.on_demand_usd == pytest.approx(spent.on_demand_gpu_hours / evidence.gpus_per_node * evidence.on_demand_usd_h)
    assert 0 < spent.on_demand_gpu_hours < spent.gpu_hours, "undisturbed there are fewer boots and loads"
    assert costs(replace(evidence, gpus_per_node=8)).gpu_hours == pytest.approx(8 * spent.gpu_hours)


def test_a_jobs_life_has_no_gaps(single: JobRun, reclaim_of: Callable[[ReclaimKind], Reclaim]) -> None:
    blow = reclaim_of("unnoticed")
    life = phases(single, single.starts[0].t - 3.0, {blow.attempt: blow.at})
    for earlier, later in pairwise(life):
        assert later.begin == pytest.approx(earlier.end, abs=0.05)
    assert [phase.kind for phase in life if phase.attempt == 0] == ["waits", "starts", "trains", "saves"]
    assert max(phase.end for phase in life if phase.attempt == blow.attempt) == blow.at


def test_both_timelines_show_every_row_and_strike(evidence: Evidence) -> None:
    drawn = picture(evidence)
    assert {*evidence.jobs, "spot-1", "spot-2"} <= drawn.rows.keys()
    told = text(evidence, drawn, interruptions(evidence), costs(evidence), [])
    assert all(f"\n{row:>16} " in told for row in drawn.rows)
    drawing = ElementTree.fromstring(render_svg(drawn, "a <title> & more"))
    words = ["".join(each.itertext()) for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "a <title> & more" in words
    for strike in drawn.strikes:
        assert f"{strike.number}: {strike.at:.1f} s, {strike.told}" in words
        assert f"{strike.number:>16} {strike.at:.1f} s: {strike.told}" in told


def test_the_table_has_a_row_for_each(evidence: Evidence) -> None:
    seen = interruptions(evidence)
    rows = table(seen).splitlines()[2:6]
    for row, each in zip(rows, seen, strict=True):
        assert f"{each.to_first_line_s:.2f}" in row
        assert row.rstrip().endswith(f"{each.to_first_step_s:.2f}{each.lost:>6}")


def test_result_and_report_tell_what_failed(evidence: Evidence) -> None:
    seen, spent, failure = interruptions(evidence), costs(evidence), Failure("all well", "nothing is")
    good, bad = (result(evidence, seen, spent, broken) for broken in ([], [failure]))
    assert good["passed"] is True
    assert bad["passed"] is False
    assert json.loads(json.dumps(bad))["failures"] == [{"promise": "all well", "what": "nothing is"}]
    assert [each["lost"] for each in good["interruptions"]] == [each.lost for each in seen]
    assert "  - all well: nothing is" in text(evidence, picture(evidence), seen, spent, [failure])
    assert "promises held" in text(evidence, picture(evidence), seen, spent, [])


def test_a_run_that_came_to_nothing_is_reported_too(evidence: Evidence) -> None:
    nothing = replace(evidence, jobs={}, reclaims=[], journal=[], cloud=[], nodes={})
    told = text(nothing, picture(nothing), [], None, [Failure("the sandbox starts", "it did not")])
    assert "the sandbox starts: it did not" in told
    assert ElementTree.fromstring(render_svg(picture(nothing), "t")) is not None
