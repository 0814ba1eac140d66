"""How long is trained between two checkpoints."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from holdfast import history
from holdfast.history import Losses, Save
from holdfast.interval import (
    DEFAULT_S,
    LEAST_S,
    MOST_OVERHEAD,
    MOST_S,
    Auto,
    Every,
    choose_s,
    daly_s,
    least_s,
    missed_mtbf_s,
    missed_share,
    young_s,
)
from hypothesis import given, settings
from hypothesis import strategies as st

HOUR = 3600.0


def test_every_is_auto_seconds_or_steps() -> None:
    assert Every.parse() == Every.parse("auto") == Every(auto=True)
    assert Every.parse(300) == Every.parse(every_s=300.0) == Every(300.0)
    assert Every.parse(every_steps=50) == Every(steps=50), "steps alone: no time"
    assert Every.parse("auto", every_steps=50) == Every(steps=50, auto=True)
    assert Every.parse(60, every_steps=50) == Every(60.0, 50)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"every": "5min"}, ValueError),
        ({"every": 0}, ValueError),
        ({"every": -1.0}, ValueError),
        ({"every": math.nan}, ValueError),
        ({"every_s": math.inf}, ValueError),
        ({"every": True}, TypeError),
        ({"every": [1]}, TypeError),
        ({"every": 5, "every_s": 5}, ValueError),
        ({"every_steps": 0}, ValueError),
        ({"every_steps": 2.5}, TypeError),
        ({"every_steps": True}, TypeError),
    ],
)
def test_what_cannot_be_an_interval_is_refused(wrong: dict[str, Any], fault: type[Exception]) -> None:
    with pytest.raises(fault, match="every"):
        Every.parse(**wrong)


def test_the_numbers_of_the_facts() -> None:
    assert young_s(0.8, HOUR) / 60 == pytest.approx(1.26, abs=0.01)
    assert daly_s(10.0, 6 * HOUR) / 60 == pytest.approx(10.9, abs=0.1)
    assert daly_s(60.0, HOUR) / 60 == pytest.approx(10.3, abs=0.1)
    assert daly_s(10 * HOUR, HOUR) == HOUR


def lost_share(interval_s: float, stall_s: float, lives_s: list[float]) -> float:
    """Replay lives of a run: the share of all time in which nothing was done that lasts."""
    done_s = sum(math.floor(life_s / (interval_s + stall_s)) * interval_s for life_s in lives_s)
    return 1.0 - done_s / sum(lives_s)


@pytest.mark.parametrize(("stall_s", "mtbf_s"), [(0.05, 2 * HOUR), (0.8, 10 * HOUR), (3.0, HOUR), (10.0, 6 * HOUR), (30.0, 40 * HOUR)])
def test_it_is_within_a_few_percent_of_the_best_for_exponential_failures(stall_s: float, mtbf_s: float) -> None:
    draw = random.Random(5)
    lives_s = [draw.expovariate(1.0 / mtbf_s) for _ in range(20_000)]
    chosen_s = choose_s(stall_s, 0.0, mtbf_s)
    grid_s = [young_s(stall_s, mtbf_s) * 1.15**power for power in range(-12, 13)]
    best = min(lost_share(interval_s, stall_s, lives_s) for interval_s in grid_s)
    mine = lost_share(chosen_s, stall_s, lives_s)
    if LEAST_S < chosen_s < MOST_S and chosen_s > least_s(stall_s, 0.0):
        assert mine <= best * 1.03, "of what is lost"
    assert (1.0 - best) / (1.0 - mine) < 1.02, "of the whole run's time, where a bound holds, too"
    assert lost_share(chosen_s * 4, stall_s, lives_s) > mine, "the replay tells good from bad"


def test_dalys_form_is_the_better_one_where_the_stall_is_not_small() -> None:
    draw = random.Random(7)
    lives_s = [draw.expovariate(1.0 / HOUR) for _ in range(100_000)]
    for stall_s in (300.0, 900.0):
        assert lost_share(daly_s(stall_s, HOUR), stall_s, lives_s) < lost_share(young_s(stall_s, HOUR), stall_s, lives_s)


stalls = st.floats(1e-3, 1e4)
hazards = st.floats(0, 1e6)
shares = st.floats(0, 1)


@given(stalls, stalls, hazards, hazards, shares, st.integers(1, 4096), st.floats(0, 1e5))
def test_it_grows_with_the_stall_and_shrinks_with_the_hazard(
    stall_a: float, stall_b: float, hazard_a: float, hazard_b: float, share: float, nodes: int, background_s: float
) -> None:
    small, large = sorted((stall_a, stall_b))
    calm, risky = (missed_mtbf_s(hazard, nodes, share) for hazard in sorted((hazard_a, hazard_b)))
    assert choose_s(small, background_s, calm) <= choose_s(large, background_s, calm) * (1 + 1e-9)
    assert choose_s(small, background_s, risky) <= choose_s(small, background_s, calm) * (1 + 1e-9)


@given(st.none() | stalls, st.floats(0, 1e5), st.none() | hazards, shares, st.integers(0, 4096))
def test_its_bounds_hold(stall_s: float | None, background_s: float, hazard: float | None, share: float, nodes: int) -> None:
    chosen_s = choose_s(stall_s, background_s, missed_mtbf_s(hazard, nodes, share))
    assert LEAST_S <= chosen_s <= max(MOST_S, least_s(stall_s or 1.0, background_s))
    assert chosen_s >= background_s
    if stall_s is not None:
        assert stall_s / (chosen_s + stall_s) <= MOST_OVERHEAD * (1 + 1e-9)


def test_without_a_hazard_it_is_what_it_always_was_unless_saves_are_too_dear_for_that() -> None:
    auto = Auto()
    assert auto.interval_s(None) == DEFAULT_S
    auto.learn(0.2, 5.0)
    assert auto.interval_s(None) == DEFAULT_S
    for _ in range(5):
        auto.learn(60.0, 5.0)
    assert auto.interval_s(None) == pytest.approx(60 * 19)


def test_a_job_of_n_nodes_is_lost_n_times_as_often_and_only_what_is_missed_counts() -> None:
    one, hundred = Auto(), Auto()
    for auto in (one, hundred):
        auto.learn(5.0)
    assert one.interval_s(0.08) == MOST_S, "one loss in 125 hours goes unsaved"
    assert hundred.interval_s(0.2, nodes=100) == pytest.approx(daly_s(5.0, 1800.0))
    assert missed_mtbf_s(0.0, 1, 0.1) == pytest.approx(5000 * HOUR), "machines fail unannounced, too"


def test_which_losses_are_missed() -> None:
    assert missed_share(Losses(), "spot", 120.0, 20.0) == pytest.approx(0.1)
    assert missed_share(Losses(saved=15), "spot", 120.0, 20.0) == pytest.approx(0.025)
    assert missed_share(Losses(missed=5), None, None, None) == pytest.approx(0.55)
    assert missed_share(Losses(saved=15), "spot", 30.0, 28.0) == 1.0, "the save does not fit the notice"
    assert missed_share(Losses(saved=15), "on_demand", 120.0, 1.0) == 1.0, "nobody announces it"


def test_it_does_not_flap_and_gives_way_at_once_where_saves_have_become_slow() -> None:
    auto = Auto()
    auto.learn(1.0)
    first = auto.interval_s(2.0, nodes=10)
    assert first == auto.interval_s(2.4, nodes=10) == auto.interval_s(1.7, nodes=10)
    second = auto.interval_s(4.0, nodes=10)
    assert second == pytest.approx(daly_s(1.0, 900.0))
    auto.learn(1.0, second * 0.88)
    assert auto.interval_s(4.0, nodes=10) == pytest.approx(second * 1.1)


def test_one_odd_save_does_not_count() -> None:
    auto = Auto()
    for stall_s in (5.0, 5.0, 90.0, 5.0, 5.0):
        auto.learn(stall_s)
    assert auto.interval_s(2.0, nodes=10) == pytest.approx(daly_s(5.0, 1800.0))


def lines(*events: tuple[int, str, dict[str, Any]]) -> list[bytes]:
    return [json.dumps({"v": 1, "job_id": "7", "attempt": attempt, "event": event, **keys}).encode() for attempt, event, keys in events]


SAVED = {"ok": True, "bytes": 100, "seconds": 2.5}
STORY = lines(
    (0, "first_step_done", {}),
    (0, "save_ended", SAVED),
    (0, "notice_seen", {}),
    (0, "parked", {"step": 9}),  # made it
    (1, "first_step_done", {}),  # killed without a word
    (2, "resumed", {}),  # broken before it trained: nothing to lose
    (3, "parked", {"step": 20}),
    (3, "unparked", {"step": 20}),  # and then killed
    (4, "parked", {"step": 30, "steps_lost": 4}),  # in time, but by an older checkpoint
    (5, "first_step_done", {}),
    (5, "save_ended", {"ok": False, "bytes": None, "seconds": 1.0}),
    (5, "done", {}),  # ended well
    (6, "save_ended", {**SAVED, "bytes": 200}),  # the present one
)


def test_earlier_attempts_tell_how_runs_are_lost() -> None:
    found = history.parse(STORY, "7", 6)
    assert found.losses == Losses(saved=1, missed=3)
    assert found.saves == (Save(100, 2.5), Save(200, 2.5))


rubbish = st.binary(max_size=80) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda x: json.dumps(x).encode())


@given(st.lists(rubbish, max_size=5))
@settings(max_examples=30)
def test_lines_that_are_none_are_passed_over(odd: list[bytes]) -> None:
    assert history.parse([*odd, *STORY, *odd], "7", 6) == history.parse(STORY, "7", 6)


def test_values_of_wrong_types_are_passed_over() -> None:
    odd = lines((0, "save_ended", {"ok": True, "bytes": "many", "seconds": 1}), (0, "save_ended", {"ok": True, "bytes": 1, "seconds": -1}))
    assert history.parse([*odd, b'{"job_id": 7, "attempt": 0}', b'{"job_id": "7", "attempt": true}'], "7", 6).saves == ()


def test_only_the_end_of_a_long_timeline_is_read(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    assert history.read(path, "7", 6) == history.History()
    path.write_bytes(b"\n".join(lines((0, "parked", {}), (1, "parked", {}))))
    assert history.read(path, "7", 6).losses == Losses(saved=2)
    path.write_bytes(b"\n".join(STORY) + b"\n")
    assert history.read(path, "7", 6) == history.parse(STORY, "7", 6)
    path.write_bytes(b"\n".join(lines((0, "first_step_done", {"pad": "x" * history.TAIL_BYTES}), (1, "parked", {}))))
    assert history.read(path, "7", 6).losses == Losses(saved=1)
