"""Microsoft Azure through azure-mgmt-compute (imported at the first call).

**A launch is one flexible scale set.** Three calls were weighed:

- *Single machines* are N writes, and N operations to follow. Resource Manager lets one principal make 200 writes at once and 10 a second
  after that ("Understand how Azure Resource Manager throttles requests"): 1,000 machines take 80 seconds before anything goes wrong, and as
  long to delete; and every state in between is a partial result of ours to keep track of.
- *Compute Fleet* chooses among sizes and zones, but keeps its target by itself, needs a package and a resource provider of its own, and
  makes scale sets or machines underneath.
- *A flexible scale set* is one write for up to 1,000 machines, one operation, one list and one deletion, with user data, tags and market
  for that launch alone. Its machines are ordinary ones, in the same list as all others, and it starts none by itself once one has gone.
  It is made under the condition that there is none of its name (If-None-Match), and the name is worked out from the launch id: that is the
  token. (A PUT without condition would start machines anew in the place of those that have ended.) For that the set stays, empty and free
  of charge, after its last machine, for two hours.

What no flexible set has is InfiniBand ("Orchestration modes": only uniform sets of one placement group have it, and availability sets,
which take no spot machines): gangs here speak over accelerated networking.

**What Azure does not say.** An instance's id is its machine's `vmId`, unique for ever, and what the guest reads of itself. A machine that
has ended is forgotten at once, whoever ended it: what we tell of its end is what this process saw and asked for. Of a coming eviction
nobody hears but the machine itself (Scheduled Events).
"""

from collections.abc import Iterable, Mapping, Sequence

from holdfast_common.clock import Clock, SystemClock
from holdfast_common.errors import ConfigError

from holdfast_controller.providers.azure_calls import ArmCalls
from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_launch import Launcher
from holdfast_controller.providers.azure_listing import Listing
from holdfast_controller.providers.azure_memory import Known, Memory
from holdfast_controller.providers.azure_offers import offers_of, scores_of
from holdfast_controller.providers.azure_resources import Resources
from holdfast_controller.providers.azure_termination import Terminator
from holdfast_controller.providers.azure_wire import COUNT_MAX, USER_DATA_MAX_BYTES, all_tags, is_vm_id, set_name, tags_fault
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
from holdfast_controller.providers.settings import pool_fault
from holdfast_controller.providers.tags import request_fault


