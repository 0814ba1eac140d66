"""The judge where it is not plain: shares, growth, hysteresis, what is not read, strikes, resolving, other rules, and its bounds."""

import pytest
from health_sequences import GPU, T0, told
from holdfast_common.health.blows import BURST_S
from holdfast_common.health.judge import MOST_PLACES, Judge
from holdfast_common.health.levels import UNREAD_S
from holdfast_common.health.model import Action, Finding, GpuEvent, Sample, worst
from holdfast_common.health.rules import Rules, parse_rules

WORDS = 'advice = "ours"\nnext = "look"\n'
HOT = f'[[reading]]\nname = "hot"\nreading = "temperature_celsius"\nwhen = ">= 90"\nfor_s = 60\naction = "note"\n{WORDS}'
GROWS = f'[[reading]]\nname = "grows"\nreading = "pcie_replays"\nwhen = ">= 10"\ngrowth_over_s = 60\naction = "note"\n{WORDS}'
SHARE = f'[[reading]]\nname = "slow"\nreading = "clock_sw_thermal"\nwhen = ">= 1"\nshare = 0.5\nover_s = 100\naction = "drain"\n{WORDS}'
XID = f'[[event]]\nname = "xid"\nkind = "xid"\naction = "note"\n{WORDS}'
ESCALATES = 'strikes = { count = 3, within_s = 3600, action = "replace" }\n'


def rules(*tables: str) -> Rules:
    return parse_rules("version = 1\n" + "".join(tables))


def heat(after_s: float, value: float | None = 95.0, state: str = "ok") -> Sample:
    return Sample(T0 + after_s, "temperature_celsius", value if state == "ok" else None, GPU, state)  # type: ignore[arg-type]


def xid(after_s: float, code: int = 43, gpu: str = GPU, job_id: int = 0) -> GpuEvent:
    return GpuEvent(T0 + after_s, "xid", code, gpu, job_id=job_id)


def found(judge: Judge, after_s: float) -> list[Finding]:
    return list(judge.findings(T0 + after_s))


HELD = [heat(0), heat(30), heat(60)]


def test_it_holds_since_the_first_reading_that_says_so_and_shows_the_newest() -> None:
    (finding,) = found(told(Judge(rules(HOT)), *HELD, heat(90, 101.0)), 91)
    assert (finding.since, finding.text, finding.advice) == (T0, "temperature_celsius 101 celsius", "ours")


def test_it_is_over_only_when_no_reading_has_said_so_for_clear_s() -> None:
    judge = told(Judge(rules(HOT)), *HELD, heat(70, 80.0), heat(99, 80.0))
    assert found(judge, 99)
    assert not found(told(judge, heat(100, 80.0)), 100)


def test_one_good_reading_among_bad_ones_ends_nothing() -> None:
    judge = told(Judge(rules(HOT)), *HELD, heat(70, 80.0), heat(90), heat(101, 80.0), heat(130, 80.0))
    assert found(judge, 130)


def test_a_reading_that_failed_neither_begins_nor_ends_anything() -> None:
    judge = told(Judge(rules(HOT)), heat(0), heat(30, state="failed"), heat(59))
    assert not found(judge, 59)
    told(judge, heat(60), *(heat(60 + 60 * n, state="failed") for n in range(10)))
    assert found(judge, 660)


def test_what_a_gpu_does_not_have_is_over() -> None:
    judge = told(Judge(rules(HOT)), *HELD, heat(70, state="unsupported"), heat(100, state="unsupported"))
    assert not found(judge, 100)


def test_what_nobody_has_read_for_an_hour_is_known_of_no_more() -> None:
    judge = told(Judge(rules(HOT)), *HELD)
    assert found(judge, 60 + UNREAD_S)
    assert not found(judge, 61 + UNREAD_S)


def test_a_good_reading_after_such_an_hour_brings_nothing_back() -> None:
    assert not found(told(Judge(rules(HOT)), *HELD, heat(100 + UNREAD_S, 20.0)), 101 + UNREAD_S)


def test_a_reading_from_before_the_newest_is_not_taken() -> None:
    assert found(told(Judge(rules(HOT)), *HELD, heat(-100, 20.0), heat(-10, 20.0)), 61)


def test_a_clock_that_was_set_back_stops_no_rule() -> None:
    back_s = -2_000_000
    judge = told(Judge(rules(HOT)), *HELD, heat(back_s, 80.0))
    assert found(judge, back_s)[0].since == T0 + back_s
    assert not found(told(judge, heat(back_s + 30, 80.0)), back_s + 30)
    assert found(told(judge, heat(back_s + 40), heat(back_s + 100)), back_s + 100)


