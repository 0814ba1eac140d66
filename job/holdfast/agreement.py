"""When the ranks meet: at one and the same step, found without stopping any of them.

Each rank has a thread that exchanges wishes with the others' about five times a second, whatever the training does meanwhile
(a long step, an evaluation, a wait in a collective). Once a rank wishes something, the threads choose a step that no
rank has reached yet, and every training loop meets the others at its end. A step costs its loop one lock and one
comparison; nothing here touches a GPU. TensorFlow's and JAX's preemption services choose a step in the same manner.
"""

import math
import threading
from collections.abc import Callable
from typing import Protocol

from holdfast.clock import Clock
from holdfast.peers import Peers

ROUND_S = 0.2
"""Seconds between two exchanges. One costs each rank under a millisecond in a thread of its own."""
LEAD_S = 0.005
"""A meeting is put off by so many seconds' steps: an exchange takes a few milliseconds, in which quick loops go on. A step that
already takes longer is the last before it."""
MAX_LEAD_STEPS = 64
RETRY_S = 0.001
LOOK_S = 0.02
"""How often a lone process looks whether it wishes something."""
LEFT_ALONE_S = 30.0
"""Told after so long: some ranks have left the loop and others have not."""


class Agreement(Protocol):
    """The loop's side: `begin` once, `at` after each step, `met` after each meeting, `end` once."""

    def begin(self, step: int, total: int) -> None:
        """The loop has done `step` steps and will end at `total`."""

    def at(self, step: int, step_s: float) -> bool:
        """Whether all ranks meet now, after `step` steps, of which the last took about `step_s` seconds."""

    def met(self) -> None:
        """The meeting is over."""

    def ask(self) -> None:
        """Something is wished now."""

    def expect(self, total: int) -> None:
        """The loop turns out to end at `total`."""

    def end(self) -> None:
        """The loop was left."""


class Solo:
    """The only process of the run meets itself whenever it wishes something."""

    def __init__(self, wishes: Callable[[], bool], clock: Clock) -> None:
        self._wishes = wishes
        self._clock = clock
        self._look_at = 0.0

    def begin(self, step: int, total: int) -> None:
        """Nothing to prepare."""

    def at(self, step: int, step_s: float) -> bool:
        """Looked at every 20 ms: a look reads the notice file's status."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        return self._wishes()

    def met(self) -> None:
        """Look again at the next step."""
        self._look_at = 0.0

    def ask(self) -> None:
        """Look at the end of this very step."""
        self._look_at = 0.0

    def expect(self, total: int) -> None:
        """Nothing to prepare."""

    def end(self) -> None:
        """Nothing to undo."""


class Rounds:
    """The agreement of several ranks; `line` is for its thread alone. `wishes` is asked from that thread."""

    def __init__(self, line: Peers, wishes: Callable[[], bool], clock: Clock, warn: Callable[[str], None]) -> None:
        self._line = line
        self._wishes = wishes
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()
        self._decided = threading.Event()
        self._released = threading.Event()
        self._reached, self._total = 0, 0
        self._step_s, self._since = 0.0, 0.0
        self._armed: int | None = None
        self._alone_from = math.inf
        self._idle = True
        self._thread: threading.Thread | None = None

    def begin(self, step: int, total: int) -> None:
        """Start exchanging wishes. All ranks begin at the same step with the same total."""
        self.end()  # of an earlier loop that an exception ended; every rank has left it, so its thread ends within a round
        if self._thread is not None:
            self._thread.join()
        self._reached, self._total, self._armed, self._idle = step, total, None, False
        self._since = self._clock.monotonic()
        self._thread = threading.Thread(target=self._exchange, name="holdfast-agree", daemon=True)
        self._thread.start()

    def at(self, step: int, step_s: float) -> bool:
        """Whether this step was chosen; waits where the threads are just choosing it."""
        with self._lock:
            self._reached, self._step_s, self._since = step, step_s, self._clock.monotonic()
            if self._armed != step:
                return False
        self._decided.wait()
        return self._armed == step

    def met(self) -> None:
        """Let the threads go on. A later step that they have chosen meanwhile stays chosen: this was another meeting."""
        with self._lock:
            self._since = self._clock.monotonic()
            if self._armed is None or self._armed <= self._reached:
                self._disarm()

    def _disarm(self) -> None:
        """Under the lock, in one with what it follows from: the thread may choose at any other moment."""
        self._armed = None
        self._released.set()

    def ask(self) -> None:
        """The thread asks by itself."""

    def expect(self, total: int) -> None:
        """No step after `total` is chosen."""
        self._total = total

    def end(self) -> None:
        """Left at the end or by break; the threads stop once all ranks have."""
        with self._lock:
            self._idle = True
            self._disarm()
        if self._thread is not None:
            self._thread.join(timeout=4 * ROUND_S)

    def _exchange(self) -> None:
        """The thread: every rank's does the same exchanges in the same order."""
        lead = 1
        try:
            while True:
                idle = self._idle
                step_s = max(self._step_s, self._clock.monotonic() - self._since)  # the one in hand may be an evaluation
                mine = [int(self._wishes()), self._reached, -self._total, -int(step_s * 1e6), -int(idle), int(idle)]
                wish, reached, total, step_us, all_idle, any_idle = self._line.highest(mine)
                if all_idle == -1:
                    return
                self._notice_those_who_left(bool(any_idle), idle)
                target = reached + max(lead, min(MAX_LEAD_STEPS, int(LEAD_S * 1e6 / max(1, -step_us))))
                if not wish or target > -total:  # the ranks meet at the total anyway
                    lead = 1
                    self._clock.sleep(ROUND_S)
                elif self._choose(target):
                    lead = 1
                else:
                    lead = min(MAX_LEAD_STEPS, 2 * lead)
                    self._clock.sleep(RETRY_S * lead)
        except Exception as fault:  # a rank is gone, and what its group raises depends on the backend
            self._warn(f"the ranks no longer agree on saves, since one is gone: {type(fault).__name__}: {fault}")
        finally:
            with self._lock:
                self._disarm()
            self._decided.set()

    def _notice_those_who_left(self, any_left: bool, left: bool) -> None:
        now = self._clock.monotonic()
        if not any_left or left:
            self._alone_from = now
        elif now - self._alone_from > LEFT_ALONE_S:
            self._alone_from = math.inf
            self._warn(
                "other ranks have left the loop and this one has not: it may wait for them for ever. All ranks must do the same loop"
            )

    def _choose(self, target: int) -> bool:
        """Meet at `target` unless a rank has reached it meanwhile; whether they did."""
        with self._lock:
            late = self._reached >= target or self._idle
            self._decided.clear()
            self._released.clear()
            if not late:
                self._armed = target
        refused = self._line.highest([int(late)])[0]
        if refused:
            with self._lock:
                self._armed = None
        self._decided.set()
        if not refused:
            self._released.wait()
        return not refused
