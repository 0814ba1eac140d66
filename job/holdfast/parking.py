"""Parked: the state is saved, the process waits to be ended by SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.jobdir import SAVE_AND_PARK, Notice
from holdfast.peers import Peers
from holdfast.watch import Watch

GRACE_S = 60.0
"""So long after the deadline the reclaim has evidently been cancelled."""
ROUND_S = 0.5


@contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """Have SIGTERM end this process at once, whoever else catches it.

    Lightning's handler waits in a collective that the other ranks may never come to, JAX's lets the process live on; the job would
    then stand until SIGKILL comes, KillWait later. What a user's handler would do belongs into `Run.on_notice`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set one
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        if before is not None:  # else it was a C library's, which Python cannot put back
            signal.signal(signal.SIGTERM, before)


def park(peers: Peers, watch: Watch, clock: Clock, ends: float, learnt: Callable[[Notice, float], None], *, own: bool = False) -> str:
    """Wait to be killed; return why that did not happen, on all ranks alike.

    Either a minute has passed since the deadline `ends` (Unix seconds), or the notice was withdrawn: the file of a rank that had one
    (`own`: this rank acted on its own) is gone, and no other rank has one. `learnt` is called with each notice that comes
    meanwhile; a later deadline prolongs the wait. Ranks meet once a round, so that they follow the same deadline and nobody waits
    long inside a collective. Raises HoldfastError when the other ranks are gone and nobody has ended this one either.
    """
    with _ends_on_sigterm():
        return _wait(peers, watch, clock, ends, learnt, own=own)


def _wait(peers: Peers, watch: Watch, clock: Clock, ends: float, learnt: Callable[[Notice, float], None], *, own: bool) -> str:
    while True:
        watch.wait(ROUND_S)
        mine = _listen(watch, learnt)
        own = own or mine is not None
        try:
            views = peers.gather((mine, own, clock.wall()))
        except Exception as fault:  # a peer was killed first: what its group raises depends on the backend
            _outlive(watch, clock, ends)
            raise HoldfastError("parked, the other ranks are gone, and nobody ended this one") from fault
        standing = [theirs for theirs, _, _ in views if theirs is not None]
        if not standing and any(had for _, had, _ in views):
            return "it was withdrawn"
        ends = max(ends, *standing) if standing else ends
        if all(now > ends + GRACE_S for _, _, now in views):
            return "still alive a minute past its deadline"


def _listen(watch: Watch, learnt: Callable[[Notice, float], None]) -> float | None:
    """Take in what the notice file says now; its deadline, or None where it asks for no parking."""
    pending = watch.pending()
    if pending is not None:
        watch.handled(pending[0])
        learnt(*pending)
    notice = watch.poll()
    return notice.ends if notice is not None and notice.action == SAVE_AND_PARK else None


def _outlive(watch: Watch, clock: Clock, ends: float) -> None:
    while clock.wall() <= ends + 2 * GRACE_S:
        watch.wait(ROUND_S)
