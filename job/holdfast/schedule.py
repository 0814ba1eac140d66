"""When the next periodic save is due."""


class Schedule:
    """Every `every_s` seconds since the last save began, at every `every_steps`-th step, or both; None: not so."""

    def __init__(self, every_s: float | None, every_steps: int | None) -> None:
        self._every_s = every_s
        self.every_steps = every_steps
        self._due_at = 0.0

    def at_period(self, step: int) -> bool:
        """Whether a save is due after so many steps; the same on all ranks."""
        return self.every_steps is not None and step > 0 and step % self.every_steps == 0

    def due(self, now: float) -> bool:
        """Whether a save is due by this rank's clock."""
        return self._every_s is not None and now >= self._due_at

    def saved(self, began: float) -> None:
        """A save that began then is complete."""
        self._due_at = began + (self._every_s or 0.0)

    def failed(self, now: float, retry_s: float) -> None:
        """A save has failed: the next is due sooner."""
        self._due_at = now + retry_s