class AzureProvider:
    """One subscription. `pools` are checked against the settings; raises ConfigError with every fault."""

    def __init__(self, config: AzureConfig, pools: Sequence[Pool] = (), clock: Clock | None = None) -> None:
        self.name = config.name
        self._config = config
        self._clock = clock or SystemClock()
        faults = [fault for pool in pools if (fault := self._pool_fault(pool))]
        if faults:
            raise ConfigError(f"pools of {config.name}", faults)
        self._memory = Memory()
        self._arm = Resources(ArmCalls(config), config)
        self._launcher = Launcher(config, self._arm, self._memory, self._clock)
        self._terminator = Terminator(config.name, self._arm, self._memory, self._clock)
        self._listing = Listing(config, self._arm, self._memory, self._clock)

    async def launch(self, request: LaunchRequest) -> LaunchResult:
        """Start instances in the request's pool; returns once Azure has found hosts for them, or has given up."""
        wrong = self._request_fault(request)
        if wrong is not None:
            return LaunchResult(request.launch_id, (), (wrong,))
        return await self._launcher.launch(request)

    async def find(self, launch_id: str) -> tuple[Instance, ...]:
        """Return what lives of a launch. What Azure leaves of machines that it could not make is none of it."""
        return await self._listing.of_set(set_name(self._config.cluster, launch_id), launch_id)

    async def instances(self) -> tuple[Instance, ...]:
        """Return all instances of the cluster, and those that this process has seen end within the hour.

        Deletes, on the way, what is left behind: empty sets after two hours, machines that were never made after ten minutes, and after
        five those that shut themselves down, as EC2 does where it is told to (Azure would go on billing them).
        """
        begun = self._clock.now()
        listed = await self._listing.all()
        await self._terminator.confirm(self._memory.missing((each.instance_id for each in listed), begun))
        there = {each.instance_id for each in listed}
        return (*listed, *(each for each in self._memory.gone(self._clock.now()) if each.instance_id not in there))

    async def reclaims(self) -> tuple[Reclaim, ...]:
        """Return none: Resource Manager says nothing before an eviction is done; the machine's own Scheduled Events do."""
        return ()

    async def terminate(self, instance_ids: Sequence[str]) -> tuple[str, ...]:
        """Ask for deletion; raises ProviderError if any was not asked for, after all others were.

        An id that this process has not seen is looked for in a whole listing; one that this lacks is gone.
        """
        wanted = dict.fromkeys(instance_ids)
        ids = [each.lower() for each in wanted if is_vm_id(each.lower())]
        if any(self._memory.get(each) is None for each in ids):
            await self._listing.all()
        known = [found for each in dict.fromkeys(ids) if (found := self._memory.get(each)) is not None]
        faults = await self._terminator.terminate(known)
        if faults:
            raise ProviderError(faults[0])
        alive = _alive(known)
        return tuple(each for each in wanted if each.lower() not in alive)

    async def quotes(self, pools: Sequence[Pool], *, scores: bool = False) -> dict[str, Quote]:
        """Return the settings' prices, and placement scores where they are asked for and can be had."""
        spot = [pool for pool in pools if pool.market is Market.SPOT and not self._pool_fault(pool)]
        found = await scores_of(self._arm, spot, self._config.score_instances) if scores and spot else {}
        quotes = {}
        for pool in pools:
            on_demand = _price(self._config.on_demand_usd_h, pool)
            price = _price(self._config.spot_usd_h, pool) if pool.market is Market.SPOT else on_demand
            quote = Quote(price, on_demand, found.get(pool.name))
            if quote != Quote():
                quotes[pool.name] = quote
        return quotes

    async def offers(self) -> tuple[Offer, ...]:
        """Return the sizes with GPUs of all configured regions that this subscription may have."""
        return await offers_of(self._arm, self.name, self._config.regions)

    async def close(self) -> None:
        """Make no further call; later ones raise ProviderError."""
        self._arm.close()

    def _request_fault(self, request: LaunchRequest) -> Fault | None:
        message = self._pool_fault(request.pool)
        if not message and len(request.user_data.encode()) > USER_DATA_MAX_BYTES:
            message = f"user data of {len(request.user_data.encode())} bytes; Azure takes {USER_DATA_MAX_BYTES}"
        if not message and request.count > COUNT_MAX:
            message = f"{request.count} instances in one launch; a scale set has {COUNT_MAX}"
        if not message:
            message = tags_fault(all_tags(self._config, request))
        if message:
            return Fault(FaultKind.CONFIG, "BadRequest", message, pool=request.pool.name)
        return request_fault(request)

    def _pool_fault(self, pool: Pool) -> str:
        if fault := pool_fault(self.name, self._config.regions, pool):
            return fault
        if not (pool.zone.isascii() and pool.zone.isdigit()):
            return f"pool {pool.name}: Azure's zones are numbers, not {pool.zone!r}"
        lacking = [what for what, table in (("image", self._config.images), ("subnet", self._config.subnets)) if pool.region not in table]
        return f"pool {pool.name}: no {' and no '.join(lacking)} for region {pool.region}" if lacking else ""


def _alive(known: Iterable[Known]) -> set[str]:
    return {each.seen.instance.instance_id for each in known if each.gone_at is None}


def _price(table: Mapping[str, float], pool: Pool) -> float | None:
    """Return the price by a table of the settings; a region's own entry goes before the type's."""
    return table.get(f"{pool.region}/{pool.instance_type}", table.get(pool.instance_type))
