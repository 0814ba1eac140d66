"""A look that was long in coming is asked for again, but not for ever."""

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.fence import fresh


@pytest.mark.parametrize(("takes_s", "looks"), [([0.0], 1), ([0.9], 1), ([20.0, 0.0], 2), ([3.0, 3.0], 2)])
async def test_an_old_answer_is_asked_for_again(takes_s: list[float], looks: int) -> None:
    clock, asked = VirtualClock(1000.0), []

    async def look() -> int:
        await clock.advance(takes_s[len(asked)])
        asked.append(clock.now())
        return len(asked)

    assert await fresh(look, clock) == looks
    assert len(asked) == looks


async def test_how_long_a_look_took_is_not_read_off_a_clock_that_is_set() -> None:
    clock, asked = VirtualClock(1000.0), []

    async def look() -> int:
        await clock.advance(3.0)
        clock.step(-600.0)
        asked.append(clock.now())
        return len(asked)

    assert await fresh(look, clock) == 2
