"""What the provider remembers of its instances: where they are, and, for an hour, how they ended.

Compute Engine forgets a deleted instance at once. Where it was is needed to end it, and how it ended cannot be asked of the instance any
more. All of it can be lost: a list brings back what lives.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from holdfast_controller.providers.base import Instance

GONE_LISTED_S = 3600.0
YOUNG_S = 600.0
"""For so long a list may lag behind what we have seen of an instance before."""
SETTLE_S = 30.0
"""For so long an instance may be missing from whole lists before that means anything by itself."""


@dataclass(slots=True)
class Known:
    """One instance. Times are Unix seconds."""

    instance: Instance
    first_seen: float
    asked: bool = False
    """We have asked for its end."""
    not_found: bool = False
    """Compute Engine, asked for it by its id, knows none; how it ended is not settled yet."""
    missing_since: float | None = None
    ended: float | None = None

    @property
    def region(self) -> str:
        """The second part of the pool's name."""
        return self.instance.pool.split("/")[1]

    @property
    def zone(self) -> str:
        """The third part of the pool's name."""
        return self.instance.pool.split("/")[2]

    @property
    def spot(self) -> bool:
        """Whether it can be taken back."""
        return self.instance.pool.endswith("/spot")

    @property
    def lives(self) -> bool:
        """Whether it has not ended by all that we know."""
        return self.ended is None and not self.not_found

    def surely_gone(self, now: float) -> bool:
        """Whether a lag cannot be the reason why lists leave it out."""
        if self.missing_since is None:
            return False
        return self.asked or self.not_found or (now >= self.missing_since + SETTLE_S and now >= self.first_seen + YOUNG_S)


class Roster:
    """All instances that this process has seen, by id."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def saw(self, instances: Iterable[Instance], now: float) -> None:
        """They are listed."""
        for instance in instances:
            known = self._known.setdefault(instance.instance_id, Known(instance, now))
            known.instance, known.missing_since, known.ended, known.not_found = instance, None, None, False

    def get(self, instance_id: str) -> Known | None:
        """Return what is known of one."""
        return self._known.get(instance_id)

    def zones(self) -> set[str]:
        """Return where instances are whose end is not settled."""
        return {known.zone for known in self._known.values() if known.ended is None}

    def missing(self, listed: Collection[str], silent: Collection[str], now: float) -> list[Known]:
        """Return those whose end is not settled, and that a list of all but the silent regions leaves out."""
        found = []
        for iid, known in self._known.items():
            if known.ended is None and iid not in listed and known.region not in silent:
                known.missing_since = now if known.missing_since is None else known.missing_since
                found.append(known)
        return found

    def end(self, known: Known, now: float, reason: str, *, reclaimed: bool = False) -> None:
        """It is gone."""
        known.ended = now
        known.instance = replace(known.instance, state="gone", state_reason=reason, reclaimed=reclaimed)

    def gone(self, now: float) -> list[Instance]:
        """Return those that are gone, and forget those of them that have been for long."""
        self._known = {iid: known for iid, known in self._known.items() if known.ended is None or now < known.ended + GONE_LISTED_S}
        return [known.instance for known in self._known.values() if known.ended is not None]

    def of_launch(self, launch_id: str) -> list[Known]:
        """Return all that are known of one launch."""
        return [known for known in self._known.values() if known.instance.launch_id == launch_id]
