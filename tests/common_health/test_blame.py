"""Whose fault an XID is: the program's, or the GPU's."""

from health_sequences import T0, told
from holdfast_common.health.judge import Judge
from holdfast_common.health.model import Action, Finding, GpuEvent
from holdfast_common.health.rules import default_rules

DAY_S = 86_400.0


def xid(gpu: int, job_id: int, after_s: float = 0.0, code: int = 31) -> GpuEvent:
    return GpuEvent(T0 + after_s, "xid", code, f"GPU-{gpu}", job_id=job_id)


def findings(*events: GpuEvent, after_s: float = 1000.0) -> list[Finding]:
    return list(told(Judge(default_rules()), *events).findings(T0 + after_s))


def seen(*events: GpuEvent, after_s: float = 1000.0) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(each.gpu, str(each.action), each.job_ids) for each in findings(*events, after_s=after_s)}


def test_one_gpu_under_two_jobs_is_drained() -> None:
    (finding,) = findings(xid(0, 7), xid(0, 8, 600, code=13))
    assert (finding.rule, finding.action, finding.gpu) == ("xid-program", Action.DRAIN, "GPU-0")
    assert finding.text == "XID 13, 2 times, under 2 jobs: 7, 8"


def test_one_job_on_two_gpus_is_a_note_that_names_it() -> None:
    said = findings(xid(0, 7), xid(1, 7, 1))
    assert {(each.gpu, each.action, each.job_ids) for each in said} == {
        ("", Action.NOTE, (7,)),
        ("GPU-0", Action.NOTE, (7,)),
        ("GPU-1", Action.NOTE, (7,)),
    }
    assert "on 2 GPUs under one job: it is the job's own fault (7)" in {each.text for each in said}


def test_one_job_again_and_again_on_one_gpu_is_a_note() -> None:
    assert seen(*(xid(0, 7, 300 * n) for n in range(20)), after_s=6000) == {("GPU-0", "note", (7,))}


def test_jobs_that_nobody_knows_are_never_held_against_a_gpu() -> None:
    assert seen(*(xid(0, 0, 300 * n) for n in range(20)), after_s=6000) == {("GPU-0", "note", ())}
    assert seen(xid(0, 0), xid(0, 7, 300)) == {("GPU-0", "note", (7,))}


def test_a_job_that_fails_on_every_gpu_says_nothing_against_the_one_that_it_shares_with_another() -> None:
    assert seen(xid(0, 7), xid(1, 7, 1), xid(0, 8, 600)) == {("", "note", (7,)), ("GPU-0", "note", (7, 8)), ("GPU-1", "note", (7,))}
    assert ("GPU-0", "drain", ()) in seen(xid(0, 7), xid(1, 7, 1), xid(0, 8, 600), xid(0, 9, 700))


def test_the_note_on_a_job_is_since_its_own_first_event() -> None:
    said = findings(xid(5, 3), xid(0, 7, 600), xid(1, 7, 601))
    assert [each.since for each in said if not each.gpu] == [T0 + 600]


def test_jobs_a_day_apart_are_not_held_together() -> None:
    assert seen(xid(0, 7), xid(0, 8, DAY_S + 1), after_s=DAY_S + 2) == {("GPU-0", "note", (8,))}
    assert seen(xid(0, 7), xid(0, 8, DAY_S - 2), after_s=DAY_S - 1) == {("GPU-0", "drain", ())}


def test_a_rule_that_blames_jobs_names_them_and_notes() -> None:
    (finding,) = findings(xid(0, 7, code=69))
    assert (finding.rule, finding.action, finding.job_ids, finding.text) == ("xid-restart", Action.NOTE, (7,), "XID 69, of job 7")


def test_one_faulty_program_that_is_started_again_and_again_is_not_held_against_a_gpu() -> None:
    again = [xid(0, 7, 300 * n, code=69) for n in range(20)]
    assert seen(*again, after_s=6000) == {("GPU-0", "note", (7,))}
    four = [xid(0, job_id, 6000 + 300 * job_id, code=69) for job_id in (8, 9, 10)]
    assert seen(*again, *four, after_s=9900) == {("GPU-0", "note", (7, 8, 9, 10))}
    assert seen(*again, *four, xid(0, 11, 9800, code=69), after_s=9900) == {("GPU-0", "drain", ())}


def test_many_lines_of_one_job_do_not_push_out_another() -> None:
    flood = [xid(0, 8, 10 + n * 0.01) for n in range(2000)]
    assert seen(xid(0, 7), *flood) == {("GPU-0", "drain", ())}


def test_of_many_jobs_eight_are_named() -> None:
    (finding,) = findings(*(xid(0, job_id, job_id) for job_id in range(1, 12)))
    assert finding.text.endswith("under 11 jobs: 1, 2, 3, 4, 5, 6, 7, 8 and 3 more")


def test_nvlink_counts_by_what_the_line_calls_itself() -> None:
    fatal = told(Judge(default_rules()), GpuEvent(T0, "xid", 149, "GPU-0", fatal=True)).findings(T0)
    other = told(Judge(default_rules()), GpuEvent(T0, "xid", 149, "GPU-0")).findings(T0)
    assert [(each.rule, each.action) for each in (*fatal, *other)] == [("xid-nvlink-fatal", "evacuate"), ("xid-nvlink", "note")]
