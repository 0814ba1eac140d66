"""Parked: the state is saved, the process waits to be ended by SIGTERM, whose default action needs no help from us."""

from collections.abc import Callable

from holdfast.clock import Clock
from holdfast.errors import HoldfastError
from holdfast.jobdir import SAVE_AND_PARK, Notice
from holdfast.peers import Peers
from holdfast.watch import Watch

GRACE_S = 60.0
"""So long after the deadline the reclaim has evidently been cancelled."""
ROUND_S = 0.5


def park(peers: Peers, watch: Watch, clock: Clock, ends: float, learnt: Callable[[Notice, float], None]) -> None:
    """Wait to be killed; return, on all ranks alike, a minute after the deadline `ends` (Unix seconds) has passed.

    `learnt` is called with each notice that comes meanwhile; a later deadline prolongs the wait. Ranks meet once a
    round, so that they follow the same deadline and nobody waits long inside a collective. Raises HoldfastError when the
    other ranks are gone and nobody has ended this one either.
    """
    while True:
        watch.wait(ROUND_S)
        ends = _listen(watch, ends, learnt)
        try:
            views = peers.gather((ends, clock.wall()))
        except Exception as fault:  # a peer was killed first: what its group raises depends on the backend
            _outlive(watch, clock, ends)
            raise HoldfastError("parked, the other ranks are gone, and nobody ended this one") from fault
        ends = max(view[0] for view in views)
        if all(now > ends + GRACE_S for _, now in views):
            return


def _listen(watch: Watch, ends: float, learnt: Callable[[Notice, float], None]) -> float:
    """Take in what the notice file says now; the deadline that follows from it."""
    pending = watch.pending()
    if pending is not None:
        watch.handled(pending[0])
        learnt(*pending)
    notice = watch.poll()
    return max(ends, notice.ends) if notice is not None and notice.action == SAVE_AND_PARK else ends


def _outlive(watch: Watch, clock: Clock, ends: float) -> None:
    while clock.wall() <= ends + 2 * GRACE_S:
        watch.wait(ROUND_S)
