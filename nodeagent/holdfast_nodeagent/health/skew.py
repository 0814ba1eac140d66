"""How far this node's clock is from the controller's, from the times at which its messages were sent and came."""

from collections import deque

from holdfast_common.clock import Clock
from holdfast_common.health.model import Sample

WINDOW_S = 300.0
ENOUGH = 3
"""Messages before anything is said: one may have been long on its way."""
MOST = 64
STEP_S = 0.5
"""A clock that was set by more than this makes what was measured before it void."""


class Skew:
    """The difference of two clocks, and how long a message took, can't be told apart; the least difference of several is nearest to it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: deque[tuple[float, float]] = deque(maxlen=MOST)
        self._offset = clock.now() - clock.monotonic()

    def hear(self, sent_at: float) -> None:
        """A message of the controller has just come, which it sent then (Unix seconds, its clock)."""
        self._forget()
        self._heard.append((self._clock.monotonic(), self._clock.now() - sent_at))

    def sample(self) -> Sample | None:
        """Return the reading; None while too little was heard."""
        self._forget()
        if len(self._heard) < ENOUGH:
            return None
        nearest = min(difference for _, difference in self._heard)
        detail = "the node's clock is ahead" if nearest > 0 else "the node's clock is behind"
        return Sample(self._clock.now(), "clock_skew_seconds", abs(nearest), detail=detail)

    def _forget(self) -> None:
        offset = self._clock.now() - self._clock.monotonic()
        if abs(offset - self._offset) > STEP_S:
            self._heard.clear()
            self._offset = offset
        oldest = self._clock.monotonic() - WINDOW_S
        while self._heard and self._heard[0][0] < oldest:
            self._heard.popleft()
