"""NVML and the kernel's log tell of the same XID: it counts once."""

from collections import deque

from holdfast_common.health.model import GpuEvent

SAME_S = 5.0
"""Two sources that tell the same within this time mean the same."""
MOST = 1024


class Dedupe:
    """Remembers what was told lately. Two events from one source are two; one is paired with at most one of the other source.

    NVML does not say whether an event is fatal: where the kernel says so afterwards, that is news.
    """

    def __init__(self) -> None:
        self._told: deque[GpuEvent] = deque(maxlen=MOST)

    def first_time(self, event: GpuEvent) -> bool:
        """Whether no other source has told the event already."""
        for known in self._told:
            same = (known.kind, known.code, known.gpu) == (event.kind, event.code, event.gpu)
            if same and known.source != event.source and abs(known.at - event.at) <= SAME_S:
                self._told.remove(known)
                return event.fatal and not known.fatal
        self._told.append(event)
        return True
