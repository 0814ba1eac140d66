"""What a judge keeps over a restart of the agent."""

import copy
import json
from typing import Any

import pytest
from health_sequences import GPU, T0, told
from holdfast_common.health.judge import Judge
from holdfast_common.health.model import GpuEvent, Sample
from holdfast_common.health.rules import default_rules, parse_rules
from hypothesis import given
from hypothesis import strategies as st

HOT = [Sample(T0 + after_s, "temperature_celsius", 99.0, GPU) for after_s in (0, 300, 600)]
SLOW = [Sample(T0 + 5 * n, "clock_sw_thermal", 1.0, GPU) for n in range(120)]
XIDS = [GpuEvent(T0 + 300 * n, "xid", 94, GPU, "NVRM: …", job_id=7) for n in range(4)]
NOW = T0 + 901


def judge(*entries: Sample | GpuEvent) -> Judge:
    return told(Judge(default_rules()), *entries)


def again(saved: dict[str, Any]) -> Judge:
    after = judge()
    assert after.restore(json.loads(json.dumps(saved)))
    return after


def test_findings_stand_after_a_restart() -> None:
    before = judge(*HOT, *SLOW, *XIDS)
    after = again(before.saved())
    assert after.findings(NOW) == before.findings(NOW)
    assert {each.rule for each in after.findings(NOW)} >= {"hot", "throttling-sw-thermal", "xid-contained"}
    assert after.saved() == before.saved()


def test_a_restored_finding_stands_until_a_reading_says_otherwise() -> None:
    after = again(judge(*HOT).saved())
    told(after, Sample(T0 + 610, "temperature_celsius", None, GPU, "failed"))
    assert after.findings(T0 + 620)
    told(after, *(Sample(T0 + at, "temperature_celsius", 50.0, GPU) for at in (630, 660)))
    assert not after.findings(T0 + 660)


def test_what_has_held_for_a_part_of_its_time_goes_on() -> None:
    assert told(again(judge(*HOT[:2]).saved()), HOT[2]).findings(T0 + 600)


def test_strikes_go_on() -> None:
    after = told(again(judge(*XIDS).saved()), GpuEvent(T0 + 1200, "xid", 94, GPU))
    assert [(each.action, each.strikes) for each in after.findings(T0 + 1201)] == [("drain", 5)]


def test_what_rules_no_longer_know_is_left_out() -> None:
    after = Judge(parse_rules("version = 1"))
    assert after.restore(judge(*HOT, *XIDS).saved())
    assert after.findings(NOW) == ()
    assert after.saved() == Judge(default_rules()).saved()


BROKEN: dict[str, Any] = {
    "another version": {"version": 2},
    "no version": {"version": None},
    "a key too many": {"more": 1},
    "no list": {"blows": {"rule": "xid-79"}},
    "no number": {"levels": [{"rule": "hot", "gpu": GPU, "since": "yesterday"}]},
    "no time that there is": {"levels": [{"rule": "hot", "gpu": GPU, "since": float("nan")}]},
    "a long name": {"strikes": [{"rule": "x" * 201, "gpu": GPU, "times": []}]},
    "too many": {"blows": [{"rule": "xid-79", "gpu": str(n), "first_at": 0, "last_at": 0, "count": 1, "code": 79} for n in range(4097)]},
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_ours_is_refused_as_a_whole(what: str) -> None:
    saved = copy.deepcopy(judge(*HOT).saved()) | BROKEN[what]
    after = judge(*XIDS)
    before = after.findings(NOW)
    assert not after.restore(saved)
    assert after.findings(NOW) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rule", "gpu", "at", "since", "times"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["version", "levels", "blows", "strikes", "x"]), JSON | st.just(1), max_size=5))
def test_whatever_is_given_the_judge_goes_on(saved: dict[str, Any]) -> None:
    after = judge(*XIDS)
    after.restore(saved)
    after.findings(NOW)
    told(after, *HOT).saved()
