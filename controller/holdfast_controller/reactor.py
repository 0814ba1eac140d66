"""The one loop: event → journal → fleet → decisions → journal → effects, whose outcome is an event again.

Everything between two awaits is synchronous, so the fleet is never seen half changed. A command's effect starts only after the command is
durable. Commands that had no outcome when the controller died are carried out again at the start, marked as resumed: each effect looks up
first whether its deed is done.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from holdfast_common.clock import Clock
from holdfast_common.faults import fault_point

from holdfast_controller.clock_steps import LONGEST_S, STEP_S
from holdfast_controller.commands import Command
from holdfast_controller.decide import decide
from holdfast_controller.events import ClockStepped, CommandFinished, CommandIssued, Event, Ticked
from holdfast_controller.fleet import Fleet
from holdfast_controller.journal import Journal
from holdfast_controller.plan import Plans

MAX_ROUNDS = 4
"""How often decisions are asked again within one batch: a binding, say, makes the next step due."""
LARGE = 200
PAUSE_S = 2e-5
"""Seconds for each node of a fleet of more than `LARGE`, between a batch and the next: what comes meanwhile shares a round of decisions,
which costs up to 10 ms at 1,000 nodes. When 1,000 agents came at once, deciding for each of them took most of the time (measured)."""

log = structlog.get_logger()


class Effects(Protocol):
    """Carries commands out."""

    async def run(self, command: Command, *, resumed: bool) -> tuple[Event, ...]:
        """Do it and return what came of it: exactly one `CommandFinished` (its id is filled in by the reactor), and facts before it."""


class Reactor:
    """Owns the fleet; nothing else changes it."""

    def __init__(
        self,
        journal: Journal,
        fleet: Fleet,
        plans: Callable[[], Plans],
        effects: Effects,
        clock: Clock,
        resync: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`resync` has the clock follow the wall clock, and returns by how much that was set (`clock_steps`)."""
        self.fleet = fleet
        self.journal = journal
        self._plans = plans
        self._effects = effects
        self._clock = clock
        self._resync = resync
        self._queue: asyncio.Queue[tuple[Event, asyncio.Future[None] | None]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._next_command = 1 + max((record.command_id for record in fleet.commands.values()), default=0)
        self.deciding = False
        """Set once Slurm has been looked at: before that nothing is decided."""
        self.on_busy: Callable[[], None] = lambda: None
        """Called when something begins for which Slurm is to be asked often: the next look may be seconds away."""
        self.listeners: list[Callable[[Event], None]] = []
        """Each is shown every event and command, once the fleet has taken it in; must not block or raise."""
        self._busy = False
        self._next_batch = 0.0
        self.seq = 0

    def post(self, event: Event) -> None:
        """Take an event in, soon."""
        self._queue.put_nowait((event, None))

    async def record(self, event: Event) -> None:
        """Take an event in, and return when it is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((event, done))
        await done

    async def changed(self) -> None:
        """Return after the next batch."""
        async with self._changed:
            await self._changed.wait()

    async def run(self) -> None:
        """Run until cancelled."""
        back_s = self.fleet.newest_at - self._clock.now()
        if STEP_S <= back_s <= LONGEST_S:
            self.post(ClockStepped(self._clock.now(), -back_s))  # while no controller ran
        self._resume_open()
        try:
            while True:
                await self._batch()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _batch(self) -> None:
        items = await self._next_items()
        rows: list[Event] = []
        for event, _ in items:
            self.fleet.apply(event)
            if not isinstance(event, Ticked):
                rows.append(event)
                self._show(event)
        rows += self._follow_clock()
        issued = self._decide() if self.deciding else []
        rows += issued
        if rows:
            _fault_points(rows, "before")
            seqs = await self.journal.write(rows)
            self.seq = seqs[-1]
            _fault_points(rows, "after")
        for _, done in items:
            if done is not None and not done.done():
                done.set_result(None)
        for command in issued:
            self._start(command, resumed=False)
        if rows:
            self._note_busy()
            await self.journal.snapshot_if_due(self.fleet, self.seq, self._clock.now())
        if len(self.fleet.nodes) > LARGE:
            self._next_batch = self._clock.monotonic() + PAUSE_S * len(self.fleet.nodes)
        async with self._changed:
            self._changed.notify_all()

    def _show(self, event: Event) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # who only counts must not take the loop along
                log.exception("a listener broke", kind=type(event).__name__)

    async def _next_items(self) -> list[tuple[Event, asyncio.Future[None] | None]]:
        items = [await self._queue.get()]
        if (pause_s := self._next_batch - self._clock.monotonic()) > 0:
            await self._clock.sleep(pause_s)
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                items.append(self._queue.get_nowait())
        return items

    def _note_busy(self) -> None:
        before, self._busy = self._busy, self.fleet.busy()
        if self._busy and not before:
            self.on_busy()

    def _follow_clock(self) -> list[Event]:
        by_s = self._resync()
        if not by_s:
            return []
        stepped = ClockStepped(self._clock.now(), by_s)
        log.warning(str(stepped))
        self.fleet.apply(stepped)
        self._show(stepped)
        return [stepped]

    def _decide(self) -> list[CommandIssued]:
        issued: list[CommandIssued] = []
        for _ in range(MAX_ROUNDS):
            now = self._clock.now()
            due = decide(self.fleet, self._plans(), now)
            if not due:
                break
            for command in due:
                event = CommandIssued(now, self._next_command, command)
                self._next_command += 1
                self.fleet.apply(event)
                self._show(event)
                issued.append(event)
                log.info(str(command), command=type(command).__name__, key=command.key)
        return issued

    def _resume_open(self) -> None:
        """Take up what had no outcome. What may be repeated is judged anew, by the first look; only the rest is looked up and finished."""
        now = self._clock.now()
        for issued in self.fleet.open_issued():
            command = issued.command
            if command.repeats:
                why = "interrupted by the controller's end"
                self.post(CommandFinished(now, issued.command_id, command.key, "failed", why, 0.0, command.refs()))
            else:
                self._start(issued, resumed=True)

    def _start(self, issued: CommandIssued, *, resumed: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(issued, resumed=resumed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, issued: CommandIssued, *, resumed: bool) -> None:
        command = issued.command
        name = type(command).__name__
        fault_point(f"effect.{name}.before")
        try:
            outcome = await self._effects.run(command, resumed=resumed)
        except Exception as error:  # an effect that breaks must not take the loop along: its command is tried again
            log.exception("an effect broke", command=name, key=command.key)
            outcome = (CommandFinished(self._clock.now(), outcome="failed", detail=f"{type(error).__name__}: {error}", retry_s=5.0),)
        fault_point(f"effect.{name}.after")
        for event in outcome:
            if isinstance(event, CommandFinished):
                if event.outcome not in {"ok", "moot"}:
                    log.warning(f"{event.outcome}: {event.detail}", command=name, key=command.key)
                self.post(
                    CommandFinished(event.at, issued.command_id, command.key, event.outcome, event.detail, event.retry_s, command.refs())
                )
            else:
                self.post(event)

    async def tick(self, busy_s: float, idle_s: float) -> None:
        """Post the passing of time, for ever."""
        while True:
            await self._clock.sleep(busy_s if self.fleet.busy() else idle_s)
            self.post(Ticked(self._clock.now()))


def _fault_points(rows: Sequence[Event], moment: str) -> None:
    """Pass `reactor.before_commit` (or `after`), and `commit.KIND.before` for each event and command of the batch."""
    fault_point(f"reactor.{moment}_commit")
    for row in rows:
        kind = type(row.command if isinstance(row, CommandIssued) else row).__name__
        fault_point(f"commit.{kind}.{moment}")
