"""A day of recorded spot markets: a gang goes where there are machines, loses nothing that was noticed, and leaves nothing behind."""

from pathlib import Path

import pytest
from sim_invariants import always, settle
from sim_market import BOOT_S, NOTICE_S, TracedMarket

SHARE = 0.9
"""Of the time in which some zone had room for the gang, so much at least is spent in training: what is lost are boots and moves."""
CHANGING = {"h100": (16, 664), "v100": (4, 6507)}
"""Nodes, and the step of a recording from which on no zone has room for them for long within four hours."""


def follow(path: Path, trace: str, nodes: int, hours: float, start_step: int = 0) -> None:
    """Let a job run for so long, then to its end. A V100 zone that had one machine counts as one that has 16."""
    market = TracedMarket(path, trace, nodes=nodes + 8, start_step=start_step, per_unit=1 if trace == "h100" else 16)
    world = market.world
    world.start()
    try:
        job = world.submit(nodes, work=1e9, save_s=5.0, every_s=600.0)
        for _ in market.hours(hours):
            always(world)
            assert not world.faults, world.story()
        trained, possible = max(attempt.step for attempt in job.attempts), market.possible_s(nodes, hours)
        print(f"{trace}, {nodes} nodes: {trained:.0f} of {possible:.0f} s, {len(job.attempts) - 1} moves, {market.reclaimed} reclaims")
        assert SHARE * possible <= trained <= possible + BOOT_S + NOTICE_S
        market.endless()
        job.work = trained + 30.0
        settle(world, 4000.0, quiet_s=400.0)
        assert not world.faults, world.story()
    finally:
        world.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("trace", ["v100", pytest.param("h100", marks=pytest.mark.long)])
def test_four_changing_hours(tmp_path: Path, trace: str) -> None:
    nodes, start = CHANGING[trace]
    follow(tmp_path, trace, nodes, 4.0, start)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("nodes", [1, 4, 16])
@pytest.mark.parametrize("trace", ["h100", "v100"])
def test_a_day(tmp_path: Path, trace: str, nodes: int) -> None:
    follow(tmp_path, trace, nodes, 24.0)
