"""Telling slurmctld where nodes are, many in one command.

Each command is a process, and each node would need two: at 1,000 agents that come at once (a large gang that boots, a restart of the
controller) that took minutes (measured). Whatever is asked for while one batch is being told goes into the next.
"""

import asyncio
from collections.abc import Sequence

from holdfast_common.clock import Clock
from holdfast_common.errors import HoldfastError, SlurmRefused
from holdfast_common.fence import fresh
from holdfast_slurm.client import Slurm


class _Wish:
    """One node's address, until it is told or refused."""

    def __init__(self, node: str, address: str) -> None:
        self.node = node
        self.address = address
        self.settled = False
        self.fault: HoldfastError | None = None

    def settle(self, fault: HoldfastError | None = None) -> None:
        """Note what came of it."""
        self.settled, self.fault = True, fault


class Addresses:
    """Who asks first tells for all that wait."""

    def __init__(self, slurm: Slurm, clock: Clock) -> None:
        self._slurm = slurm
        self._clock = clock
        self._turn = asyncio.Lock()
        self._wishes: dict[_Wish, None] = {}

    async def tell(self, node: str, address: str) -> None:
        """Tell slurmctld where the node is, if it does not know. Raises `SlurmUnavailable`, `SlurmRefused`."""
        wish = _Wish(node, address)
        self._wishes[wish] = None
        try:
            async with self._turn:
                if not wish.settled:  # else it went along with somebody's before it
                    await self._tell([each for each in self._wishes if not each.settled])
        finally:
            del self._wishes[wish]
        if wish.fault is not None:
            raise wish.fault

    async def _tell(self, wishes: Sequence[_Wish]) -> None:
        fault: HoldfastError | None = None
        try:
            await self._together(wishes)
        except SlurmRefused as error:
            if len(wishes) > 1:  # one of them is at fault, and none else shall suffer for it
                half = len(wishes) // 2
                await self._tell(wishes[:half])
                await self._tell(wishes[half:])
                return
            fault = error
        except HoldfastError as error:
            fault = error
        for wish in wishes:
            wish.settle(fault)

    async def _together(self, wishes: Sequence[_Wish]) -> None:
        names = list(dict.fromkeys(wish.node for wish in wishes))
        async with self._slurm.together():
            known = {view.name: view.address for view in await fresh(lambda: self._slurm.nodes(names), self._clock)}
            wrong = {wish.node: wish.address for wish in wishes if wish.address and known.get(wish.node) != wish.address}
            if wrong:
                await self._slurm.set_addresses(wrong)
