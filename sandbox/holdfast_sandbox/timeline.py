"""A number that changes in steps over time: a price, a capacity."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise


class Timeline:
    """A step function of Unix time, known for the past and, where a trace drives it, for the future.

    Before its first point it has the first point's value.
    """

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        self._times: list[float] = []
        self._values: list[float] = []
        for time_s, value in points:
            self.set_from(time_s, value)
        if not self._times:
            raise ValueError("a timeline needs a point")

    def set_from(self, time_s: float, value: float) -> None:
        """From `time_s` on it is `value` for good: whatever was known of the time after is forgotten."""
        while self._times and self._times[-1] >= time_s:
            self._times.pop()
            self._values.pop()
        if not self._values or self._values[-1] != value:
            self._times.append(time_s)
            self._values.append(value)

    def at(self, time_s: float) -> float:
        """The value in force at a moment."""
        return self._values[max(0, bisect_right(self._times, time_s) - 1)]

    def next_after(self, time_s: float) -> float | None:
        """When it changes next, or None."""
        index = bisect_right(self._times, time_s)
        return self._times[index] if index < len(self._times) else None

    def between(self, start_s: float, end_s: float) -> list[tuple[float, float]]:
        """The points in [start, end], oldest first, headed by the one in force at the start."""
        first = max(0, bisect_right(self._times, start_s) - 1)
        last = bisect_right(self._times, end_s)
        return list(zip(self._times[first:last], self._values[first:last], strict=True))

    def integral(self, start_s: float, end_s: float) -> float:
        """The area under it between two moments (value times seconds); 0 where the end is not after the start."""
        if end_s <= start_s:
            return 0.0
        inside = [time_s for time_s, _ in self.between(start_s, end_s) if start_s < time_s < end_s]
        return sum(self.at(a) * (b - a) for a, b in pairwise([start_s, *inside, end_s]))
