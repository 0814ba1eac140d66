"""What to save when a notice names a deadline: pure, the time is an argument.

A full save whenever it fits. Otherwise, of what fits, that by which the fewest steps are lost: a save of model and optimizer only, the one
in flight, or the newest that is durable already.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MARGIN_S = 3.0
"""Before the deadline: a requeue takes about 2 s, and clocks differ."""


class Action(StrEnum):
    """What may be done."""

    FULL = "full"
    PARTIAL = "partial"
    """Model and optimizer only: no step is lost, but the next attempt takes the rest from the checkpoint before or starts it anew."""
    FINISH = "finish"
    """Wait for the save that is in flight; begin no other."""
    KEEP = "keep"
    """Save nothing: the newest durable checkpoint stands."""


@dataclass(frozen=True)
class InFlight:
    """A save that is being written behind training."""

    step: int
    durable_s: float
    """In so many seconds it is expected to be complete where it outlives the node."""
    free_s: float
    """In so many seconds the next save may begin."""


@dataclass(frozen=True)
class Situation:
    """What is known when the notice is answered. Times are Unix seconds, durations seconds."""

    now: float
    deadline: float | None
    step: int
    """Steps done: what a save that begins now holds."""
    saved_step: int | None = None
    """Of the newest complete checkpoint that outlives the node."""
    full_s: float | None = None
    """From the start of a full save until it is durable, on the slow side (`Estimate.save_s`); None: never measured."""
    likely_s: float | None = None
    """The same, typically."""
    partial_s: float | None = None
    """The same of model and optimizer only, on the slow side; None: there is no such save."""
    in_flight: InFlight | None = None
    step_s: float | None = None
    parks: bool = True
    """Whether the job is asked to stop afterwards; otherwise (advice) it trains on whatever becomes of the save."""
    margin_s: float = MARGIN_S

    @property
    def window_s(self) -> float:
        """Seconds that are left to use; infinite without a deadline."""
        return float("inf") if self.deadline is None else self.deadline - self.margin_s - self.now


@dataclass(frozen=True)
class Choice:
    """What to do, how long it is expected to take (None: not known), and why, in a sentence."""

    action: Action
    steps_lost: int
    """Of a save that is only tried: if it fails."""
    expected_s: float | None
    why: str


@dataclass(frozen=True)
class _Option:
    action: Action
    steps_lost: int
    expected_s: float


def choose(situation: Situation) -> Choice:
    """Decide what to save."""
    window_s, full_s = situation.window_s, _after_flight(situation, situation.full_s)
    choice = _has_it(situation)
    if choice is not None:
        return choice
    if full_s is None:
        lost = 0 if situation.deadline is None or not situation.parks else situation.step - (situation.saved_step or 0)
        return Choice(Action.FULL, lost, None, "a full save: how long one takes is not known yet")
    if full_s <= window_s:
        return Choice(Action.FULL, 0, full_s, f"a full save: {full_s:.1f} s {_of(window_s)}")
    if not situation.parks:
        return Choice(Action.FULL, 0, full_s, f"a full save, early and not urgent: {full_s:.1f} s {_of(window_s)}, and training goes on")
    fitting = [option for option in _others(situation) if option.action is Action.KEEP or option.expected_s <= window_s]
    if not fitting:
        return _last_resort(situation, full_s)
    best = min(fitting, key=lambda option: (option.steps_lost, option.expected_s))
    if _worth_a_try(situation, best):
        why = f"a full save is tried, since most take less than {full_s:.1f} s {_of(window_s)}; if it fails, {_what(situation, best)}"
        return Choice(Action.FULL, best.steps_lost, full_s, why)
    why = f"{_what(situation, best)}: a full save takes {full_s:.1f} s {_of(window_s)}"
    return Choice(best.action, best.steps_lost, best.expected_s, why)


def _last_resort(situation: Situation, full_s: float) -> Choice:
    flight, left = situation.in_flight, _of(situation.window_s)
    if flight is not None and flight.step == situation.step:
        return Choice(
            Action.FINISH, situation.step, flight.durable_s, f"step {flight.step} is being saved: {flight.durable_s:.1f} s {left}"
        )
    return Choice(
        Action.FULL, situation.step, full_s, f"a full save is tried, though it takes {full_s:.1f} s {left}: nothing else is there"
    )


def _has_it(situation: Situation) -> Choice | None:
    """This very step is saved, or about to be: nothing is gained by saving it again."""
    flight, window_s = situation.in_flight, situation.window_s
    if situation.saved_step == situation.step:
        return Choice(Action.KEEP, 0, 0.0, f"step {situation.step} is saved already")
    if flight is not None and flight.step == situation.step and (flight.durable_s <= window_s or not situation.parks):
        return Choice(Action.FINISH, 0, flight.durable_s, f"step {flight.step} is being saved: {flight.durable_s:.1f} s {_of(window_s)}")
    return None


def _after_flight(situation: Situation, seconds: float | None) -> float | None:
    """A save begins when the one in flight has made room."""
    if seconds is None or situation.in_flight is None:
        return seconds
    return max(0.0, situation.in_flight.free_s) + seconds


def _others(situation: Situation) -> Iterator[_Option]:
    partial_s, flight, saved = _after_flight(situation, situation.partial_s), situation.in_flight, situation.saved_step
    if partial_s is not None:
        yield _Option(Action.PARTIAL, 0, partial_s)
    if flight is not None:
        yield _Option(Action.FINISH, max(0, situation.step - flight.step), max(0.0, flight.durable_s))
    if saved is not None:
        yield _Option(Action.KEEP, max(0, situation.step - saved), 0.0)


def _worth_a_try(situation: Situation, best: _Option) -> bool:
    """Whether a full save fits as a rule, and more work would be lost without it than the wait for it.

    What else fits is not lost by trying: a full save waits for the one in flight, and no checkpoint goes before it is complete.
    """
    likely_s = _after_flight(situation, situation.likely_s)
    if likely_s is None or situation.step_s is None or likely_s > situation.window_s:
        return False
    return best.steps_lost * situation.step_s > likely_s


def _what(situation: Situation, option: _Option) -> str:
    what = {
        Action.PARTIAL: f"model and optimizer only, {option.expected_s:.1f} s",
        Action.FINISH: f"the save in flight is finished, {option.expected_s:.1f} s",
        Action.KEEP: f"the checkpoint of step {situation.saved_step} stands",
    }[option.action]
    return f"{what}, {_lost(option.steps_lost, situation.step_s)}"


def _lost(steps: int, step_s: float | None) -> str:
    if not steps:
        return "no step lost"
    took = f" ({steps * step_s:.0f} s of training)" if step_s is not None else ""
    return f"{steps} step{'s' if steps > 1 else ''} lost{took}"


def _of(window_s: float) -> str:
    return "without a deadline" if window_s == float("inf") else f"of the {max(0.0, window_s):.1f} s that are left"
