"""Amazon EC2 through boto3 (imported at the first call).

A launch in one pool (one zone, one type, one market) is RunInstances: one call, and no template is needed. Over several pools it is
CreateFleet (see `aws_fleet`), which takes its user data from a template alone: one is made for each launch, and deleted again.

RunInstances by client token is idempotent for at least 24 hours after the instances' end, per region *and zone*; a launch id is therefore
good for one request only.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from holdfast_common.clock import Clock, SystemClock
from holdfast_common.errors import ConfigError

from holdfast_controller.providers.aws_calls import AwsCalls, answers_of
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_errors import FEWER, OTHER_LAUNCH, SPENT_LAUNCH, fault_of, of_pool
from holdfast_controller.providers.aws_fleet import Fleets
from holdfast_controller.providers.aws_fleet_wire import fleet_pools
from holdfast_controller.providers.aws_offers import offers_of
from holdfast_controller.providers.aws_quotes import Quotes
from holdfast_controller.providers.aws_reclaims import Reclaims
from holdfast_controller.providers.aws_termination import INSTANCE_ID, Outcome, terminate_in
from holdfast_controller.providers.aws_wire import (
    USER_DATA_MAX_BYTES,
    Part,
    instance_of,
    parts,
    run_parameters,
)
from holdfast_controller.providers.base import (
    Fault,
    FaultKind,
    Instance,
    LaunchRequest,
    LaunchResult,
    Offer,
    PartialAnswerError,
    Pool,
    ProviderError,
    Quote,
    Reclaim,
)
from holdfast_controller.providers.settings import pool_fault
from holdfast_controller.providers.tags import LAUNCH_ID, TAG_CLUSTER, TAG_LAUNCH, request_fault

YOUNG_S = 600.0
"""For so long an instance that we started ourselves may be unknown to EC2's other calls (eventual consistency)."""


