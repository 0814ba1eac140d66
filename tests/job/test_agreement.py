"""Whatever the pace of each rank and whoever wishes something when, all meet at the same steps, soon, and nobody waits alone."""

import random
import threading
import time
from typing import Any

import pytest
from holdfast import agreement
from holdfast.agreement import Rounds, Solo
from holdfast.clock import Clock
from holdfast.peers import Peers
from holdfast.process import Place
from holdfast.rehearsal import rehearse
from hypothesis import given, settings
from hypothesis import strategies as st

PERIOD = 7


@pytest.fixture(autouse=True, scope="module")
def quick_rounds() -> Any:
    before, agreement.ROUND_S = agreement.ROUND_S, 0.003
    yield
    agreement.ROUND_S = before


def loop(peers: Peers, total: int, pace_s: float, seed: int, wishes_at: list[int], stop: int | None = None) -> list[tuple[int, int]]:
    """One rank's loop; its meetings as (step, how many ranks wished something). It wishes at the end of the given steps."""
    chance = random.Random(f"{seed}/{peers.place.rank}")
    wish = threading.Event()
    met: list[tuple[int, int]] = []
    rounds = Rounds(peers.another(), wish.is_set, Clock(), pytest.fail)
    rounds.begin(0, total)
    for step in range(1, total + 1):
        time.sleep(chance.random() * pace_s)
        if step in wishes_at:
            wish.set()
        if rounds.at(step, pace_s / 2) or step % PERIOD == 0 or step == total:
            met.append((step, sum(peers.gather(wish.is_set()))))
            wish.clear()
            rounds.met()
        if step == stop:
            break
    rounds.end()
    return met


plans = st.lists(st.lists(st.integers(1, 40), max_size=3), min_size=2, max_size=4)


@settings(max_examples=25, deadline=None)
@given(plans, st.sampled_from([0.0, 0.001, 0.003]), st.integers(0, 1000))
def test_all_ranks_meet_at_the_same_steps(wishes: list[list[int]], pace_s: float, seed: int) -> None:
    played = rehearse(len(wishes), lambda peers: loop(peers, 40, pace_s, seed, wishes[peers.place.rank]))
    assert all(met == played[0] for met in played)
    steps = [step for step, _ in played[0]]
    assert {*range(PERIOD, 41, PERIOD), 40} <= set(steps), "every fixed meeting is held"
    assert steps == sorted(set(steps)), "and none twice"
    if any(wishes):
        first = min(step for each in wishes for step in each)
        assert any(wished for step, wished in played[0] if first <= step), "no wish is forgotten"


def test_a_wish_is_met_soon_where_steps_take_a_while() -> None:
    """Rank 1 wishes at step 3; within two steps of that all meet, long before the next fixed meeting would be."""
    played = rehearse(3, lambda peers: loop(peers, 6, 0.04, 1, [3] if peers.place.rank == 1 else []))
    assert all(met == played[0] for met in played)
    assert next(step for step, wished in played[0] if wished) in (3, 4, 5)


def test_a_wish_during_a_step_that_takes_unusually_long_is_met_at_its_end() -> None:
    """Some hundred quick steps let the threads expect the next one soon, and then one takes 0.1 s, such as an evaluation."""

    def evaluating(peers: Peers) -> list[int]:
        wish = threading.Event()
        rounds = Rounds(peers.another(), wish.is_set, Clock(), pytest.fail)
        rounds.begin(0, 1000)
        met = []
        for step in range(1, 301):
            if step == 201:
                wish.set()
                time.sleep(0.1)
            if rounds.at(step, 0.0001):
                met.append(step)
                wish.clear()
                rounds.met()
        rounds.end()
        return met

    assert rehearse(2, evaluating) == [[201], [201]]


def test_ranks_that_leave_early_keep_nobody_waiting() -> None:
    played = rehearse(2, lambda peers: loop(peers, 1000, 0.001, 2, [4], stop=12))
    assert played[0] == played[1]
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-agree" and thread.is_alive()]


def test_loops_may_follow_each_other() -> None:
    def twice(peers: Peers) -> int:
        rounds = Rounds(peers.another(), lambda: False, Clock(), pytest.fail)
        for total in (3, 6):
            rounds.begin(total - 3, total)
            for step in range(total - 2, total + 1):
                assert not rounds.at(step, 0.001)
            rounds.end()
        return 1

    assert rehearse(2, twice) == [1, 1]


def test_a_rank_that_is_gone_is_told_and_the_others_train_on() -> None:
    class Broken:
        place = None

        def highest(self, values: list[int]) -> list[int]:
            raise RuntimeError("Connection closed by peer")

    told: list[str] = []
    rounds = Rounds(Broken(), lambda: False, Clock(), told.append)  # type: ignore[arg-type]
    rounds.begin(0, 100)
    assert not any(rounds.at(step, 0.0) for step in range(1, 50))
    rounds.end()
    assert told == ["the ranks no longer agree on saves, since one is gone: RuntimeError: Connection closed by peer"]


def test_a_lone_process_looks_at_most_every_20_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "LOOK_S", 0.02)
    now, looks = [0.0], []

    def wishes() -> bool:
        looks.append(now[0])
        return now[0] > 0.5

    solo = Solo(wishes, Clock(monotonic=lambda: now[0]))
    solo.begin(0, 10_000)
    met = []
    for step in range(1, 1001):
        now[0] = step / 1000
        if solo.at(step, 0.001):
            met.append(step)
    assert 500 < met[0] <= 521
    assert len(looks) <= 52


class Line:
    """Two ranks that always say the same; while they choose a step, a meeting of an earlier one comes to its end."""

    place = Place(0, 2)

    def __init__(self) -> None:
        self.rounds: Rounds
        self.chosen = threading.Event()

    def highest(self, values: list[int]) -> list[int]:
        if len(values) == 1:
            self.rounds.met()
            self.chosen.set()
        return values


def test_a_step_that_is_chosen_during_another_meeting_stays_chosen() -> None:
    line, faults = Line(), []
    line.rounds = Rounds(line, lambda: True, Clock(monotonic=lambda: 0.0), faults.append)  # type: ignore[arg-type]
    line.rounds.begin(0, 1000)
    assert line.chosen.wait(5)
    assert [step for step in range(1, 66) if line.rounds.at(step, 0.0)] == [64]
    line.rounds.end()
    assert faults == []


def test_the_end_of_a_meeting_and_a_choice_at_the_same_moment() -> None:
    """`met` looks whether a later step was chosen, and lets go, under one hold of the lock: nothing can come in between."""
    rounds = Rounds(Line(), lambda: False, Clock(), pytest.fail)  # type: ignore[arg-type]
    held: list[bool] = []
    disarm = rounds._disarm

    def watched() -> None:
        held.append(rounds._lock.locked())
        disarm()

    rounds._disarm = watched  # type: ignore[method-assign]
    rounds.met()
    assert held == [True]
