"""What is saved when a notice names a deadline."""

from dataclasses import replace

import pytest
from holdfast.budget import Action, InFlight, Situation, choose
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
BASE = Situation(now=NOW, deadline=NOW + 33, step=1000, saved_step=900, full_s=20.0, step_s=0.5)
FLIGHT = InFlight(step=980, durable_s=12.0, free_s=12.0)


def test_a_full_save_that_fits_is_made_also_where_one_in_flight_is_waited_for() -> None:
    assert choose(BASE).action is Action.FULL
    waited = choose(replace(BASE, in_flight=FLIGHT, deadline=NOW + 36))
    assert (waited.action, waited.expected_s, waited.steps_lost) == (Action.FULL, 32.0, 0)
    assert waited.why == "a full save: 32.0 s of the 33.0 s that are left"


def test_what_is_saved_stands_also_in_the_last_seconds() -> None:
    late = replace(BASE, now=NOW + 31.0, full_s=30.0)
    choice = choose(late)
    assert (choice.action, choice.steps_lost) == (Action.KEEP, 100)


def test_otherwise_what_loses_fewest_steps_and_fits() -> None:
    short = replace(BASE, full_s=40.0)
    kept = choose(short)
    assert (kept.action, kept.steps_lost, kept.expected_s) == (Action.KEEP, 100, 0.0)
    assert kept.why == (
        "the checkpoint of step 900 stands, 100 steps lost (50 s of training): a full save takes 40.0 s of the 30.0 s that are left"
    )
    finished = choose(replace(short, in_flight=FLIGHT))
    assert (finished.action, finished.steps_lost) == (Action.FINISH, 20)
    partial = choose(replace(short, in_flight=FLIGHT, partial_s=15.0))
    assert (partial.action, partial.steps_lost, partial.expected_s) == (Action.PARTIAL, 0, 27.0)
    assert choose(replace(short, in_flight=FLIGHT, partial_s=18.5)).action is Action.FINISH, "it would have to wait for the one in flight"


def test_of_two_that_lose_the_same_the_cheaper() -> None:
    same = InFlight(step=900, durable_s=12.0, free_s=12.0)
    assert choose(replace(BASE, full_s=40.0, in_flight=same)).action is Action.KEEP


def test_the_step_in_hand_is_not_saved_twice() -> None:
    assert choose(replace(BASE, saved_step=1000)).action is Action.KEEP
    assert choose(replace(BASE, saved_step=1000, deadline=None)).action is Action.KEEP
    flight = InFlight(step=1000, durable_s=12.0, free_s=12.0)
    assert choose(replace(BASE, in_flight=flight)).action is Action.FINISH
    late = replace(flight, durable_s=60.0, free_s=60.0)
    assert choose(replace(BASE, in_flight=late)).action is Action.KEEP
    assert choose(replace(BASE, in_flight=late, saved_step=None)).action is Action.FINISH, "it may still make it, and nothing else can"


@pytest.mark.parametrize(
    "situation",
    [
        replace(BASE, deadline=None, full_s=1e6),
        replace(BASE, full_s=None),
        replace(BASE, full_s=1e6, parks=False, partial_s=1.0, in_flight=FLIGHT),
        replace(BASE, full_s=1e6, saved_step=None),
    ],
    ids=["no deadline", "bandwidth unknown", "advice only", "nothing else can be had"],
)
def test_a_full_save_is_tried(situation: Situation) -> None:
    assert choose(situation).action is Action.FULL


def test_a_save_that_usually_fits_is_tried_where_much_would_be_lost() -> None:
    slow = replace(BASE, full_s=40.0, likely_s=10.0)
    tried = choose(slow)
    assert (tried.action, tried.steps_lost) == (Action.FULL, 100)
    assert choose(replace(slow, step_s=0.05)).action is Action.KEEP, "5 s of training are not worth the wait"
    assert choose(replace(slow, likely_s=31.0)).action is Action.KEEP
    assert choose(replace(slow, partial_s=20.0)).action is Action.PARTIAL


seconds = st.floats(0, 300)
flights = st.none() | st.builds(
    lambda step, free, more: InFlight(step, free + more, free), step=st.integers(0, 100), free=seconds, more=st.just(0.0) | seconds
)
situations = st.builds(
    Situation,
    now=st.just(NOW),
    deadline=st.none() | st.floats(NOW - 10, NOW + 300),
    step=st.just(100),
    saved_step=st.none() | st.integers(0, 100),
    full_s=st.none() | seconds,
    likely_s=st.none(),
    partial_s=st.none() | seconds,
    in_flight=flights,
    step_s=st.none() | st.floats(0, 10),
)


def feasible(it: Situation) -> dict[Action, tuple[int, float]]:
    """What makes it, by hand: action → steps lost, seconds."""
    wait_s = it.in_flight.free_s if it.in_flight else 0.0
    options: dict[Action, tuple[int, float]] = {}
    for action, took_s in ((Action.FULL, it.full_s), (Action.PARTIAL, it.partial_s)):
        if took_s is not None:
            options[action] = (0, wait_s + took_s)
    if it.in_flight:
        options[Action.FINISH] = (100 - it.in_flight.step, it.in_flight.durable_s)
    if it.saved_step is not None:
        options[Action.KEEP] = (100 - it.saved_step, 0.0)
    return {action: option for action, option in options.items() if option[1] <= it.window_s}


@given(situations)
def test_nothing_that_cannot_make_it_is_chosen_where_something_can_and_no_more_steps_are_lost_than_must(it: Situation) -> None:
    choice, options = choose(it), feasible(it)
    if it.full_s is None or not options:
        assert choice.action in {Action.FULL, Action.KEEP, Action.FINISH}
        return
    if choice.action is Action.KEEP and choice.steps_lost == 0:
        return  # saved already
    assert choice.action in options
    assert (choice.steps_lost, choice.expected_s) == options[choice.action]
    assert choice.steps_lost == min(lost for lost, _ in options.values())
    if Action.FULL in options and not (it.in_flight and it.in_flight.step == 100):
        assert choice.action is Action.FULL


@given(situations, st.floats(0, 300), st.none() | seconds)
def test_with_more_time_no_more_is_lost(it: Situation, more_s: float, likely_s: float | None) -> None:
    if it.deadline is None:
        return
    short = replace(it, likely_s=None if likely_s is None or it.full_s is None else min(likely_s, it.full_s))
    long = replace(short, deadline=it.deadline + more_s)
    assert choose(long).steps_lost <= choose(short).steps_lost
    assert choose(replace(short, deadline=None)).steps_lost <= choose(long).steps_lost


@given(situations, seconds)
def test_advice_never_leads_to_anything_but_a_full_save(it: Situation, likely_s: float) -> None:
    choice = choose(replace(it, parks=False, likely_s=likely_s))
    assert choice.action is Action.FULL or choice.steps_lost == 0
    assert choice.action is not Action.PARTIAL
