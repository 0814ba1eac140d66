"""Calls spread so that a cloud need not throttle them: a token bucket per API and region, kept on our side.

The cloud's own buckets are the account's: others draw from them as well, so a throttle can still come. Then ours is taken for empty.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from holdfast_common.clock import Clock

from holdfast_controller.providers.base import Fault, FaultKind, ProviderError


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket's size: the most calls at once, and how many come back in a second."""

    capacity: float
    refill_per_s: float


@dataclass(slots=True)
class _Level:
    tokens: float
    """May be negative: so many are promised to those that wait."""
    at: float


class Buckets:
    """The buckets of one account. Calls wait in the order of their coming."""

    def __init__(self, rate_of: Callable[[str], Rate | None], clock: Clock) -> None:
        """`rate_of` tells an API's rate; one without is not held back."""
        self._rate_of = rate_of
        self._clock = clock
        self._levels: dict[tuple[str, str], _Level] = {}

    async def draw(self, region: str, api: str, tokens: float = 1.0, *, patience_s: float) -> None:
        """Wait until the call may be made. Raises ProviderError (THROTTLE) at once where that would take longer than `patience_s`."""
        await self.draw_all(region, {api: tokens}, patience_s=patience_s)

    async def draw_all(self, region: str, wanted: Mapping[str, float], *, patience_s: float) -> None:
        """Wait until a call that draws from several buckets may be made. Raises as `draw` does, and then has drawn from none.

        More tokens than a bucket holds are waited for as if it held them: the cloud answers such a call as it likes.
        """
        draws: list[tuple[_Level, float]] = []
        longest_s, slowest = 0.0, ""
        for api, tokens in wanted.items():
            rate = self._rate_of(api)
            if rate is None:
                continue
            level, drawn = self._level(region, api, rate), min(tokens, rate.capacity)
            draws.append((level, drawn))
            wait_s = (drawn - level.tokens) / rate.refill_per_s
            if wait_s > longest_s:
                longest_s, slowest = wait_s, api
        if longest_s > patience_s:
            message = f"{slowest} in {region} is asked for too often: the next one in {longest_s:.1f} s"
            raise ProviderError(Fault(FaultKind.THROTTLE, "OwnRateLimit", message, retry_s=longest_s - patience_s / 2))
        for level, drawn in draws:
            level.tokens -= drawn
        if longest_s:
            await self._clock.sleep(longest_s)

    def give_back(self, region: str, api: str, tokens: float, *, used: float = 0.0) -> None:
        """Put back what is not used of so many tokens that were drawn."""
        rate = self._rate_of(api)
        if rate is not None:
            level = self._level(region, api, rate)
            level.tokens = min(rate.capacity, level.tokens + max(0.0, min(tokens, rate.capacity) - used))

    def throttled(self, region: str, api: str) -> None:
        """The cloud throttled a call all the same: somebody else has emptied its bucket."""
        rate = self._rate_of(api)
        if rate is not None:
            level = self._level(region, api, rate)
            level.tokens = min(level.tokens, 0.0)

    def _level(self, region: str, api: str, rate: Rate) -> _Level:
        now = self._clock.monotonic()
        level = self._levels.setdefault((region, api), _Level(rate.capacity, now))
        level.tokens = min(rate.capacity, level.tokens + max(0.0, now - level.at) * rate.refill_per_s)
        level.at = now
        return level
