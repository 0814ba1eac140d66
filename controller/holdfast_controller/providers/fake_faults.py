"""Trouble on order, for the cloud in memory."""

from collections.abc import Container
from dataclasses import dataclass, replace

from holdfast_controller.providers.base import Fault, FaultKind

HANG_S = 1e6


@dataclass(frozen=True, slots=True)
class Injection:
    """What shall go wrong with the next `times` calls of `method` (for launches: in `pool`, or in any if empty).

    The named constructors below make the ones there are.
    """

    kind: FaultKind
    method: str = "launch"
    pool: str = ""
    times: int = 1
    acts: bool = False
    """The call is carried out, whatever the caller hears."""
    loses_answer: bool = False
    """It was carried out, but the caller hears of a fault."""
    twice: bool = False
    """The request is delivered twice."""
    keep: int | None = None
    """A launch starts this many at most, even below its minimum."""
    delay_s: float = 0.0
    """Before the caller hears anything."""
    retry_s: float | None = None

    def fault(self, pool: str) -> Fault:
        """Return the fault that the caller hears of."""
        about_pool = self.kind in (FaultKind.CAPACITY, FaultKind.QUOTA, FaultKind.CONFIG)
        return Fault(self.kind, f"Injected-{self.kind}", "on order", pool=pool if about_pool else "", retry_s=self.retry_s)

    def on(self, method: str = "launch", *, pool: str = "", times: int = 1) -> "Injection":
        """Return the same trouble for other calls."""
        return replace(self, method=method, pool=pool, times=times)


def refusal(kind: FaultKind, retry_s: float | None = None) -> Injection:
    """The call is answered with a fault of this kind and not carried out."""
    return Injection(kind, retry_s=retry_s)


def partial(keep: int) -> Injection:
    """A launch starts `keep` instances at most, even if its minimum is more (as several calls for one launch may)."""
    return Injection(FaultKind.CAPACITY, acts=True, keep=keep)


def lost_answer(delay_s: float = 0.0) -> Injection:
    """The call is carried out, and the caller hears of a time-out."""
    return Injection(FaultKind.TRANSIENT, acts=True, loses_answer=True, delay_s=delay_s, retry_s=1.0)


def duplicate() -> Injection:
    """A launch is delivered twice, as a proxy or a client that repeats does; the second answer is the one that arrives."""
    return Injection(FaultKind.TRANSIENT, acts=True, twice=True)


def hang(delay_s: float = HANG_S, *, acts: bool = False) -> Injection:
    """The caller hears nothing for `delay_s`, then of a time-out; `acts`: it was carried out before that."""
    return Injection(FaultKind.TRANSIENT, acts=acts, loses_answer=acts, delay_s=delay_s, retry_s=1.0)


class Troubles:
    """The injections that wait for their calls."""

    def __init__(self) -> None:
        self._waiting: list[Injection] = []

    def add(self, injection: Injection) -> None:
        """Append one."""
        self._waiting.append(injection)

    def take(self, method: str, pool: str, spared: Container[FaultKind] = ()) -> Injection | None:
        """Use up and return the first that concerns this call; refusals of a kind in `spared` do not."""
        for index, injection in enumerate(self._waiting):
            concerned = injection.method == method and injection.pool in ("", pool)
            if concerned and (injection.acts or injection.kind not in spared):
                if injection.times > 1:
                    self._waiting[index] = replace(injection, times=injection.times - 1)
                else:
                    del self._waiting[index]
                return injection
        return None
