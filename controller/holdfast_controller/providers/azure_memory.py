"""What this process knows of machines that Azure may no longer list: Azure forgets a machine at its end, whatever ended it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from holdfast_controller.providers.azure_machines import Seen, remembered
from holdfast_controller.providers.base import Instance, Market

GONE_LISTED_S = 3600.0
"""For so long an ended machine is told of, as EC2 does."""
ASKED = "deleted as asked"
SHUT_DOWN = "its own guest shut it down"
GONE = "Azure has it no longer, and nobody here asked for its end"
TAKEN = "Azure has it no longer, and nobody here asked for its end: what is evicted is deleted"


@dataclass(slots=True)
class Known:
    """One machine."""

    seen: Seen
    since: float
    """When it was first seen, Unix seconds."""
    asked: bool = False
    """Whether its deletion was asked for here."""
    turn: int = 0
    """Counts up with each time that a machine is asked for by name; 0: never."""
    gone_at: float | None = None


class Memory:
    """Machines by id. A machine is gone only where Azure said so when it was asked for it by name, never because a list lacks it."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def note(self, machines: Iterable[Seen], now: float) -> list[Seen]:
        """Note machines that Azure told of; returns them with what is known of each: its address, and whether it has ever run."""
        noted = []
        for told in machines:
            seen = self.recalled(told)
            known = self._known.setdefault(seen.instance.instance_id, Known(seen, now))
            if known.seen.instance.address and not seen.instance.address:
                seen = replace(seen, instance=replace(seen.instance, address=known.seen.instance.address))
            known.seen, known.gone_at = seen, None
            noted.append(seen)
        return noted

    def recalled(self, seen: Seen) -> Seen:
        """Return a machine that Azure told of with whether it has ever run, by this look or an earlier one."""
        known = self._known.get(seen.instance.instance_id)
        return remembered(seen) if seen.placed or (known is not None and known.seen.ran) else seen

    def get(self, instance_id: str) -> Known | None:
        """Return what is known of a machine."""
        return self._known.get(instance_id)

    def missing(self, listed: Iterable[str], before: float) -> list[Known]:
        """Return the machines that a listing begun at `before` lacks and should have had."""
        there = set(listed)
        return [each for each in self._known.values() if each.gone_at is None and each.since < before and _id(each) not in there]

    def asked(self, machines: Iterable[Seen]) -> None:
        """Note that the deletion of machines was asked for here."""
        for seen in machines:
            known = self._known.get(seen.instance.instance_id)
            if known is not None:
                known.asked = True

    def lost(self, known: Known, now: float) -> None:
        """Note that a machine is gone."""
        known.gone_at = now if known.gone_at is None else known.gone_at

    def gone(self, now: float) -> list[Instance]:
        """Return the machines that went lately; forgets older ones."""
        self._known = {key: each for key, each in self._known.items() if each.gone_at is None or now - each.gone_at < GONE_LISTED_S}
        return [ended(each) for each in self._known.values() if each.gone_at is not None]


def ended(known: Known) -> Instance:
    """Return a machine's instance after its end. Azure does not say what ended it; we know what we asked for."""
    instance = known.seen.instance
    if known.asked:
        return replace(instance, state="gone", state_reason=ASKED)
    if known.seen.shut_down:
        return replace(instance, state="gone", state_reason=SHUT_DOWN)
    taken = instance.pool.endswith(f"/{Market.SPOT.value}") and not known.seen.litter
    return replace(instance, state="gone", reclaimed=taken, state_reason=TAKEN if taken else GONE)


def _id(known: Known) -> str:
    return known.seen.instance.instance_id
