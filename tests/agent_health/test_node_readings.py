"""Memory, clock, users."""

import asyncio
from pathlib import Path

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_nodeagent.health.fakes import FakeCalls
from holdfast_nodeagent.health.memory import memory_samples
from holdfast_nodeagent.health.node_checks import NodeChecks
from holdfast_nodeagent.health.skew import Skew

PSI = """some avg10=3.00 avg60=2.50 avg300=1.00 total=864729
full avg10=40.00 avg60=12.50 avg300=1.00 total=230327
"""


def proc(tmp_path: Path, meminfo: str, psi: str | None = None) -> Path:
    (tmp_path / "meminfo").write_text(meminfo)
    if psi is not None:
        (tmp_path / "pressure").mkdir()
        (tmp_path / "pressure" / "memory").write_text(psi)
    return tmp_path


def test_memory_as_the_kernel_tells_it(tmp_path: Path) -> None:
    text = "MemTotal:       1000000 kB\nMemFree:   50000 kB\nMemAvailable:    125000 kB\n"
    available, pressure = memory_samples(proc(tmp_path, text, PSI), 5.0)
    assert (available.name, available.value) == ("memory_available_ratio", 0.125)
    assert (pressure.name, pressure.value) == ("memory_pressure_ratio", 0.125)


def test_a_kernel_without_pressure_does_not_support_it(tmp_path: Path) -> None:
    available, pressure = memory_samples(proc(tmp_path, "MemTotal: 4 kB\n"), 5.0)
    assert (pressure.state, pressure.value) == ("unsupported", None)
    assert available.state == "failed"
    assert "MemAvailable" in available.detail


def test_this_machines_memory_can_be_read() -> None:
    available, _ = memory_samples(Path("/proc"), 5.0)
    assert available.value is not None
    assert 0 < available.value < 1


async def test_the_least_difference_of_several_messages_is_the_skew(clock: VirtualClock) -> None:
    skew = Skew(clock)
    for delay_s in (0.4, 0.002, 3.0):
        assert skew.sample() is None
        skew.hear(clock.now() - 7.0 - delay_s)  # ours is 7 s ahead
        await clock.advance(5)
    found = skew.sample()
    assert found is not None
    assert found.value == pytest.approx(7.002)
    assert found.detail == "the node's clock is ahead"


async def test_a_clock_that_is_behind_or_was_set(clock: VirtualClock) -> None:
    skew = Skew(clock)
    for _ in range(3):
        skew.hear(clock.now() + 2.0 - 0.1)
    found = skew.sample()
    assert found is not None
    assert (found.value, found.detail) == (pytest.approx(1.9), "the node's clock is behind")
    clock.step(2.0)  # NTP sets it right: what was measured before is void
    assert skew.sample() is None
    for _ in range(3):
        skew.hear(clock.now() - 0.1)
    again = skew.sample()
    assert again is not None
    assert again.value == pytest.approx(0.1)
    await clock.advance(301)
    assert skew.sample() is None  # nothing was heard for long: nothing is known


async def test_users_are_asked_for_without_waiting_for_ever(clock: VirtualClock) -> None:
    calls = FakeCalls(clock)
    checks = NodeChecks(clock, calls, [], [])
    assert await checks.user_name(0) == "root"
    assert await checks.user_name(3_999_999_999) == "3999999999"
    calls.hanging = {"user 1000"}
    asking = asyncio.ensure_future(checks.user_name(1000))
    await clock.advance(5.1)
    assert await asking is None
