"""Keeps the NVML process: starts it, hears it, counts the heartbeats it misses, and lets a stuck one be.

A lost GPU or a hung driver holds a call for ever, in a state in which the process cannot be killed. So: after three missed heartbeats
it is told to leave (end of input and SIGTERM, after which it shuts NVML down as soon as no call is under way), and another is started
beside it; never are more than two alive. Only when one has not left a minute after SIGTERM is SIGKILL tried: killing first has frozen
GPUs (dcgm-exporter#84). Nothing here ever waits for a process.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast_common.clock import Clock
from holdfast_common.health.catalogue import TIER_S, Tier
from holdfast_common.health.model import GpuEvent, Sample

from holdfast_nodeagent.gpu import process, protocol
from holdfast_nodeagent.gpu.inventory import Inventory
from holdfast_nodeagent.gpu.process import ChildProcess, NvmlProcess

MAX_ALIVE = 2
"""The stuck one and one more."""
MISSES = 3
"""Heartbeats in a row after which a process is stuck."""
SLACK = 0.1
"""Of an interval: that much later a beat is still in time. The third is thus missed 3.1 intervals after the last that came."""
LOOKS = 5
"""At the process, in an interval, beside one at each moment that a beat is late."""
START_S = 60.0
"""A process that has just been started may take this long to its first beat: without persistence mode the driver loads for each GPU."""
PAUSE_S, MAX_PAUSE_S = 1.0, 300.0
"""Between a process's end and the next one's start; doubled while they do not live for `STEADY_S`."""
STEADY_S = 300.0
SOON_S, UNAVAILABLE_S = 5.0, 60.0
"""A machine without NVML is asked again so soon, then in steps that double, up to this: right after a boot the driver is loaded late, and
slurmd waits for it."""
KILL_AFTER_S = 60.0
"""After SIGTERM. The process itself gives a call 30 s."""
LEAVE_S = 2.0
"""At the agent's end the process gets this long before it is left alone; it ends with the agent by itself."""
MAX_FAULT_LINES = 10
"""Lines that cannot be decoded, in the log."""

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told. Called in the agent's loop; must not block, nor raise."""

    def on_inventory(self, inventory: Inventory) -> None:
        """The GPUs, when NVML was begun and whenever the list has changed."""

    def on_samples(self, tier: Tier, samples: Sequence[Sample], took_s: float) -> None:
        """One round of a tier, all GPUs, and how long the driver took for it."""

    def on_event(self, event: GpuEvent) -> None:
        """An XID, as NVML told it; `gpu` is the uuid."""

    def on_processes(self, processes: Mapping[str, Mapping[int, int]]) -> None:
        """GPU's uuid → pid → bytes in use (0: not told), all GPUs, once per slow round. MIG instances' count for their GPU."""

    def on_missed(self, missed_in_a_row: int) -> None:
        """Another heartbeat is missed, or the process has died, which counts as one; 0: it beats again."""

    def on_unavailable(self, reason: str) -> None:
        """NVML cannot be loaded or begun here; told at each try, until an inventory comes."""


Launch = Callable[[Sequence[str], Mapping[str, str], Callable[[bytes], None]], NvmlProcess]


@dataclass
class _Alive:
    """A process that has been started, and not been seen to end."""

    process: NvmlProcess
    number: int
    started: float
    beats: int = 0
    missed: int = 0
    """Heartbeats in a row."""
    unavailable: bool = False
    """It said that there is no NVML here."""
    told_to_leave: float = 0.0
    killed: bool = False