def test_a_value_that_is_no_number_is_as_one_that_failed() -> None:
    for value in (float("nan"), float("inf")):
        judge = told(Judge(rules(HOT)), *HELD, heat(90, value), heat(150, value))
        assert [each.text for each in found(judge, 150)] == ["temperature_celsius 95 celsius"]
        assert judge.saved()["levels"][0]["value"] == 95.0


def test_a_finding_shows_what_was_read_when_it_held_last() -> None:
    judge = told(Judge(rules(HOT)), *HELD, heat(70, 80.0))
    assert [each.text for each in found(judge, 71)] == ["temperature_celsius 95 celsius"]


def test_a_share_is_known_once_its_window_is_covered() -> None:
    judge = Judge(rules(SHARE))
    for after_s in range(0, 90, 5):
        judge.take(Sample(T0 + after_s, "clock_sw_thermal", 1.0, GPU))
        assert not found(judge, after_s)
    judge.take(Sample(T0 + 90, "clock_sw_thermal", 1.0, GPU))
    assert found(judge, 90)[0].text == "clock_sw_thermal in 100% of the last 100 s"


def test_a_share_of_readings_with_a_hole_is_not_known() -> None:
    ends = [*range(0, 20, 5), *range(80, 101, 5)]
    judge = told(Judge(rules(SHARE)), *(Sample(T0 + at, "clock_sw_thermal", 1.0, GPU) for at in ends))
    assert not found(judge, 100)
    whole = [*range(0, 20, 5), 35, 60, *range(80, 101, 5)]
    assert found(told(Judge(rules(SHARE)), *(Sample(T0 + at, "clock_sw_thermal", 1.0, GPU) for at in whole)), 100)


def test_a_counter_that_restarts_has_not_grown_and_what_it_grows_after_that_counts() -> None:
    values = [(0, 1000.0), (15, 3.0), (30, 12.0)]
    judge = told(Judge(rules(GROWS)), *(Sample(T0 + at, "pcie_replays", value, GPU) for at, value in values))
    assert not found(judge, 30)
    judge.take(Sample(T0 + 45, "pcie_replays", 13.0, GPU))
    assert found(judge, 45)[0].text == "pcie_replays grew by 10 within 60 s"


@pytest.mark.parametrize(("late_s", "seen"), [(0, True), (29, True), (31, False)])
def test_the_baseline_of_a_growth_may_be_half_a_round_older_than_its_time(late_s: float, seen: bool) -> None:
    judge = told(Judge(rules(GROWS)), *(Sample(T0 + at, "pcie_replays", value, GPU) for at, value in [(0, 5.0), (60 + late_s, 15.0)]))
    assert bool(found(judge, 60 + late_s)) is seen


def test_a_dry_run_is_said_and_does_nothing() -> None:
    judge = told(Judge(rules(XID.replace('"note"', '"replace"') + "dry_run = true\n", HOT)), xid(0), *HELD)
    findings = found(judge, 61)
    assert [(each.rule, each.dry_run) for each in findings] == [("hot", False), ("xid", True)]
    assert worst(tuple(findings)) == findings[0]
    assert worst((findings[1],)) is None


def test_the_gravest_finding_is_the_first() -> None:
    judge = told(Judge(rules(HOT, XID.replace('"note"', '"drain"'))), *HELD, xid(70))
    assert [each.rule for each in found(judge, 70)] == ["xid", "hot"]


def test_a_burst_is_one_strike() -> None:
    judge = told(Judge(rules(XID, ESCALATES)), *(xid(n * BURST_S) for n in range(9)))
    (finding,) = found(judge, 9 * BURST_S)
    assert (finding.action, finding.strikes, finding.text) == (Action.NOTE, 1, "XID 43, 9 times")


def test_what_comes_after_a_finding_has_ended_is_a_new_one() -> None:
    judge = told(Judge(rules(XID + "stands_s = 100\n", ESCALATES)), xid(0), xid(50))
    assert not found(judge, 151)
    (finding,) = found(told(judge, xid(500)), 500)
    assert (finding.since, finding.text, finding.strikes) == (T0 + 500, "XID 43", 2)


