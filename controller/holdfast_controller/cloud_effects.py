"""What commands do in the clouds: launches and terminations, looked up before they are repeated."""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from holdfast_common.clock import Clock
from holdfast_common.errors import ConfigError, ProviderTransient

from holdfast_controller import capacity
from holdfast_controller import commands as c
from holdfast_controller.decide.orders import MAX_IN_FLIGHT, region
from holdfast_controller.events import Event, LaunchEnded
from holdfast_controller.launch_tags import tags_of
from holdfast_controller.plan import Plans
from holdfast_controller.providers.base import (
    Fault,
    FaultKind,
    Instance,
    LaunchRequest,
    LaunchResult,
    PartialAnswerError,
    Pool,
    Provider,
    ProviderError,
    Quote,
    newer,
)
from holdfast_controller.terminations import Terminations

TRIES = 3
"""Tries of one launch, under the same launch id, at faults that a retry may cure, before another pool is asked."""
MAX_RETRY_S = 5.0
PRICE_S = 1.0

log = structlog.get_logger()


class CloudEffects:
    """The providers, and how to make a launch request out of a command."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        plans: Callable[[], Plans],
        user_data: Callable[[str, str], str],
        clock: Clock,
        *,
        max_in_flight: Mapping[str, int],
        poll_soon: Callable[[], None] = lambda: None,
    ) -> None:
        self._providers = providers
        self._plans = plans
        self._user_data = user_data
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._terminations = {name: Terminations(provider, clock) for name, provider in providers.items()}
        self._poll_soon = poll_soon

    async def launch(self, command: c.Launch, resumed: bool) -> tuple[Event, ...]:
        """Launch; after a crash, what the first call may have started is found first (the token would find it, too)."""
        pool = self._plans().pool(command.pool)
        if pool is None or pool.provider not in self._providers:
            fault = Fault(FaultKind.CONFIG, "PoolUnknown", f"the policy or the settings have no {command.pool}")
            return (LaunchEnded(self._clock.now(), command.launch_id, command.pool, (), (fault,), about=command.refs()),)
        provider = self._providers[pool.provider]
        async with self._slot(pool):
            result = await self._asked(provider, pool, command, resumed=resumed)
        given = self._plans().pool(result.instances[0].pool) if result.instances else None
        price, on_demand = await self._prices(provider, given or pool) if result.instances else (None, None)
        self._poll_soon()
        now = self._clock.now()
        return (LaunchEnded(now, command.launch_id, command.pool, result.instances, result.faults, price, on_demand, command.refs()),)

    async def _asked(self, provider: Provider, pool: Pool, command: c.Launch, *, resumed: bool) -> LaunchResult:
        """Make the calls. Whatever breaks in them, the launch has an end: one that has none holds its nodes and its slot for ever."""
        try:
            return await self._call(provider, pool, command, resumed=resumed)
        except Exception as error:
            log.exception("a launch broke", launch=command.launch_id)
            # Not as something that passes: the next time it may break in the same way, and the job must be told.
            fault = Fault(FaultKind.CONFIG, type(error).__name__, str(error)[:500], pool=pool.name, retry_s=60.0)
            return LaunchResult(command.launch_id, (), (fault,))

    def _slot(self, pool: Pool) -> asyncio.Semaphore:
        """Return the bound of calls to the pool's region. (The decisions keep to it; after a restart more may be taken up again.)"""
        where = region(pool.name)
        if where not in self._slots:
            self._slots[where] = asyncio.Semaphore(self._max_in_flight.get(pool.provider, MAX_IN_FLIGHT))
        return self._slots[where]

    async def _call(self, provider: Provider, pool: Pool, command: c.Launch, *, resumed: bool) -> LaunchResult:
        count, plans = len(command.nodes), self._plans()
        others = (plans.pool(name) for name in command.others)
        request = LaunchRequest(
            launch_id=command.launch_id,
            pool=pool,
            count=count,
            minimum=command.minimum or count,
            template=pool.template,
            user_data=self._user_data(pool.provider, command.launch_id),
            tags=tags_of(command.nodes, command.job_id),
            others=tuple(other for other in others if other is not None),
        )
        known: dict[str, Instance] = {}
        faults: tuple[Fault, ...] = ()
        for attempt in range(1, TRIES + 1):
            found = await _found(provider, command.launch_id) if resumed or attempt > 1 else ()
            known |= {each.instance_id: each for each in found}
            if len(known) < count:
                faults = await _launched(provider, request, known)
            wait_s = max((fault.retry_s or 1.0 for fault in faults), default=0.0)
            passing = bool(faults) and all(fault.kind in capacity.PASSING for fault in faults)
            if len(known) >= count or not passing or wait_s > MAX_RETRY_S or attempt == TRIES:
                break
            await self._clock.sleep(wait_s)
        return LaunchResult(command.launch_id, tuple(known.values()), () if len(known) >= count else faults)

    async def _prices(self, provider: Provider, pool: Pool) -> tuple[float | None, float | None]:
        """Return what the instance costs an hour, and would cost on demand; None where it is not known soon."""
        quote = self._plans().quotes.get(pool.name, Quote())
        if quote.price_usd_h is None or quote.on_demand_usd_h is None:
            try:
                async with asyncio.timeout(PRICE_S):
                    quote = newer((await provider.quotes([pool])).get(pool.name), quote)
            except (ProviderError, TimeoutError):
                pass
        return quote.price_usd_h, quote.on_demand_usd_h

    async def terminate(self, command: c.TerminateInstance, resumed: bool) -> tuple[Event, ...]:
        """Ask for termination. That it is gone is the listing's to say."""
        name = command.pool.partition("/")[0]
        if name not in self._providers:
            raise ConfigError("settings", [f"no provider {name!r} for instance {command.instance_id}"])
        try:
            await self._terminations[name].terminate(command.instance_id)
        except ProviderError as error:
            raise ProviderTransient(str(error), error.fault.retry_s or 5.0) from error
        self._poll_soon()
        return ()


async def _found(provider: Provider, launch_id: str) -> tuple[Instance, ...]:
    """Return what is known to live of a launch; a region that is silent hides only what is there."""
    try:
        return await provider.find(launch_id)
    except PartialAnswerError as error:
        return error.instances
    except ProviderError:
        return ()  # the call itself, under the same token, will tell


async def _launched(provider: Provider, request: LaunchRequest, known: dict[str, Instance]) -> tuple[Fault, ...]:
    """Make one call, note its instances, and return what was wrong. What an earlier call has brought stays."""
    try:
        result = await provider.launch(request)
    except ProviderError as error:
        return (error.fault,)
    known |= {each.instance_id: each for each in result.instances}
    return result.faults