class Probe:
    """The NVML process, whichever it is at the moment. Times are the clock's monotonic ones."""

    def __init__(
        self,
        library: str,
        tiers: Mapping[Tier, float],
        clock: Clock,
        listener: Listener,
        launch: Launch = ChildProcess,
    ) -> None:
        """`library`: NVML's path, empty: as the loader finds libnvidia-ml.so.1. `tiers`: seconds between two rounds of each."""
        self._library = library
        self._tiers_s = tuple(tiers[tier] for tier in TIER_S)
        self._interval_s = tiers["fast"]
        self._clock = clock
        self._listener = listener
        self._launch = launch
        self._current: _Alive | None = None
        self._leaving: list[_Alive] = []
        self._starts = 0
        self._start_at = 0.0
        self._pause_s = PAUSE_S
        self._absent_s = SOON_S
        self._due: float | None = None
        """When the next beat is late; None: none is awaited, since there is no NVML."""
        self._missed = 0
        self._faults = 0
        self.stalls = 0
        """Heartbeats missed since the agent's start."""

    @property
    def restarts(self) -> int:
        """Starts of the process after its first."""
        return max(0, self._starts - 1)

    @property
    def alive(self) -> int:
        """How many processes have not been seen to end: at most two."""
        return len(self._leaving) + (self._current is not None)

    def read_now(self) -> None:
        """Have all tiers read at once; the samples come to the listener as ever."""
        if self._current is not None:
            self._current.process.ask()

    async def run(self) -> None:
        """Keep it for ever; when cancelled, tell it to leave and wait for that, 2 s at most."""
        try:
            while True:
                now = self._clock.monotonic()
                self._tick(now)
                look_s = self._interval_s / LOOKS
                await self._clock.sleep(look_s if self._due is None else min(look_s, max(0.001, self._due - now)))
        finally:
            await self._end()

    def _tick(self, now: float) -> None:
        self._look_after_leaving(now)
        if self._current is not None:
            status = self._current.process.ended()
            if status is not None:
                self._on_end(self._current, now, status)
        if self._current is None and now >= self._start_at and self.alive < MAX_ALIVE:
            self._start(now)
        if self._due is not None and now >= self._due:
            self._miss(now)

    def _look_after_leaving(self, now: float) -> None:
        for one in list(self._leaving):
            if one.process.ended() is not None:
                self._leaving.remove(one)
                log.info("an NVML process that was stuck has left")
            elif not one.killed and now >= one.told_to_leave + KILL_AFTER_S:
                one.killed = True
                one.process.kill()

    def _start(self, now: float) -> None:
        self._starts = number = self._starts + 1
        try:
            command = process.command(self._library, self._tiers_s)
            child = self._launch(command, process.environment(os.environ), lambda line: self._on_line(number, line))
        except ModuleNotFoundError as error:
            self._no_nvml(str(error))
            self._ask_later(now)
        except OSError as error:
            log.error("the NVML process cannot be started: %s", error.strerror or error)
            self._pause(now)
            if self._missed < MISSES:  # that the machine has no memory or process left is no hang of the driver's
                self._no_nvml(f"the NVML process cannot be started: {error.strerror or error}")
        else:
            self._current = _Alive(child, number, now)
            if self._missed < MISSES:
                self._due = now + START_S

    def _on_end(self, one: _Alive, now: float, status: int) -> None:
        """Whatever it ended of, it should not have; only one that found no NVML leaves by itself."""
        self._current = None
        if one.unavailable:
            self._ask_later(now)
            return
        self._pause(now, one)
        log.error("the NVML process has ended with status %d; the next is started in %.0f s", status, self._start_at - now)
        self._miss(now)

    def _ask_later(self, now: float) -> None:
        """Put off the next try on a machine without NVML."""
        self._start_at = now + self._absent_s
        self._absent_s = min(UNAVAILABLE_S, self._absent_s * 2)

    def _pause(self, now: float, after: _Alive | None = None) -> None:
        """Put off the next start, the longer the more often the processes ended soon."""
        if after is not None and now - after.started >= STEADY_S:
            self._pause_s = PAUSE_S
        self._start_at = now + self._pause_s
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2)

    def _miss(self, now: float) -> None:
        self._due = now + self._interval_s
        self._missed += 1
        self.stalls += 1
        one = self._current
        if one is not None:
            one.missed += 1
            if one.missed >= MISSES and (one.beats or now >= one.started + START_S):
                self._retire(one, now)
        self._listener.on_missed(self._missed)

    def _retire(self, one: _Alive, now: float) -> None:
        """Tell a stuck process to leave. It may do so, or not."""
        log.error("the NVML process has missed %d heartbeats and is told to leave", self._missed)
        one.told_to_leave = now
        one.process.leave()
        self._leaving.append(one)
        self._current = None
        self._pause(now, one)

    def _on_line(self, number: int, line: bytes) -> None:
        one = self._current
        if one is None or one.number != number:
            return  # it was told to leave, and is heard no more
        try:
            said = protocol.decode(line, self._clock.now())
        except protocol.ProtocolError as error:
            self._faults += 1
            if self._faults <= MAX_FAULT_LINES:
                log.error("the NVML process wrote what it should not: %s", error)
        else:
            self._take(one, said)

    def _take(self, one: _Alive, said: protocol.Message | None) -> None:
        match said:
            case protocol.Beat():
                self._beat(one)
            case protocol.Samples():
                self._listener.on_samples(said.tier, said.samples, said.took_s)
            case protocol.GpuProcesses():
                self._listener.on_processes(said.gpus)
            case GpuEvent():
                self._listener.on_event(said)
            case Inventory():
                self._absent_s = SOON_S
                self._listener.on_inventory(said)
            case protocol.Unavailable():
                one.unavailable = True
                self._no_nvml(said.reason)

    def _beat(self, one: _Alive) -> None:
        self._due = self._clock.monotonic() + self._interval_s * (1 + SLACK)
        one.beats, one.missed = one.beats + 1, 0
        self._none_missed()

    def _no_nvml(self, reason: str) -> None:
        self._due = None
        self._none_missed()
        self._listener.on_unavailable(reason)

    def _none_missed(self) -> None:
        if self._missed:
            self._missed = 0
            self._listener.on_missed(0)

    async def _end(self) -> None:
        """Tell every process to leave; those that do not, end by themselves once their call is over."""
        everyone = [*self._leaving, *([self._current] if self._current is not None else [])]
        self._current = None
        for one in everyone:
            one.process.leave()
        waited_s = 0.0
        while waited_s < LEAVE_S and any(one.process.ended() is None for one in everyone):
            await self._clock.sleep(0.05)
            waited_s += 0.05
        for one in everyone:
            one.process.abandon()
