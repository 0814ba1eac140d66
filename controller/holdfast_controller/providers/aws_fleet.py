"""A launch over several pools: one instant EC2 fleet, all of it in one zone, or nothing below the minimum.

EC2 picks the zone and the pools there, by what it knows of its capacity; a pool that refuses costs no call of its own.
"""

import asyncio
from collections.abc import Sequence

from holdfast_common.clock import Clock

from holdfast_controller.providers.aws_calls import AwsCalls
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.aws_fleet_wire import CURABLE, Answer, answer_of, fleet_fault, fleet_parameters, templates
from holdfast_controller.providers.aws_machine import template_of
from holdfast_controller.providers.aws_templates import LaunchTemplates
from holdfast_controller.providers.aws_wire import token_of
from holdfast_controller.providers.base import LaunchRequest, Pool, ProviderError

BARREN_MAX = 1000
"""Launches remembered for which EC2 started nothing."""


class Fleets:
    """Launches by CreateFleet in one account."""

    def __init__(self, calls: AwsCalls, config: AwsConfig, clock: Clock) -> None:
        self._calls = calls
        self._config = config
        self._clock = clock
        self._templates = LaunchTemplates(calls, config, clock)
        self._barren: dict[str, int] = {}

    async def launch(self, request: LaunchRequest, pools: Sequence[Pool]) -> Answer:
        """Start instances in one zone of the pools'. Three calls, with a configured template four; raises ProviderError.

        An answer without instances is an answer: its token would bring it for ever. So the next try has another token, if we still
        know; a launch that has started something keeps its token.
        """
        region = request.pool.region
        texts = {text for pool in pools if (text := template_of(self._config, request, pool))}
        bases = {text: await self._templates.base(region, text) for text in sorted(texts)}
        plan = templates(self._config, request, pools, bases)
        await asyncio.gather(*(self._templates.make(region, template, request.launch_id) for template in plan))
        tries = self._barren.get(request.launch_id, 0)
        parameters = fleet_parameters(self._config, request, plan, token_of(request.launch_id, tries))
        names = [template.name for template in plan]
        try:
            said = await self._calls.call(region, "create_fleet", **parameters)
        except ProviderError as error:
            fault = fleet_fault(error.fault)
            if fault.kind not in CURABLE:  # those are asked again, and the fleet may even be under way
                self._templates.drop(region, names)
            raise ProviderError(fault) from error
        answer = answer_of(self._config, request, pools, said, self._clock.now())
        if answer.is_over:
            self._templates.drop(region, names)
        if not answer.instances:
            self._remember(request.launch_id, tries + 1)
        return answer

    def tidy(self) -> None:
        """Delete beside what earlier launches may have left in any region."""
        for region in self._config.regions if self._config.fleets else ():
            self._templates.sweep(region)

    async def close(self) -> None:
        """Leave what is to be tidied up."""
        await self._templates.close()

    def _remember(self, launch_id: str, tries: int) -> None:
        self._barren.pop(launch_id, None)
        self._barren[launch_id] = tries
        if len(self._barren) > BARREN_MAX:
            del self._barren[next(iter(self._barren))]
