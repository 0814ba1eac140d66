"""What a job may ask in its comment."""

import pytest
from holdfast_common.errors import ConfigError
from holdfast_slurm.directives import Directives, format_directives, parse_directives
from hypothesis import given
from hypothesis import strategies as st


def test_the_example_of_the_manual() -> None:
    assert parse_directives("holdfast: deadline=36h budget=200 tail=5%") == Directives(
        deadline_s=129_600, budget_usd=200.0, tail_fraction=0.05
    )


@pytest.mark.parametrize(
    "comment", ["", "my run", "see holdfast: deadline=1h", "Holdfast deadline=1h", "(null)", "holdfast:", "holdfast:   "]
)
def test_other_comments_say_nothing(comment: str) -> None:
    assert parse_directives(comment) == Directives()


def test_every_key() -> None:
    text = (
        "holdfast: deadline=2027-01-31T18:00+01:00 budget=$49.50 tail=0% ondemand=when_late signal=B:SIGUSR1@60 exit_code=85 "
        "grace=1m30s checkpoint=off requeues=0"
    )
    assert parse_directives(text) == Directives(
        deadline_at=1_801_414_800.0,
        budget_usd=49.5,
        tail_fraction=0.0,
        ondemand="when_late",
        signal="USR1",
        signal_batch=True,
        signal_before_s=60,
        exit_code=85,
        grace_s=90,
        checkpoint="off",
        requeues=0,
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("dedline=3h", "'dedline' is not a key (did you mean deadline?)"),
        ("frobnicate=1", "'frobnicate' is not a key; known are budget, checkpoint"),
        ("deadline", "'deadline' is not of the form key=value"),
        ("deadline=", "deadline= is not allowed: deadline must be a duration such as 36h"),
        ("deadline=3", "deadline=3 is not allowed"),
        ("deadline=2027-01-31T18:00", "a time with its zone"),
        ("deadline=0h", "deadline=0h is not allowed"),
        ("deadline=99999d", "deadline=99999d is not allowed"),
        ("deadline=1h deadline=2h", "deadline is given twice"),
        ("budget=-3", "budget=-3 is not allowed: budget must be an amount in US dollars above 0"),
        ("budget=nan", "budget=nan is not allowed"),
        ("budget=0", "budget=0 is not allowed"),
        ("tail=5", "tail must be a percentage"),
        ("tail=101%", "tail must be a percentage"),
        ("ondemand=always", "ondemand must be never, when_refused or when_late"),
        ("signal=KILL", "no signal that cannot be caught"),
        ("signal=USR1@", "signal=USR1@ is not allowed"),
        ("exit_code=256", "exit_code must be a whole number from 0 to 255"),
        ("exit_code=\u0661", "exit_code must be a whole number"),
        ("requeues=-1", "requeues must be a whole number"),
        ("checkpoint=on", "checkpoint must be off or auto"),
    ],
)
def test_faults_are_sentences_that_help(words: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_directives(f"holdfast: {words}")
    assert len(caught.value.faults) == 1
    assert says in caught.value.faults[0]


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_directives("holdfast: tail=7 grace=5m budget=x nonsense")
    assert len(caught.value.faults) == 3


def test_it_is_bounded() -> None:
    with pytest.raises(ConfigError, match="at most 1024"):
        parse_directives("holdfast: " + "x" * 1100)


@given(st.text(max_size=1100))
def test_any_text_gives_directives_or_a_config_error(text: str) -> None:
    try:
        directives = parse_directives("holdfast:" + text)
    except ConfigError:
        return
    assert parse_directives(format_directives(directives)) == directives


DURATIONS = st.integers(1, 3650 * 86_400)
DIRECTIVES = st.builds(
    lambda deadline, signal, **rest: Directives(**deadline, **signal, **rest),
    st.one_of(
        st.just({}),
        DURATIONS.map(lambda value: {"deadline_s": value}),
        st.integers(0, 4_000_000_000).map(lambda value: {"deadline_at": float(value)}),
    ),
    st.one_of(
        st.just({}),
        st.builds(
            lambda name, batch, before: {"signal": name, "signal_batch": batch, "signal_before_s": before},
            st.sampled_from(["USR1", "TERM", "HUP"]),
            st.booleans(),
            st.none() | st.integers(0, 99_999),
        ),
    ),
    budget_usd=st.none() | st.integers(1, 100_000_000).map(lambda cents: cents / 100),
    tail_fraction=st.none() | st.integers(0, 100_000).map(lambda value: float(str(value / 1000)) / 100),
    ondemand=st.none() | st.sampled_from(["never", "when_refused", "when_late"]),
    exit_code=st.none() | st.integers(0, 255),
    grace_s=st.none() | DURATIONS,
    checkpoint=st.none() | st.sampled_from(["off", "auto"]),
    requeues=st.none() | st.integers(0, 100_000),
)


@given(DIRECTIVES)
def test_round_trip(directives: Directives) -> None:
    assert parse_directives(format_directives(directives)) == directives
