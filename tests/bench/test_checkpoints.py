"""`bench/checkpoint`: its parts measure what they say, its arithmetic pairs what belongs together, and a missed target is one."""

import argparse
import io

import pytest
from rich.console import Console

from bench import checkpoints, checkpoints_figures, checkpoints_tables, checkpoints_uploads
from bench.checkpoints_loads import FRESH
from bench.checkpoints_model import ALONE
from bench.checkpoints_rank import run_ranks
from bench.checkpoints_saves import ASYNC, BLOCKING, HOLDFAST, PLAIN, SYNC, WAYS, turns

pytestmark = [pytest.mark.torch, pytest.mark.timeout(150)]


def saved(way, number, blocked_s, total_s=None, repeat=0):
    row = {"way": way, "round": number, "repeat": repeat, "blocked_s": blocked_s}
    row |= {} if total_s is None else {"total_s": total_s}
    return row | ({"reported_s": blocked_s} if way == HOLDFAST else {})


def rows(late_s=0.1):
    found = [saved(HOLDFAST, 1, 0.4, 2.0), saved(ASYNC, 1, 1.0, 3.0), saved(HOLDFAST, 2, 0.2, 2.0), saved(ASYNC, 2, 0.5, 3.0)]
    for number in (5, 6):
        found += [saved(HOLDFAST, number, late_s, 1.0), saved(ASYNC, number, 0.2, 2.0), saved(PLAIN, number, 0.08)]
        found.append(saved(SYNC, number, 1.0, 1.0))
    return found


def test_ratios_are_of_the_same_round_and_decide():
    found = checkpoints_figures.saves(rows(), 1024**3)
    medians = {name: value["median"] for name, value in found["ratios"].items()}
    assert medians == pytest.approx(
        {
            "blocked, save 1 / async": 0.4,
            "blocked, save 2 / async": 0.4,
            "blocked, from save 5 / async": 0.5,
            "blocked, from save 5 / plain copy": 1.25,
            "end to end / dcp.save": 1.0,
        }
    )
    judged = checkpoints_figures.judged({"saves": {"one rank": found}, "loads": {}, "steps": {}})
    assert set(checkpoints_figures.met(judged).values()) == {True}
    slow = checkpoints_figures.saves(rows(late_s=0.13), 1024**3)
    met = checkpoints_figures.met(checkpoints_figures.judged({"saves": {"one rank": slow}, "loads": {}, "steps": {}}))
    assert [name for name, good in met.items() if not good] == ["blocked, from save 5 / plain copy: one rank"]


def test_an_upload_is_held_against_the_best_client_and_has_a_least():
    sent = [
        {"client": name, "round": number, "mib_s": speed}
        for number in (1, 2)
        for name, speed in ((checkpoints_uploads.HOLDFAST, 70.0), ("a", 80.0), ("b", 100.0))
    ]
    found = checkpoints_figures.uploads(sent)
    assert (found["best"], found["ratio"]["median"]) == ("b", 0.7)
    judged = checkpoints_figures.judged({"saves": {}, "loads": {}, "steps": {}, "uploads": found})
    assert checkpoints_figures.met(judged) == {"upload / raw client's best: one rank": False}


def test_a_step_costs_what_is_between_bodies_and_what_other_threads_take_on_the_slowest_rank():
    def stretches(between, threads):
        found = []
        for pair in range(3):
            common = {"step": "busy", "pair": pair}
            found.append({**common, "way": "bare", "us": 1000.0 + 50 * pair, "threads_us": 1.0})
            found.append({**common, "way": "run", "us": 1007.0 + 50 * pair, "between_us": between, "threads_us": threads + 1.0})
        return found

    found = checkpoints_figures.steps([stretches(5.0, 5.0), stretches(12.0, 18.0)])
    assert found["busy"]["direct_us"]["median"] == pytest.approx(30.0)
    assert (found["busy"]["paired_mean_us"], found["busy"]["paired_error_us"]) == (pytest.approx(7.0), 0.0)
    judged = checkpoints_figures.judged({"saves": {}, "loads": {}, "steps": {"2 ranks": found}})
    assert checkpoints_figures.met(judged) == {"run.steps, excess us a step: 2 ranks, busy": False}


def test_training_waits_for_the_slowest_rank():
    merged = checkpoints_figures.slowest([[saved(SYNC, 3, 1.0, 1.0)], [saved(SYNC, 3, 0.5, 2.0)]])
    assert (merged[0]["blocked_s"], merged[0]["total_s"], merged[0]["round"]) == (1.0, 2.0, 3)


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="nothing"):
        checkpoints_figures.spread([])


def test_everybody_saves_first_at_some_time_and_only_the_compared_in_the_first_rounds():
    assert {turns(1, repeat)[0] for repeat in range(3)} == set(BLOCKING)
    assert {turns(number, 0)[0] for number in range(3, 3 + len(WAYS))} == set(WAYS)
    assert sorted(turns(5, 1)) == sorted(WAYS)


@pytest.mark.long
def test_saves_are_measured(tmp_path):
    (rank,) = run_ranks("saves", tmp_path / "at", world_size=1, timeout_s=100, kind=ALONE, state_mib=30, rounds=3, repeat=0)
    assert {(row["way"], row["round"]) for row in rank["saves"]} >= {(way, 3) for way in WAYS}
    for row in rank["saves"]:
        assert 0 < row["blocked_s"] <= row.get("total_s", row["blocked_s"]) + 0.002
    ours = [row for row in rank["saves"] if row["way"] == HOLDFAST]
    assert all(row["reported_s"] <= row["blocked_s"] for row in ours)
    assert rank["state_bytes"] >= 30 * 1024 * 1024


def test_a_rank_that_fails_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)exit code 1: .*KeyError.*nonsense"):
        run_ranks("nonsense", tmp_path / "at", world_size=1, timeout_s=100)


@pytest.mark.long
def test_a_checkpoint_is_loaded_verified_and_uploaded(tmp_path):
    settings = {"kind": ALONE, "state_mib": 30, "loads": 1, "cold": False, "in_place": False}
    (rank,) = run_ranks("loads", tmp_path / "at", world_size=1, timeout_s=100, **settings)
    loads = checkpoints_figures.loads(rank["loads"])
    assert loads[FRESH]["ratio"]["count"] == 1
    root = tmp_path / "at" / "holdfast"
    sent = checkpoints_figures.uploads(checkpoints_uploads.uploads(root, tmp_path / "server", 1))
    assert sent["ratio"]["median"] > 0
    verified = checkpoints_figures.verifications(checkpoints_uploads.verifications(root, 1))
    figures = {
        "saves": {ALONE: {**checkpoints_figures.saves(rows(), 1024**3), "state_mib": 1.0, "share_mib": 1.0}},
        "memory": {ALONE: {SYNC: {"added_mib": 5.0, "state_mib": 10.0}}},
        "loads": {ALONE: loads},
        "steps": {},
        "uploads": sent,
        "verifications": verified,
    }
    figures["judged"] = checkpoints_figures.judged(figures)
    figures["targets_met"] = {**checkpoints_figures.met(figures["judged"]), "end to end / dcp.save: one rank": False}
    text = io.StringIO()
    checkpoints_tables.show({**figures, "setup": {"machine": "2 cores"}}, Console(file=text, width=200))
    for wanted in ("MISSED", "met", "5 (0.50)", "obstore, 8 MiB x 4", "holdfast checkpoint verify, s", "machine: 2 cores"):
        assert wanted in text.getvalue()


def test_parts_that_do_not_exist_are_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="parts are saves"):
        checkpoints._parts("saves,hopes")