def test_the_graver_action_stands_as_long_as_its_strikes_count() -> None:
    judge = told(Judge(rules(XID + "stands_s = 60\n", ESCALATES)), xid(0), xid(600), xid(1200))
    for after_s in (1200, 1261, 3600):
        assert [(each.action, each.since) for each in found(judge, after_s)] == [(Action.REPLACE, T0 + 1200)]
    told(judge, xid(1500))
    assert [(each.action, each.since) for each in found(judge, 1500)] == [(Action.REPLACE, T0 + 1200)]
    assert [each.strikes for each in found(judge, 3601)] == [3]
    assert not found(judge, 4201)


def test_strikes_are_counted_per_gpu_and_forgotten_after_their_time() -> None:
    judge = told(Judge(rules(XID, ESCALATES)), xid(0), xid(600), xid(1200, gpu="GPU-1"), xid(1200))
    assert {(each.gpu, each.action, each.strikes) for each in found(judge, 1200)} == {(GPU, "replace", 3), ("GPU-1", "note", 1)}
    assert {(each.gpu, each.action) for each in found(judge, 3601)} == {(GPU, "note"), ("GPU-1", "note")}


def test_resolving_forgets_an_event_and_its_strikes() -> None:
    judge = told(Judge(rules(XID, ESCALATES)), xid(0), xid(600), xid(1200), xid(0, gpu="GPU-1"))
    judge.resolve("xid", GPU)
    assert [each.gpu for each in found(judge, 1300)] == ["GPU-1"]
    assert [(each.gpu, each.strikes) for each in found(told(judge, xid(1400)), 1400)] == [("GPU-1", 1), (GPU, 1)]
    judge.resolve("*", "")
    assert not found(judge, 1500)


def test_what_still_holds_comes_back_after_resolving() -> None:
    judge = told(Judge(rules(HOT)), *HELD)
    judge.resolve("*", "")
    assert not found(judge, 61)
    assert not found(told(judge, heat(70)), 70)
    (finding,) = found(told(judge, heat(130)), 130)
    assert finding.since == T0 + 70


def test_other_rules_keep_what_is_known_under_a_name() -> None:
    judge = told(Judge(rules(HOT, XID)), *HELD, xid(0))
    judge.use(rules(HOT.replace('"note"', '"drain"')))
    assert [(each.rule, each.action) for each in found(judge, 61)] == [("hot", "drain")]
    judge.use(rules(HOT.replace('"hot"', '"warm"')))
    assert not found(judge, 61)
    assert found(told(judge, heat(70), heat(130)), 130)[0].rule == "warm"


def test_a_rule_that_now_judges_another_reading_begins_anew() -> None:
    judge = told(Judge(rules(GROWS)), *(Sample(T0 + at, "pcie_replays", 0.0, GPU) for at in (0, 30)))
    judge.use(rules(GROWS.replace("pcie_replays", "nvlink_crc_errors")))
    assert not found(told(judge, Sample(T0 + 60, "nvlink_crc_errors", 9e9, GPU)), 60)


def test_a_name_that_is_now_of_another_sort_of_rule_keeps_nothing() -> None:
    judge = told(Judge(rules(XID)), xid(0))
    judge.use(rules(HOT.replace('"hot"', '"xid"')))
    assert not found(judge, 1)


def test_it_remembers_so_many_places_and_no_more() -> None:
    judge = Judge(rules(XID))
    for number in range(MOST_PLACES + 50):
        judge.hear(xid(0, gpu=f"PCI:{number:04x}:00:00"))
    assert len(found(judge, 0)) == MOST_PLACES
    judge.resolve("*", "")
    assert len(found(told(judge, xid(1)), 1)) == 1


def test_events_that_no_rule_is_for_are_nothing() -> None:
    judge = told(Judge(rules(XID + "codes = [79]\n")), xid(0, 43), GpuEvent(T0, "sxid", 79, GPU))
    assert not found(judge, 1)
    assert not found(told(Judge(rules()), xid(0), heat(0)), 1)


def test_the_next_time_at_which_something_is_over_is_told() -> None:
    judge = told(Judge(rules(XID + "stands_s = 100\n", HOT)), *HELD, xid(10))
    due = judge.next_due(T0 + 60)
    assert due == pytest.approx(T0 + 110, abs=0.01)
    assert len(judge.findings(T0 + 110)) == 2
    assert [each.rule for each in judge.findings(due)] == ["hot"]
    due = judge.next_due(due)
    assert due == pytest.approx(T0 + 60 + UNREAD_S, abs=0.01)
    assert judge.findings(due) == ()
    assert judge.next_due(due) is None
