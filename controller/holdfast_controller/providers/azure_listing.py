"""Our machines among all of the resource group: one list for every look, three others only where something is missing from it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast_common.clock import Clock

from holdfast_controller.providers.azure_config import AzureConfig
from holdfast_controller.providers.azure_machines import Seen, addresses, power_of, seen_of
from holdfast_controller.providers.azure_memory import Memory
from holdfast_controller.providers.azure_resources import Resources
from holdfast_controller.providers.azure_wire import (
    PREFIX,
    last_part,
    ours,
    strings,
    table,
    unix,
)
from holdfast_controller.providers.base import Instance, ProviderError
from holdfast_controller.providers.tags import TAG_CLUSTER

STATES_EVERY_S = 30.0
"""How old run-time states may be; they tell of machines that have shut themselves down, which Azure keeps, and bills."""
SWEEP_EVERY_S = 60.0
EMPTY_SET_S = 7200.0
"""For so long an empty set stands in the way of the same launch being made again."""
LITTER_S = 600.0
"""For so long a machine must have looked at every look as if it had never been made."""
STOPPED_S = 300.0
"""For so long a machine must have been stopped at every look: one that Azure restarts elsewhere is so for a while, too."""
SWEEP_MAX = 16
"""Deletions of one sweep."""
_SETTLED = {"succeeded", "failed", "canceled"}


class Listing:
    """The lists of one provider, and what is kept of them from one look to the next."""

    def __init__(self, config: AzureConfig, arm: Resources, memory: Memory, clock: Clock) -> None:
        self._config = config
        self._arm = arm
        self._memory = memory
        self._clock = clock
        self._sets: dict[str, dict[str, Any]] = {}
        self._power: dict[str, str] = {}
        self._power_at = float("-inf")
        self._stopped: dict[str, float] = {}
        self._litter: dict[str, float] = {}
        self._bare: dict[str, float] = {}
        self._swept_at = clock.monotonic()

    async def of_set(self, name: str, launch_id: str) -> tuple[Instance, ...]:
        """Return what lives of one set. Raises ProviderError."""
        said = await self._arm.machines_of(name)
        tags = {TAG_CLUSTER: self._config.cluster}
        seen = (seen_of(each, self._config.name, tags=tags, launch_id=launch_id) for each in said)
        mine = (each for each in seen if each is not None and each.set_name == name and each.instance.launch_id == launch_id)
        found = [self._memory.recalled(each) for each in mine]
        return tuple(each.instance for each in await self._noted([each for each in found if not each.litter]))

    async def all(self) -> tuple[Instance, ...]:
        """Return all machines of the cluster that the resource group lists. Whole, or raises ProviderError."""
        said = await self._arm.machines()
        await self._learn_sets(said)
        await self._learn_power()
        seen = [found for each in said if (found := self._seen(each)) is not None and ours(found.instance.tags, self._config.cluster)]
        noted = await self._noted(seen)
        now = self._clock.monotonic()
        self._litter = {each.resource_id: self._litter.get(each.resource_id, now) for each in noted if each.litter}
        await self._sweep(noted)
        return tuple(each.instance for each in noted)

    def _seen(self, said: Mapping[str, Any]) -> Seen | None:
        owner = last_part(table(table(said, "properties"), "virtualMachineScaleSet").get("id"))
        tags = strings(table(self._sets.get(owner, {}), "tags"))
        return seen_of(said, self._config.name, tags=tags, power=self._power.get(str(said.get("id", "")).lower(), ""))

    async def _learn_sets(self, said: Sequence[Mapping[str, Any]]) -> None:
        """List the sets where a machine of one that looks like ours does not itself say whose it is: Azure promises no copy of the tags."""
        for each in said:
            owner = last_part(table(table(each, "properties"), "virtualMachineScaleSet").get("id"))
            if owner.startswith(PREFIX) and owner not in self._sets and TAG_CLUSTER not in table(each, "tags"):
                await self._list_sets()
                return

    async def _list_sets(self) -> None:
        self._sets = {str(each.get("name", "")).lower(): each for each in await self._arm.sets()}

    async def _learn_power(self) -> None:
        if self._clock.monotonic() - self._power_at < STATES_EVERY_S:
            return
        said = await self._arm.states()
        self._power = {str(each.get("id", "")).lower(): power_of(table(each, "properties")) for each in said}
        self._power_at = self._clock.monotonic()
        stopped = [key for key, power in self._power.items() if power == "stopped"]
        self._stopped = {key: self._stopped.get(key, self._power_at) for key in stopped}

    async def _noted(self, seen: Sequence[Seen]) -> list[Seen]:
        """Note machines, with their addresses: an interface keeps its address for life, so that only new ones are asked for."""
        noted = self._memory.note(seen, self._clock.now())
        if any(not each.instance.address and each.placed for each in noted):
            found = addresses(await self._arm.cards())
            noted = self._memory.note([_at(each, found.get(each.resource_id, "")) for each in noted], self._clock.now())
        return noted

    async def _sweep(self, seen: Sequence[Seen]) -> None:
        """Delete what is left behind, now and then: sets without machines, machines that were never made or have shut themselves down.

        What cannot be deleted now is tried again in the next sweep.
        """
        if self._clock.monotonic() - self._swept_at < SWEEP_EVERY_S:
            return
        self._swept_at = self._clock.monotonic()
        litter = [each for each in seen if each.litter and self._litter[each.resource_id] <= self._swept_at - LITTER_S]
        long_ago = self._swept_at - STOPPED_S
        stopped = [each for each in seen if each.shut_down and self._stopped.get(each.resource_id, float("inf")) <= long_ago]
        try:
            for each in (*stopped, *litter)[:SWEEP_MAX]:
                await self._arm.delete_machine(each.name)
            await self._list_sets()
            for name in self._left({each.set_name for each in seen})[:SWEEP_MAX]:
                if not await self._arm.machines_of(name):
                    await self._arm.delete_set(name)
        except ProviderError:
            return

    def _left(self, used: set[str]) -> list[str]:
        """Return the sets of ours that are old, at rest and without machines.

        Those whose own word is that they have none may go at once. A failed one counts machines that were never made: it goes where the
        list has had none of it in any sweep for as long.
        """
        bare = {name: said for name, said in self._sets.items() if name not in used and self._is_old(said)}
        self._bare = {name: self._bare.get(name, self._swept_at) for name in bare}
        return [
            name
            for name, said in bare.items()
            if table(said, "sku").get("capacity") == 0 or (_state(said) == "failed" and self._swept_at - self._bare[name] >= EMPTY_SET_S)
        ]

    def _is_old(self, said: Mapping[str, Any]) -> bool:
        """Whether a set is ours, at rest, and was made long ago."""
        created, name = unix(table(said, "properties").get("timeCreated")), str(said.get("name", "")).lower()
        mine = name.startswith(PREFIX) and ours(strings(table(said, "tags")), self._config.cluster)
        return mine and _state(said) in _SETTLED and created > 0 and self._clock.now() - created > EMPTY_SET_S


def _state(said: Mapping[str, Any]) -> str:
    return str(table(said, "properties").get("provisioningState", "")).lower()


def _at(seen: Seen, address: str) -> Seen:
    return replace(seen, instance=replace(seen.instance, address=address)) if address else seen
