"""A memory with a bound: of what was counted already."""

from typing import TypeVar

MOST_REMEMBERED = 20_000

K = TypeVar("K")
V = TypeVar("V")


class Remembered(dict[K, V]):
    """Forgets what was noted first when it grows beyond `MOST_REMEMBERED`."""

    def note(self, key: K, value: V) -> bool:
        """Note it anew; return whether it was not known."""
        known = key in self
        self.pop(key, None)
        self[key] = value
        if len(self) > MOST_REMEMBERED:
            del self[next(iter(self))]
        return not known
