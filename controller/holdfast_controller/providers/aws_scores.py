"""How likely spot instances are to be had, by EC2's GetSpotPlacementScores: 1 to 10 for each zone, no promise.

A score is of a group of instance types as a whole, and EC2 scores fewer than three types always low, whatever there is (its documentation
says so): for such a group it is not asked at all, since what it would say is no information and looks like a refusal.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from holdfast_controller.providers.aws_calls import AwsCalls
from holdfast_controller.providers.aws_config import AwsConfig
from holdfast_controller.providers.base import Pool, ProviderError

LEAST_TYPES = 3
BEST = 10.0
_log = logging.getLogger(__name__)


class PlacementScores:
    """The scores of one account's regions."""

    def __init__(self, calls: AwsCalls, config: AwsConfig) -> None:
        self._calls = calls
        self._config = config
        self._zones: dict[str, dict[str, str]] = {}

    async def of(self, pools: Sequence[Pool]) -> dict[str, float]:
        """Return the score, 0 to 1, of each pool whose zone EC2 scores; a region that does not answer is left out, and logged."""
        regions = sorted({pool.region for pool in pools})
        answers = await asyncio.gather(*(self._in_region(region, [pool for pool in pools if pool.region == region]) for region in regions))
        return {name: score for answer in answers for name, score in answer.items()}

    async def _in_region(self, region: str, pools: Iterable[Pool]) -> dict[str, float]:
        asked = list(pools)
        types = sorted({pool.instance_type for pool in asked})
        if len(types) < LEAST_TYPES:
            return {}
        try:
            names = await self._zone_names(region)
            said = await self._calls.pages(
                region,
                "get_spot_placement_scores",
                "SpotPlacementScores",
                InstanceTypes=types,
                TargetCapacity=self._config.score_instances,
                SingleAvailabilityZone=True,
                RegionNames=[region],
            )
        except ProviderError as error:
            _log.warning("%s: no placement scores: %s", region, error)
            return {}
        scores = {names.get(str(each.get("AvailabilityZoneId", "")), ""): each.get("Score") for each in said}
        known = {zone: score / BEST for zone, score in scores.items() if zone and isinstance(score, int) and 0 <= score <= BEST}
        return {pool.name: known[pool.zone] for pool in asked if pool.zone in known}

    async def _zone_names(self, region: str) -> dict[str, str]:
        """Return zone id → this account's name for it, which never changes."""
        if region not in self._zones:
            answer = await self._calls.call(region, "describe_availability_zones")
            self._zones[region] = {str(zone["ZoneId"]): str(zone["ZoneName"]) for zone in answer.get("AvailabilityZones", [])}
        return self._zones[region]
