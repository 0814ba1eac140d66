"""Google Compute Engine through google-cloud-compute (imported at the first call).

A launch is one bulkInsert: zonal into one pool where one is asked for, else regional, where Compute Engine chooses one zone and among the
machine types (`instanceFlexibilityPolicy` is for regional calls only). An instance's id is the number that Compute Engine gives it: unique
for ever, what the machine reads of itself at `instance/id`, and good in a URL instead of the name, so that no namesake can be meant.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from holdfast_common.clock import Clock, SystemClock
from holdfast_common.errors import ConfigError

from holdfast_controller.providers.base import (
    Fault,
    Instance,
    LaunchRequest,
    LaunchResult,
    Market,
    Offer,
    PartialAnswerError,
    Pool,
    ProviderError,
    Quote,
    Reclaim,
)
from holdfast_controller.providers.gcp_calls import ComputeCalls, silent
from holdfast_controller.providers.gcp_checks import pool_fault, wrong_request
from holdfast_controller.providers.gcp_config import GcpConfig
from holdfast_controller.providers.gcp_errors import (
    MORE,
    NOT_FOUND,
    NOT_LISTED,
    NOT_READY,
    OTHER_REQUEST,
    PRICE_CAP,
    SPENT_LAUNCH,
    UNKNOWN_PRICE,
    fault_of,
)
from holdfast_controller.providers.gcp_launch import LISTED_WITHIN_S, Launcher, Outcome
from holdfast_controller.providers.gcp_offers import offers_in
from holdfast_controller.providers.gcp_operations import PREEMPTED, SOFT_OFF_S, preemptions
from holdfast_controller.providers.gcp_quotes import Quotes
from holdfast_controller.providers.gcp_roster import Known, Roster
from holdfast_controller.providers.gcp_wire import (
    INSTANCE_ID,
    TAG_REQUEST,
    asked_otherwise,
    digest_of,
    filter_of,
    instances_in,
    is_of,
)
from holdfast_controller.providers.tags import LAUNCH_ID

SKEW_S = 10.0
"""How far our clock may be behind Google's, or an end be late."""


