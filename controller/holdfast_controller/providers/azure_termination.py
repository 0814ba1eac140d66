"""Deleting machines by their ids: found by name, deleted set by set, and gone when Azure, asked for them by name, knows them no more."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

from holdfast_common.clock import Clock

from holdfast_controller.providers.azure_errors import ABSENT
from holdfast_controller.providers.azure_machines import Seen, seen_of
from holdfast_controller.providers.azure_memory import Known, Memory
from holdfast_controller.providers.azure_resources import BATCH_MAX, Resources
from holdfast_controller.providers.base import Fault, FaultKind, ProviderError

CONFIRM_MAX = 64
"""Machines that are asked for by name in one call of ours; the others have their turn in the next."""


class Terminator:
    """Deletions of one provider."""

    def __init__(self, provider: str, arm: Resources, memory: Memory, clock: Clock) -> None:
        self._provider = provider
        self._arm = arm
        self._memory = memory
        self._clock = clock
        self._turns = itertools.count(1)

    async def terminate(self, wanted: Sequence[Known]) -> list[Fault]:
        """Ask for the deletion of machines, and learn which are gone. What failed is returned, after all others were asked for."""
        faults: list[Fault] = []
        sets: dict[str, list[Known]] = defaultdict(list)
        for known in wanted:
            if known.gone_at is None:
                sets[known.seen.set_name].append(known)
        for found in await asyncio.gather(*(self._in_set(name, machines) for name, machines in sets.items())):
            faults.extend(found)
        return faults

    async def confirm(self, missing: Iterable[Known]) -> None:
        """Ask for machines by name, those first that were not asked for or longest ago, and note which are gone. Raises ProviderError."""
        due = sorted(missing, key=lambda known: known.turn)[:CONFIRM_MAX]
        for known in due:
            known.turn = next(self._turns)
        await asyncio.gather(*map(self._confirm, due))

    async def _confirm(self, known: Known) -> bool:
        said = await self._arm.machine(known.seen.name)
        seen = seen_of(said, self._provider) if said is not None else None
        if said is not None and (seen is None or seen.instance.instance_id == known.seen.instance.instance_id):
            return False
        self._memory.lost(known, self._clock.now())
        return True

    async def _in_set(self, name: str, machines: Sequence[Known]) -> list[Fault]:
        """Delete those not asked for before; look for the others first, and ask again for those that stay."""
        fresh = [known for known in machines if not known.asked]
        again = [known for known in machines if known.asked]
        try:
            fresh += await self._staying(name, again)
        except ProviderError as error:
            return [error.fault, *await self._delete(name, fresh)]
        return await self._delete(name, fresh)

    async def _staying(self, name: str, asked: Sequence[Known]) -> list[Known]:
        """Return what was asked for and is not being deleted."""
        if not asked or not name:
            return list(asked)
        there: dict[str, Seen] = {}
        for said in await self._arm.machines_of(name):
            seen = seen_of(said, self._provider)
            if seen is not None:
                there[seen.instance.instance_id] = seen
        await self.confirm(known for known in asked if known.seen.instance.instance_id not in there)
        listed = [(known, there.get(known.seen.instance.instance_id)) for known in asked]
        return [known for known, seen in listed if seen is not None and seen.provisioning != "deleting"]

    async def _delete(self, name: str, machines: Sequence[Known]) -> list[Fault]:
        if not name:
            return await self._delete_singly(machines)
        faults: list[Fault] = []
        for at in range(0, len(machines), BATCH_MAX):
            batch = machines[at : at + BATCH_MAX]
            try:
                await self._arm.delete_machines(name, [known.seen.name for known in batch])
            except ProviderError as error:
                if error.fault.code in ABSENT or error.fault.kind is FaultKind.CONFIG:
                    faults += await self._delete_singly(batch)  # one that is gone shall not keep the others alive
                else:
                    faults.append(error.fault)
                continue
            for known in batch:
                known.asked = True
        return faults

    async def _delete_singly(self, machines: Sequence[Known]) -> list[Fault]:
        found = await asyncio.gather(*(self._delete_one(known) for known in machines))
        return [fault for fault in found if fault is not None]

    async def _delete_one(self, known: Known) -> Fault | None:
        try:
            absent = await self._arm.delete_machine(known.seen.name)
        except ProviderError as error:
            return error.fault
        known.asked = known.asked or not absent
        if absent:
            self._memory.lost(known, self._clock.now())
        return None
