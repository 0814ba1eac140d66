"""The machines of the cloud in memory: pure functions of the times at which things were done to them."""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast_controller.providers.base import Instance


@dataclass(slots=True)
class Timing:
    """How slow the cloud is, in seconds; may be changed at any time."""

    boot_s: float = 30.0
    shutdown_s: float = 5.0
    gone_listed_s: float = 3600.0
    """How long a terminated instance stays in listings."""
    listing_lag_s: float = 0.0
    """How old listings are (eventual consistency): newer instances are missing, newer ends are not known."""
    latency_s: float = 0.0
    """What every call takes."""


@dataclass(slots=True)
class Machine:
    """One instance's history, in Unix seconds."""

    instance_id: str
    launch_id: str
    pool: str
    tags: Mapping[str, str]
    launched: float
    number: int
    terminated: float | None = None
    reclaimed: float | None = None
    announced: bool = False
    """The cloud says so before it does it."""

    def terminate(self, at: float) -> None:
        """Begin to shut down, unless that has begun."""
        if self.terminated is None:
            self.terminated = at

    def reclaim(self, at: float, *, announced: bool = True) -> None:
        """Be taken away at `at`, at once and whole."""
        if self.reclaimed is None or at < self.reclaimed:
            self.reclaimed, self.announced = at, announced

    def ended(self, timing: Timing) -> tuple[float, bool]:
        """Return when it is gone (infinity: no end known), and whether the cloud took it."""
        asked = float("inf") if self.terminated is None else self.terminated + timing.shutdown_s
        taken = float("inf") if self.reclaimed is None else self.reclaimed
        return min(asked, taken), taken < asked

    def state(self, at: float, timing: Timing) -> str:
        """Return its state at a moment not before its launch."""
        if self.ended(timing)[0] <= at:
            return "gone"
        if self.terminated is not None and self.terminated <= at:
            return "stopping"
        return "running" if self.launched + timing.boot_s <= at else "pending"

    def listed(self, at: float, timing: Timing) -> bool:
        """Whether a listing of that moment holds it."""
        return self.launched <= at < self.ended(timing)[0] + timing.gone_listed_s

    def view(self, at: float, timing: Timing) -> Instance:
        """Return it as the cloud tells it at that moment."""
        state = self.state(at, timing)
        taken = state == "gone" and self.ended(timing)[1]
        asked = state in ("gone", "stopping")
        return Instance(
            instance_id=self.instance_id,
            launch_id=self.launch_id,
            pool=self.pool,
            state=state,
            address=f"10.{self.number >> 16 & 255}.{self.number >> 8 & 255}.{self.number & 255}",
            launched=self.launched,
            state_reason="reclaimed" if taken else "asked" if asked else "",
            reclaimed=taken,
            tags=dict(self.tags),
        )
