"""When the next periodic save is due: after so many seconds, at every so-many-th step, or as stall and hazard advise."""

from collections.abc import Callable

from holdfast.history import NONE, Losses
from holdfast.interval import Auto, Every
from holdfast.jobdir import Context

LOOK_S = 60.0
"""How often the node's hazard is looked at between two saves."""


class Schedule:
    """Seconds count from the end of the last save's stall. `context` gives what the node's agent last wrote, or None."""

    def __init__(self, every: Every, context: Callable[[], Context | None] = lambda: None) -> None:
        self.every = every
        self._context = context
        self._auto = Auto()
        self._from, self._due_at, self._look_at = 0.0, 0.0, 0.0
        self._save_s: float | None = None

    def begin(self, now: float, losses: Losses = NONE) -> None:
        """The loop begins; `losses` is what earlier attempts saw."""
        self._auto = Auto(losses)
        self._from = now
        self._plan(now)

    def at_period(self, step: int) -> bool:
        """Whether a save is due after so many steps; the same on all ranks."""
        return self.every.steps is not None and step > 0 and step % self.every.steps == 0

    def due(self, now: float) -> bool:
        """Whether a save is due by this rank's clock."""
        if self.every.auto and now >= self._look_at:
            self._plan(now)
        return now >= self._due_at

    def saved(self, began: float, stall_s: float, seconds: float) -> None:
        """A save that began then is complete: training stood still for `stall_s` of its `seconds`."""
        self._auto.learn(stall_s, max(0.0, seconds - stall_s))
        self._save_s = seconds
        self._from = began + stall_s
        self._plan(began + seconds)

    def failed(self, now: float, retry_s: float) -> None:
        """A save has failed: the next is due sooner."""
        self._from = now
        self._due_at = self._look_at = now + retry_s

    def _plan(self, now: float) -> None:
        self._look_at = now + LOOK_S
        if self.every.auto:
            self._due_at = self._from + self._advised_s()
        else:
            self._due_at = float("inf") if self.every.seconds is None else self._from + self.every.seconds

    def _advised_s(self) -> float:
        context = self._context()
        if context is None:
            return self._auto.interval_s(None, save_s=self._save_s)
        return self._auto.interval_s(
            context.hazard_per_h,
            nodes=max(1, len(context.nodes)),
            market=context.market,
            window_s=context.window_s,
            save_s=self._save_s,
        )
