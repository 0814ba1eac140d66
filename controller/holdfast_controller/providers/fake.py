"""A cloud in memory, for tests and the simulator: every fault can be had on order, and time is the clock's own.

Nothing happens in the background: what an instance is, is worked out from the times at which things were done to it. The same calls at
the same times give the same answers.
"""

import itertools
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from holdfast_common.clock import Clock

from holdfast_controller.providers.base import (
    Fault,
    FaultKind,
    Instance,
    LaunchRequest,
    LaunchResult,
    Market,
    Offer,
    Pool,
    ProviderError,
    Quote,
    Reclaim,
)
from holdfast_controller.providers.fake_faults import Injection, Troubles
from holdfast_controller.providers.fake_machines import Machine, Timing
from holdfast_controller.providers.tags import own_tags, request_fault

T = TypeVar("T")
BUYING = frozenset({FaultKind.CAPACITY, FaultKind.QUOTA})


@dataclass(slots=True)
class FakePool:
    """A pool and what it has; all of it may be changed at any time. A price of None is unknown."""

    pool: Pool
    capacity: int = 100
    price_usd_h: float | None = None
    on_demand_usd_h: float | None = None


class FakeProvider:
    """A cloud account whose machines are entries in a table."""

    def __init__(
        self, clock: Clock, pools: Iterable[FakePool], *, name: str = "fake", cluster: str = "test", timing: Timing | None = None
    ) -> None:
        self.name = name
        self.timing = timing or Timing()
        self.pools = {each.pool.name: each for each in pools}
        self.sold: tuple[Offer, ...] = ()
        self.quota: int | None = None
        """Instances that the account may have in all; None: no limit."""
        self.calls: list[tuple[float, str, object]] = []
        """When, which method, with what: every call that reached the cloud."""
        self.machines: dict[str, Machine] = {}
        self.on_change: Callable[[Machine], None] = lambda _: None
        """Called when a machine was started, asked to end, reclaimed, or spared: for whoever plays what runs on it."""
        self._clock = clock
        self._cluster = cluster
        self._troubles = Troubles()
        self._launches: dict[str, tuple[LaunchRequest, tuple[str, ...]]] = {}
        self._numbers = itertools.count(1)
        self._closed = False

    def inject(self, injection: Injection) -> None:
        """Let calls fail as the injection says; several for one call take effect in the order of their coming, one per call."""
        self._troubles.add(injection)

    def clear(self) -> None:
        """Forget injections that have not been used up."""
        self._troubles = Troubles()

    def reclaim(self, instance_ids: Iterable[str], after_s: float = 0.0, *, announced: bool = True) -> None:
        """Take instances back in `after_s` seconds, as a spot market does; where it is `announced`, `reclaims` tells of it until then.

        Raises KeyError for an unknown one.
        The freed capacity is free for others: lower the pool's `capacity` as well if it shall not be.
        """
        for instance_id in instance_ids:
            self.machines[instance_id].reclaim(self._clock.now() + after_s, announced=announced)
            self.on_change(self.machines[instance_id])

    def spare(self, instance_id: str) -> None:
        """Take a reclaim that has not happened yet back, as clouds do now and then."""
        self.machines[instance_id].reclaimed = None
        self.on_change(self.machines[instance_id])

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        """Start instances, or say why not; idempotent by launch id for as long as this object lives."""
        try:
            # a repeat is not bought again: it can be throttled or lost, but not refused
            spared = BUYING if request.launch_id in self._launches else ()
            injection = await self._arrive("launch", request, request.pool.name, spared)
            result = self._launch(request, injection)
            if injection is not None and injection.twice:
                result = self._launch(request, None)
            await self._leave(injection)
        except ProviderError as error:
            return LaunchResult(request.launch_id, (), (error.fault,))
        return result

    async def find(self, launch_id: str) -> tuple[Instance, ...]:
        """Return what lives of a launch, as old as the listing lag."""
        injection = await self._arrive("find", launch_id)
        found = tuple(each for each in self._listed() if each.launch_id == launch_id and each.state != "gone")
        return await self._answer(injection, found)

    async def instances(self) -> tuple[Instance, ...]:
        """Return all instances, as old as the listing lag; those gone are listed for `timing.gone_listed_s`."""
        injection = await self._arrive("instances", None)
        return await self._answer(injection, self._listed())

    async def reclaims(self) -> tuple[Reclaim, ...]:
        """Return the announced reclaims of living machines."""
        injection = await self._arrive("reclaims", None)
        now = self._clock.now()
        living = [each for each in self.machines.values() if each.state(now, self.timing) in {"pending", "running"}]
        found = tuple(
            Reclaim(each.instance_id, each.reclaimed, "the pool is to be had no longer")
            for each in living
            if each.reclaimed is not None and each.announced
        )
        return await self._answer(injection, found)

    async def terminate(self, instance_ids: Sequence[str]) -> tuple[str, ...]:
        """Ask for termination; returns what is gone. Unknown ids are gone."""
        injection = await self._arrive("terminate", tuple(instance_ids))
        now = self._clock.now()
        gone = []
        for instance_id in dict.fromkeys(instance_ids):
            machine = self.machines.get(instance_id)
            if machine is not None:
                machine.terminate(now)
                self.on_change(machine)
            if machine is None or machine.state(now, self.timing) == "gone":
                gone.append(instance_id)
        return await self._answer(injection, tuple(gone))

    async def quotes(self, pools: Sequence[Pool], *, scores: bool = False) -> dict[str, Quote]:
        """Return the known prices; as a score, the share of the pool's capacity that is free."""
        injection = await self._arrive("quotes", None)
        quotes = {}
        for mine in (self.pools[pool.name] for pool in pools if pool.name in self.pools):
            price = mine.price_usd_h if mine.pool.market is Market.SPOT else mine.on_demand_usd_h
            score = self._free(mine.pool.name) / mine.capacity if scores and mine.capacity else None
            if price is not None or mine.on_demand_usd_h is not None:
                quotes[mine.pool.name] = Quote(price, mine.on_demand_usd_h, score)
        return await self._answer(injection, quotes)

    async def offers(self) -> tuple[Offer, ...]:
        """Return the offers that it was given."""
        return await self._answer(await self._arrive("offers", None), self.sold)

    async def close(self) -> None:
        """Refuse every later call."""
        self._closed = True

    async def _arrive(self, method: str, argument: object, pool: str = "", spared: Container[FaultKind] = ()) -> Injection | None:
        """Let a call reach the cloud, or raise what keeps it from being carried out."""
        if self._closed:
            raise ProviderError(Fault(FaultKind.TRANSIENT, "Closed", f"{self.name} has been closed"))
        injection = self._troubles.take(method, pool, spared)
        await self._clock.sleep(self.timing.latency_s + (injection.delay_s if injection and not injection.acts else 0.0))
        self.calls.append((self._clock.now(), method, argument))
        if injection is not None and not injection.acts:
            raise ProviderError(injection.fault(pool))
        return injection

    async def _leave(self, injection: Injection | None) -> None:
        """Lose the answer of a call that was carried out, if that is the trouble."""
        if injection is not None and injection.loses_answer:
            await self._clock.sleep(injection.delay_s)
            raise ProviderError(injection.fault(""))

    async def _answer(self, injection: Injection | None, answer: T) -> T:
        await self._leave(injection)
        return answer

    def _launch(self, request: LaunchRequest, injection: Injection | None) -> LaunchResult:
        before = self._launches.get(request.launch_id)
        if before is not None and before[0] != request:
            return self._refused(request, FaultKind.CONFIG, "TokenMismatch", "another request had this launch id", None)
        if before is None:
            wrong = self._refusal(request)
            if wrong is not None:
                return wrong
            granted = min(request.count, self._free(request.pool.name))
            if injection is not None and injection.keep is not None:
                granted = min(granted, injection.keep)
            before = (request, tuple(self._start(request) for _ in range(granted)))
            if granted:
                self._launches[request.launch_id] = before
        now = self._clock.now()
        started = tuple(self.machines[instance_id].view(now, self.timing) for instance_id in before[1])
        if len(started) >= request.count:
            return LaunchResult(request.launch_id, started)
        message = f"{len(started)} of {request.count} instances were started"
        return LaunchResult(request.launch_id, started, (_fault(request, FaultKind.CAPACITY, "NoCapacity", message, 60.0),))

    def _refusal(self, request: LaunchRequest) -> LaunchResult | None:
        wrong = request_fault(request)
        mine = self.pools.get(request.pool.name)
        if wrong is not None:
            return LaunchResult(request.launch_id, (), (wrong,))
        if mine is None:
            return self._refused(request, FaultKind.CONFIG, "NoSuchPool", f"there is no pool {request.pool.name}", None)
        cap = request.pool.price_cap_usd_h
        if cap is not None and mine.price_usd_h is not None and cap < mine.price_usd_h:
            return self._refused(request, FaultKind.CAPACITY, "PriceTooLow", f"{mine.price_usd_h} is above {cap}", 60.0)
        if self.quota is not None and self._alive() + request.minimum > self.quota:
            return self._refused(request, FaultKind.QUOTA, "Quota", f"{self.quota} instances is the limit", 300.0)
        if self._free(request.pool.name) < request.minimum:
            return self._refused(request, FaultKind.CAPACITY, "NoCapacity", "the pool has not enough", 60.0)
        return None

    def _refused(self, request: LaunchRequest, kind: FaultKind, code: str, message: str, retry_s: float | None) -> LaunchResult:
        return LaunchResult(request.launch_id, (), (_fault(request, kind, code, message, retry_s),))

    def _start(self, request: LaunchRequest) -> str:
        number = next(self._numbers)
        tags = own_tags(self._cluster, request)
        machine = Machine(f"i-{number:017x}", request.launch_id, request.pool.name, tags, self._clock.now(), number)
        self.machines[machine.instance_id] = machine
        self.on_change(machine)
        return machine.instance_id

    def _alive(self, pool: str | None = None) -> int:
        now = self._clock.now()
        mine = (each for each in self.machines.values() if pool is None or each.pool == pool)
        return sum(each.state(now, self.timing) != "gone" for each in mine)

    def _free(self, pool: str) -> int:
        free = max(0, self.pools[pool].capacity - self._alive(pool))
        return free if self.quota is None else min(free, max(0, self.quota - self._alive()))

    def _listed(self) -> tuple[Instance, ...]:
        seen = self._clock.now() - self.timing.listing_lag_s
        return tuple(each.view(seen, self.timing) for each in self.machines.values() if each.listed(seen, self.timing))


def _fault(request: LaunchRequest, kind: FaultKind, code: str, message: str, retry_s: float | None) -> Fault:
    return Fault(kind, code, message, pool=request.pool.name, retry_s=retry_s)
