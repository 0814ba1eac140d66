"""The NVML process is kept: heartbeats, stuck ones, restarts. In virtual time, with processes that do what the test says."""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from holdfast_common.clock import VirtualClock
from holdfast_common.health.catalogue import TIER_S
from holdfast_nodeagent.gpu import process, supervisor
from holdfast_nodeagent.gpu.supervisor import Probe

Heard = Any
"""From conftest.py, which importlib mode does not let tests import."""


class Scripted:
    """A process that lives, beats and hears as it is told."""

    def __init__(self, say: Callable[[bytes], None], *, beats: bool, obeys: bool) -> None:
        self._say = say
        self.beats = beats
        self.obeys = obeys
        self.status: int | None = None
        self.asked = self.left = self.killed = self.abandoned = 0

    def say(self, **said: object) -> None:
        self._say(json.dumps(said).encode())

    def ended(self) -> int | None:
        return self.status

    def ask(self) -> None:
        self.asked += 1

    def leave(self) -> None:
        self.left += 1
        if self.obeys:
            self.status = 0

    def kill(self) -> None:
        self.killed += 1

    def abandon(self) -> None:
        self.abandoned += 1


class Machine:
    """Starts scripted processes, and has those that beat do so every 5 s."""

    def __init__(self, clock: VirtualClock, heard: Heard) -> None:
        self.clock = clock
        self.heard = heard
        self.started: list[Scripted] = []
        self.started_at: list[float] = []
        self.beats = self.obeys = True
        self.fault: Exception | None = None
        self.began = clock.monotonic()
        self.probe = Probe("", TIER_S, clock, heard, self._launch)

    def _launch(self, command: Sequence[str], environment: Mapping[str, str], say: Callable[[bytes], None]) -> Scripted:
        if self.fault is not None:
            raise self.fault
        self.started.append(Scripted(say, beats=self.beats, obeys=self.obeys))
        self.started_at.append(self.clock.monotonic() - self.began)
        return self.started[-1]

    @property
    def last(self) -> Scripted:
        return self.started[-1]

    async def run(self, seconds: int) -> None:
        """Let time pass, with a beat each second from those that beat."""
        for _ in range(seconds):
            for one in self.started:
                if one.beats and one.status is None:
                    one.say(kind="beat")
            await self.clock.advance(1.0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def machine(clock: VirtualClock, heard: Heard) -> AsyncIterator[Machine]:
    machine = Machine(clock, heard)
    task = asyncio.create_task(machine.probe.run())
    await clock.advance(0)
    yield machine
    task.cancel()
    await clock.advance(supervisor.LEAVE_S + 0.1)
    with suppress(asyncio.CancelledError):
        await task


async def test_a_healthy_process_is_left_alone(machine: Machine) -> None:
    await machine.run(3600)
    assert len(machine.started) == 1
    assert machine.heard.missed == []
    assert (machine.probe.restarts, machine.probe.stalls) == (0, 0)
    machine.probe.read_now()
    assert machine.last.asked == 1


async def test_the_third_heartbeat_is_missed_after_three_intervals(machine: Machine) -> None:
    await machine.run(10)
    machine.last.beats = False
    await machine.run(14)  # the last beat was a second before these
    assert machine.heard.missed == [1, 2]
    assert machine.last.left == 0
    await machine.run(1)
    assert machine.heard.missed == [1, 2, 3]
    assert machine.started[0].left == 1
    assert machine.started[0].killed == 0


async def test_a_late_beat_begins_the_count_anew(machine: Machine) -> None:
    machine.last.beats = False
    machine.last.say(kind="beat")
    await machine.run(8)
    machine.last.say(kind="beat")
    await machine.run(8)
    assert machine.heard.missed == [1, 0, 1]
    assert machine.last.left == 0


async def test_beside_a_stuck_process_one_more_is_started_and_never_a_third(machine: Machine) -> None:
    await machine.run(5)
    machine.beats = machine.obeys = False
    first = machine.last
    first.beats = first.obeys = False
    await machine.run(20)
    assert len(machine.started) == 2
    machine.last.beats = True
    await machine.run(5)
    machine.last.beats = False
    await machine.run(1200)
    assert len(machine.started) == 2
    assert machine.probe.alive == supervisor.MAX_ALIVE
    assert [one.left for one in machine.started] == [1, 1]
    assert machine.heard.missed[-1] > 100  # it is said as long as it lasts


async def test_one_that_does_not_leave_is_killed_a_minute_later_and_once(machine: Machine) -> None:
    await machine.run(5)
    stuck = machine.last
    stuck.beats = stuck.obeys = False
    await machine.run(round(17 + supervisor.KILL_AFTER_S - 3))
    assert (stuck.left, stuck.killed) == (1, 0)
    await machine.run(600)
    assert (stuck.left, stuck.killed) == (1, 1)


async def test_when_the_hang_is_lifted_the_stuck_ones_leave_and_a_new_one_beats(machine: Machine) -> None:
    await machine.run(5)
    machine.beats = machine.obeys = False
    machine.last.beats = machine.last.obeys = False
    await machine.run(200)
    assert len(machine.started) == 2
    assert machine.probe.alive == 2
    machine.beats = True
    for one in machine.started:
        one.status = 0
    await machine.run(10)
    assert len(machine.started) == 3
    assert machine.heard.missed[-1] == 0
    assert machine.probe.alive == 1


async def test_what_a_process_says_after_it_was_told_to_leave_is_not_heard(machine: Machine) -> None:
    await machine.run(5)
    stuck = machine.last
    stuck.beats = stuck.obeys = machine.beats = False
    await machine.run(17)
    stuck.say(kind="beat")
    assert machine.heard.missed[-1] >= 3


async def test_a_process_may_take_a_minute_to_begin_and_no_longer(machine: Machine) -> None:
    machine.last.beats = machine.beats = False
    await machine.run(round(supervisor.START_S - 1))
    assert machine.heard.missed == []
    await machine.run(15)
    assert machine.heard.missed == [1, 2, 3]
    assert machine.started[0].left == 1


async def test_a_slow_start_after_a_hang_is_not_taken_for_another_hang(machine: Machine) -> None:
    await machine.run(5)
    machine.last.beats = machine.beats = False
    await machine.run(60)  # the second has had 40 s
    assert len(machine.started) == 2
    assert machine.last.left == 0
    machine.last.beats = True
    await machine.run(5)
    assert machine.heard.missed[-1] == 0


async def test_a_process_that_dies_counts_as_a_miss_and_is_restarted_after_growing_pauses(machine: Machine) -> None:
    machine.beats = False
    for _ in range(12):
        machine.last.status = -11
        seen = len(machine.started)
        while len(machine.started) == seen:
            await machine.run(1)
    pauses = [round(later - earlier) for earlier, later in zip(machine.started_at, machine.started_at[1:], strict=False)]
    assert pauses[:4] == [pytest.approx(pause, abs=1) for pause in (1, 2, 4, 8)]
    assert pauses[-1] == pytest.approx(supervisor.MAX_PAUSE_S, abs=1)
    assert machine.heard.missed[:3] == [1, 2, 3]
    assert machine.probe.restarts == 12


async def test_a_process_that_lived_long_is_restarted_soon(machine: Machine) -> None:
    for _ in range(8):
        machine.last.status = -11
        seen = len(machine.started)
        while len(machine.started) == seen:
            await machine.run(1)
    await machine.run(round(supervisor.STEADY_S + 1))
    machine.last.status = -11
    seen = len(machine.started)
    await machine.run(3)
    assert len(machine.started) == seen + 1


async def test_a_driver_that_comes_late_is_soon_found(machine: Machine) -> None:
    tries = []
    for waits_s in (5, 10, 20, 40, 60, 60):
        machine.last.say(kind="unavailable", reason="Driver Not Loaded")
        machine.last.status = 3
        seen = len(machine.started)
        await machine.run(waits_s)
        tries.append(len(machine.started) - seen)
        await machine.run(2)
    assert tries == [0] * 6
    assert len(machine.started) == 7


async def test_without_nvml_it_is_asked_once_a_minute_and_nothing_is_missed(machine: Machine) -> None:
    for _ in range(10):
        machine.last.say(kind="unavailable", reason="Driver Not Loaded")
        machine.last.status = 3
        await machine.run(61)
    assert machine.heard.missed == []
    assert machine.heard.unavailable == ["Driver Not Loaded"] * 10
    assert 10 <= len(machine.started) <= 11


async def test_a_try_without_nvml_that_hangs_is_missed(machine: Machine) -> None:
    machine.beats = False
    machine.last.say(kind="unavailable", reason="Driver Not Loaded")
    machine.last.status = 3
    await machine.run(round(62 + supervisor.START_S + 12))
    assert machine.heard.missed[:3] == [1, 2, 3]


async def test_the_binding_is_not_installed(clock: VirtualClock, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "importlib", type("Lost", (), {"util": type("Util", (), {"find_spec": staticmethod(lambda name: None)})}))
    machine = Machine(clock, heard)
    task = asyncio.create_task(machine.probe.run())
    await clock.advance(70)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert heard.unavailable == ["the package nvidia-ml-py is not installed"] * 4
    assert machine.started == []


async def test_a_process_that_cannot_be_started_is_tried_again(clock: VirtualClock, heard: Heard) -> None:
    machine = Machine(clock, heard)
    machine.fault = OSError(11, "Resource temporarily unavailable")
    task = asyncio.create_task(machine.probe.run())
    await clock.advance(20)
    assert set(heard.unavailable) == {"the NVML process cannot be started: Resource temporarily unavailable"}
    assert heard.missed == []  # three would have the machine evacuated
    machine.fault = None
    await machine.run(20)
    task.cancel()
    await clock.advance(1)
    with suppress(asyncio.CancelledError):
        await task
    assert len(machine.started) == 1
    assert heard.missed == []


async def test_what_cannot_be_decoded_is_said_and_does_no_harm(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    for _ in range(50):
        machine.last.say(kind="samples", tier="fast")
    await machine.run(60)
    assert len(caplog.records) == supervisor.MAX_FAULT_LINES
    assert machine.heard.missed == []


async def test_at_the_end_it_is_told_to_leave_and_never_killed(clock: VirtualClock, heard: Heard) -> None:
    machine = Machine(clock, heard)
    task = asyncio.create_task(machine.probe.run())
    await clock.advance(1)
    machine.last.obeys = False
    task.cancel()
    await clock.advance(supervisor.LEAVE_S + 0.1)
    assert task.done()
    assert (machine.last.left, machine.last.killed, machine.last.abandoned) == (1, 0, 1)


def test_the_processes_environment_is_only_what_it_needs() -> None:
    ours = {
        "LD_LIBRARY_PATH": "/opt",
        "HOLDFAST_FAKE_NVML": "/x",
        "HOLDFAST_FAKE_NVML_CALLS": "/y",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "SECRET": "s",
        "LD_PRELOAD": "/z",
        "PYTHONPATH": "/p",
    }
    assert process.environment(ours).keys() == ours.keys() - {"SECRET", "LD_PRELOAD", "PYTHONPATH"} | {"PATH", "LC_ALL", "MALLOC_ARENA_MAX"}


def test_the_process_is_started_isolated() -> None:
    command = process.command("/lib/x.so", [5.0, 15.0, 60.0])
    assert command[:4] == [sys.executable, "-I", "-S", "-c"]
    assert command[-4:] == ["/lib/x.so", "5.0", "15.0", "60.0"]