class AwsProvider:
    """One AWS account. `pools` are checked against the settings; raises ConfigError with every fault."""

    def __init__(self, config: AwsConfig, pools: Sequence[Pool] = (), clock: Clock | None = None) -> None:
        self.name = config.name
        self._config = config
        self._clock = clock or SystemClock()
        self._calls = AwsCalls(config)
        self._fleets = Fleets(self._calls, config, self._clock)
        self._reclaims = Reclaims(self._calls, config, self._clock)
        self._quotes = Quotes(self._calls, config, self._clock)
        self._regions: dict[str, str] = {}
        self._born: dict[str, float] = {}
        faults = [fault for pool in pools if (fault := self._pool_fault(pool))]
        if faults:
            self._reclaims.close()
            self._calls.close()
            raise ConfigError(f"pools of {config.name}", faults)

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        """Start instances in the best of the request's pools, by CreateFleet, where there are several.

        Else, in its one pool, in calls of at most 500; stops at the first that falls short.
        """
        wrong = self._request_fault(request)
        if wrong is not None:
            return LaunchResult(request.launch_id, (), (wrong,))
        pools = fleet_pools(self._config, request)
        if len(pools) > 1:
            return await self._fleet(request, pools)
        started: dict[str, Instance] = {}
        fault: Fault | None = None
        for part in parts(request):
            instances, fault = await self._run(request, part)
            started.update((instance.instance_id, instance) for instance in instances)
            if fault is not None:
                break
        return LaunchResult(request.launch_id, tuple(started.values()), (fault,) if fault else ())

    async def find(self, launch_id: str) -> tuple[Instance, ...]:
        """Return what lives of a launch, in whichever region."""
        found = await self._everywhere(self._launch_filters(launch_id))
        return tuple(each for each in found if each.state != "gone" and each.launch_id == launch_id)

    async def instances(self) -> tuple[Instance, ...]:
        """Return all instances of the cluster in all configured regions; EC2 lists terminated ones for about an hour.

        Reads the queues of reclaims beside, where nobody else does: `reclaims` is not asked while there are no machines. Deletes beside,
        once an hour, launch templates that earlier launches have left.
        """
        self._reclaims.idle()
        self._fleets.tidy()
        return await self._everywhere([])

    async def reclaims(self) -> tuple[Reclaim, ...]:
        """Return what EC2 has marked or warned of, in all regions, the whole account's; a queue that fails is logged, and left out."""
        return await self._reclaims.look()

    async def terminate(self, instance_ids: Sequence[str]) -> tuple[str, ...]:
        """Ask for termination; raises ProviderError if any was not asked for, after all others were.

        An id that EC2 does not know is gone, unless we started it within ten minutes: EC2 forgets nothing, but learns late.
        """
        wanted = [each for each in dict.fromkeys(instance_ids) if INSTANCE_ID.fullmatch(each)]
        asked = {region: [each for each in wanted if self._regions.get(each, region) == region] for region in self._config.regions}
        outcomes = await asyncio.gather(*(terminate_in(self._calls, region, ids) for region, ids in asked.items() if ids))
        faults = [fault for outcome in outcomes for fault in outcome.faults]
        if faults:
            raise ProviderError(faults[0])
        self._born = {each: born for each, born in self._born.items() if self._clock.now() - born < YOUNG_S}
        alive = {each for each in wanted if not self._is_gone(each, outcomes)}
        return tuple(each for each in dict.fromkeys(instance_ids) if each not in alive)

    async def quotes(self, pools: Sequence[Pool], *, scores: bool = False) -> dict[str, Quote]:
        """Return spot prices from the price history, on-demand ones from the settings' table; scores of three types or more.

        A region that does not answer leaves its spot prices out; raises ProviderError if none answered.
        """
        known = [pool for pool in pools if not self._pool_fault(pool)]
        return await self._quotes.of(pools, known, scores=scores)

    async def offers(self) -> tuple[Offer, ...]:
        """Return the types with GPUs of all configured regions, from EC2's own data."""
        return await offers_of(self._calls, self.name, self._config.regions)

    async def close(self) -> None:
        """Make no further call; later ones raise ProviderError."""
        await self._fleets.close()
        self._reclaims.close()
        self._calls.close()

    async def _fleet(self, request: LaunchRequest, pools: Sequence[Pool]) -> LaunchResult:
        try:
            answer = await self._fleets.launch(request, pools)
        except ProviderError as error:
            living, fault = await self._earlier(request, error.fault)
            return LaunchResult(request.launch_id, tuple(living), (fault,))
        started = {instance.instance_id: instance for instance in answer.instances}
        if started.keys() & self._born.keys():  # a repeat, whose answer is as old as its instances: they may have ended since
            with suppress(ProviderError):
                started |= {instance.instance_id: instance for instance in await self._launched(request)}
        for instance_id, instance in started.items():
            self._born.setdefault(instance_id, self._clock.now())
            if instance.state != "gone":
                self._regions[instance_id] = request.pool.region
        return LaunchResult(request.launch_id, tuple(started.values()), answer.faults)

    async def _run(self, request: LaunchRequest, part: Part) -> tuple[list[Instance], Fault | None]:
        region, pool = request.pool.region, request.pool.name
        try:
            answer = await self._calls.call(region, "run_instances", **run_parameters(self._config, request, part))
        except ProviderError as error:
            return await self._earlier(request, of_pool(error.fault, pool))
        started = [self._seen(said, region) for said in answer.get("Instances", [])]
        for instance in started:
            self._born[instance.instance_id] = self._clock.now()
        if len(started) >= part.count:
            return started, None
        return started, fault_of(FEWER, f"{len(started)} of {part.count} instances were started", pool=pool)

    async def _earlier(self, request: LaunchRequest, fault: Fault) -> tuple[list[Instance], Fault]:
        """Return what an earlier call for this launch has started, where the fault says that there was one.

        Either its instances have ended, and the same launch starts no others; or it said something else than we do now (our settings have
        changed since), and its instances may live. Not knowing them is no word that there are none: that is a fault of the look.
        """
        if fault.code not in (SPENT_LAUNCH, OTHER_LAUNCH):
            return [], fault
        try:
            found = await self._launched(request)
        except ProviderError as error:
            return [], error.fault
        return [each for each in found if fault.code == SPENT_LAUNCH or each.state != "gone"], fault

    async def _launched(self, request: LaunchRequest) -> list[Instance]:
        found = await self._list(request.pool.region, self._launch_filters(request.launch_id))
        return [each for each in found if each.launch_id == request.launch_id]

    async def _everywhere(self, filters: list[dict[str, Any]]) -> tuple[Instance, ...]:
        answers, fault = await answers_of(self._list(region, filters) for region in self._config.regions)
        found = tuple({instance.instance_id: instance for answer in answers for instance in answer}.values())
        if fault is not None:
            raise PartialAnswerError(fault, instances=found)
        return found

    async def _list(self, region: str, filters: list[dict[str, Any]]) -> list[Instance]:
        ours = {"Name": f"tag:{TAG_CLUSTER}", "Values": [self._config.cluster]}
        reservations = await self._calls.pages(region, "describe_instances", "Reservations", Filters=[ours, *filters])
        return [self._seen(said, region) for reservation in reservations for said in reservation.get("Instances", [])]

    def _seen(self, said: dict[str, Any], region: str) -> Instance:
        instance = instance_of(said, self.name, region)
        if instance.state == "gone":
            self._regions.pop(instance.instance_id, None)
            self._reclaims.gone(instance.instance_id)
        else:
            self._regions[instance.instance_id] = region
        return instance

    def _is_gone(self, instance_id: str, outcomes: Sequence[Outcome]) -> bool:
        if any(instance_id in outcome.gone for outcome in outcomes):
            return True
        unknown = sum(instance_id in outcome.unknown for outcome in outcomes)
        asked = 1 if instance_id in self._regions else len(self._config.regions)
        return unknown == asked and instance_id not in self._born

    def _request_fault(self, request: LaunchRequest) -> Fault | None:
        message = next((wrong for pool in request.pools if (wrong := self._pool_fault(pool))), "")
        if any((pool.region, pool.market) != (request.pool.region, request.pool.market) for pool in request.others):
            message = f"the pools of launch {request.launch_id} are not all of one region and market"
        if len(request.user_data.encode()) > USER_DATA_MAX_BYTES:
            message = f"user data of {len(request.user_data.encode())} bytes; EC2 takes {USER_DATA_MAX_BYTES}"
        if message:
            return Fault(FaultKind.CONFIG, "BadRequest", message, pool=request.pool.name)
        return request_fault(request)

    def _pool_fault(self, pool: Pool) -> str:
        return pool_fault(self.name, self._config.regions, pool)

    def _launch_filters(self, launch_id: str) -> list[dict[str, Any]]:
        # an id that could not have been launched matches nothing; as a filter it might hold wildcards
        return [{"Name": f"tag:{TAG_LAUNCH}", "Values": [launch_id if LAUNCH_ID.fullmatch(launch_id) else "-"]}]