class GcpProvider:
    """One project of Google Cloud. `pools` are checked against the settings; raises ConfigError with every fault."""

    def __init__(self, config: GcpConfig, pools: Sequence[Pool] = (), clock: Clock | None = None) -> None:
        self.name = config.name
        self._config = config
        self._clock = clock or SystemClock()
        faults = [fault for pool in pools if (fault := pool_fault(config, pool))]
        if faults:
            raise ConfigError(f"pools of {config.name}", faults)
        self._calls = ComputeCalls(config)
        self._launcher = Launcher(self._calls, config, self._clock)
        self._quotes = Quotes(self._calls, config, self._clock)
        self._roster = Roster()
        self._deletes: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(config.threads))

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        """Start instances with one bulkInsert per thousand, and wait for its operation.

        Google knows no price caps: a pool's is held against the price that is known, before the call. Where what is known to live was asked
        for in another way (other zones or types, another template), it is returned, and nothing is asked for.
        """
        wrong = wrong_request(self._config, request)
        if wrong is not None:
            return LaunchResult(request.launch_id, (), (wrong,))
        if any(asked_otherwise(self._config, request, known.instance) for known in self._roster.of_launch(request.launch_id)):
            outcome = Outcome(exists=True)  # the token of that call is no protection against a second set by this one
        elif over := await self._over_cap(request.pool):
            return await self._not_asked(request, over)
        else:
            outcome = await self._launcher.start(request)
        if not outcome.made and not outcome.exists:
            return LaunchResult(request.launch_id, (), tuple(outcome.faults))
        living, fault = await self._living(request.launch_id)
        if fault is not None:
            return LaunchResult(request.launch_id, tuple(living), (*outcome.faults, fault))
        return self._result(request, outcome, living)

    async def find(self, launch_id: str) -> tuple[Instance, ...]:
        """Return what lives of a launch, in whichever zone."""
        if not LAUNCH_ID.fullmatch(launch_id):
            return ()
        listed, _, fault = await self._list(launch_id)
        if fault is not None:
            raise PartialAnswerError(fault, instances=tuple(listed))
        return tuple(listed)

    async def instances(self) -> tuple[Instance, ...]:
        """Return all instances of the cluster in the project, and those that this process has seen to end within the hour.

        Compute Engine drops a deleted instance from its lists at once. How it ended is told by the operations: a Spot VM was taken back
        where there is one of type `compute.instances.preempted` for it. One that is missing without a reason is neither listed nor gone
        until a lag cannot be the reason any more.
        """
        listed, quiet, fault = await self._list()
        missing = self._roster.missing({each.instance_id for each in listed}, quiet, self._clock.now())
        fault = await self._settle(missing) or fault
        found = (*listed, *self._roster.gone(self._clock.now()))
        if fault is not None:
            raise PartialAnswerError(fault, instances=found)
        return found

    async def reclaims(self) -> tuple[Reclaim, ...]:
        """Return the Spot VMs that have had their soft-off signal and are in the half-minute that is left to them.

        Of what comes before (`preemptionNoticeDuration`) Compute Engine tells the machine alone, in its metadata; from outside a preemption
        shows when the operation `compute.instances.preempted` begins. Host maintenance that it lists as upcoming is no reclaim: it is told
        long ahead, and to the machine, too.
        """
        began, fault = await preemptions(self._calls, self._config.regions)
        soon = {iid: at + SOFT_OFF_S for iid, at in began.items() if self._clock.now() <= at + SOFT_OFF_S + SKEW_S}
        living: list[Instance] = []
        if soon:
            living, _, missed = await self._list()
            fault = fault or (missed.message if missed else "")
        found = tuple(
            Reclaim(each.instance_id, soon[each.instance_id], "Compute Engine lists its preemption")
            for each in living
            if each.instance_id in soon
        )
        if fault:
            raise PartialAnswerError(fault_of("UNREACHABLE", fault), reclaims=found)
        return found

    async def terminate(self, instance_ids: Sequence[str]) -> tuple[str, ...]:
        """Delete by id, one call each: Compute Engine has none for many. Raises ProviderError if any was not asked for, after all others.

        Where an id is, this process remembers or a list says; one that no list of the whole project has is gone.
        """
        wanted = [each for each in dict.fromkeys(instance_ids) if INSTANCE_ID.fullmatch(each)]
        unknown = [each for each in wanted if self._roster.get(each) is None]
        fault = (await self._list())[2] if unknown else None
        known = [known for each in wanted if (known := self._roster.get(each)) is not None and known.lives]
        faults = [each for each in await asyncio.gather(*map(self._delete, known)) if each is not None]
        for failure in (*faults, fault):
            if failure is not None:
                raise ProviderError(failure)
        alive = {each.instance.instance_id for each in known if each.lives}
        return tuple(each for each in dict.fromkeys(instance_ids) if each not in alive)

    async def quotes(self, pools: Sequence[Pool], *, scores: bool = False) -> dict[str, Quote]:
        """Return prices from the settings' tables, spot ones from the capacity history where that answers; scores from its advice.

        Preemptions are told of pools only where most Spot VMs are expected to run for less than an hour.
        """
        return await self._quotes.of([pool for pool in pools if not pool_fault(self._config, pool)], scores=scores)

    async def offers(self) -> tuple[Offer, ...]:
        """Return the machine types that bring GPUs along, of all configured regions, from Compute Engine's own data."""
        pages = await self._calls.pages("MachineTypes", "aggregated_list")
        quiet, why = silent(pages, self._config.regions)
        if quiet:
            raise ProviderError(fault_of("UNREACHABLE", why))
        return offers_in(pages, self.name, self._config.regions)

    async def close(self) -> None:
        """Make no further call; later ones raise ProviderError."""
        self._calls.close()

    def _result(self, request: LaunchRequest, outcome: Outcome, living: Sequence[Instance]) -> LaunchResult:
        """Put together what the operations and the list say."""
        seen = {known.instance.instance_id: known for known in self._roster.of_launch(request.launch_id)}
        found = {each.instance_id: each for each in living} | {
            iid: known.instance for iid, known in seen.items() if known.ended is not None
        }
        if any(each.tags.get(TAG_REQUEST, digest_of(request)) != digest_of(request) for each in found.values()):
            fault = fault_of(OTHER_REQUEST, f"{request.launch_id} was another request before", pool=request.pool.name)
            return LaunchResult(request.launch_id, tuple(living), (*outcome.faults, fault))
        if len(living) > request.count:
            fault = fault_of(MORE, f"{len(living)} instances of {request.count} live")
            return LaunchResult(request.launch_id, tuple(living), (*outcome.faults, fault))
        wanted = request.count if outcome.exists else outcome.made
        if len(living) >= wanted:
            return LaunchResult(request.launch_id, tuple(found.values()), tuple(outcome.faults))
        late = (outcome.ended is None or self._clock.now() < outcome.ended + LISTED_WITHIN_S) and not (outcome.exists and living)
        code = NOT_LISTED if late and len(seen) < wanted else SPENT_LAUNCH
        message = f"{wanted} instances were made, {len(living)} of them are listed"
        return LaunchResult(request.launch_id, tuple(found.values()), (*outcome.faults, fault_of(code, message)))

    async def _not_asked(self, request: LaunchRequest, why: Fault) -> LaunchResult:
        """Return what an earlier call has made of a launch that may not be asked for now, and else why it may not."""
        living, fault = await self._living(request.launch_id)
        if fault is None and len(living) < request.count:
            fault = why
            if self._launcher.may_be_under_way(request.launch_id):
                fault = fault_of(NOT_LISTED, f"{request.launch_id} was asked for before, and {len(living)} of its instances are listed")
        return LaunchResult(request.launch_id, tuple(living), (fault,) if fault is not None else ())

    async def _living(self, launch_id: str) -> tuple[list[Instance], Fault | None]:
        """Return what is listed of a launch, and what kept others from being."""
        try:
            living, _, fault = await self._list(launch_id)
        except ProviderError as error:
            return [], error.fault
        return living, fault

    async def _list(self, launch_id: str | None = None) -> tuple[list[Instance], set[str], Fault | None]:
        """Return what is listed, the regions that could not tell, and why. Raises ProviderError if none could."""
        pages = await self._calls.pages("Instances", "aggregated_list", filter=filter_of(self._config.cluster, launch_id))
        listed = [each for each in instances_in(pages, self.name) if is_of(each, self._config.cluster, launch_id)]
        self._roster.saw(listed, self._clock.now())
        quiet, why = silent(pages, self._config.regions, self._roster.zones())
        fault = fault_of("UNREACHABLE", why) if quiet else None
        if fault is not None and len(quiet) == len(self._config.regions):
            raise ProviderError(fault)
        return listed, quiet, fault

    async def _settle(self, missing: Sequence[Known]) -> Fault | None:
        """Decide what has become of instances that are no longer listed; returns what kept it from being learnt."""
        began: dict[str, float] = {}
        fault: Fault | None = None
        if any(known.spot for known in missing):
            try:
                began, why = await preemptions(self._calls, self._config.regions)
                fault = fault_of("UNREACHABLE", why) if why else None
            except ProviderError as error:
                fault = error.fault
        now = self._clock.now()
        for known in missing:
            if known.instance.instance_id in began:
                self._roster.end(known, now, PREEMPTED, reclaimed=True)
            elif known.surely_gone(now) and (fault is None or not known.spot):
                self._roster.end(known, now, "deleted on our request" if known.asked else "not listed any more")
        return fault

    async def _delete(self, known: Known) -> Fault | None:
        """Ask for one deletion; returns why it could not be asked for."""
        iid = known.instance.instance_id
        try:
            async with self._deletes[known.region]:
                await self._calls.call("Instances", "delete_unary", project=self._config.project, zone=known.zone, instance=iid)
        except ProviderError as error:
            known.not_found = error.fault.code in NOT_FOUND
            return None if known.not_found or _ends(known, error.fault) else error.fault
        known.asked = True
        return None

    async def _over_cap(self, pool: Pool) -> Fault | None:
        """Return why a pool's price cap forbids it now."""
        cap = pool.price_cap_usd_h
        if cap is None or pool.market is not Market.SPOT:
            return None
        price = self._quotes.spot_usd_h(pool)
        if price is None:
            fault = await self._quotes.refresh([pool])
            price = self._quotes.spot_usd_h(pool)
            if price is None:
                return fault or fault_of(UNKNOWN_PRICE, f"{pool.name} has a price cap, and its price is not known", pool=pool.name)
        return fault_of(PRICE_CAP, f"{price:g} USD/h is above {cap:g}", pool=pool.name) if price > cap else None


def _ends(known: Known, fault: Fault) -> bool:
    """Whether one that is not ready to be deleted ends already. One that is still being made is not ready either, and will live."""
    return fault.code in NOT_READY and (known.asked or known.instance.state == "stopping")
