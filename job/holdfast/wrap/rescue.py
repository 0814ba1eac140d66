"""A notice, answered for a script that does not know of it: signal, wait for a new whole checkpoint, park."""

import json
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.clock import Clock
from holdfast.jobdir import SAVE_AND_PARK, Notice
from holdfast.parking import GRACE_S
from holdfast.wrap import layout
from holdfast.wrap.events import Seen
from holdfast.wrap.layout import Checkpoint, Place
from holdfast.wrap.options import AUTO, NONE, name_of
from holdfast.wrap.processes import Process, Table
from holdfast.wrap.verify import BadError, verify
from holdfast.wrap.voice import Voice

LOOK_EVERY_S = 0.5
QUIET_S, QUIET_UNHOOKED_S = 1.0, 2.0
"""So long nothing has changed after a save before it counts as all of it: a script may write several files one after the other."""


@dataclass
class Answer:
    """What has been done about one notice."""

    notice: Notice
    before: dict[Path, object]
    """What every checkpoint looked like when the notice came."""
    sent: dict[tuple[int, int], int] = field(default_factory=dict)
    """Processes that got the signal, by pid and start."""
    said: set[str] = field(default_factory=set)
    looked_at: float = -1e9
    changed: dict[Path, object] = field(default_factory=dict)
    changed_at: float = 0.0
    bad: set[object] = field(default_factory=set)
    saved: Checkpoint | None = None
    parked: bool = False


class Rescue:
    """Answers notices for one run of the command. `candidates` gives the processes that may be signalled, of a fresh table."""

    def __init__(
        self,
        places: Iterable[Place],
        wanted: str | int,
        voice: Voice,
        clock: Clock,
        candidates: Callable[[Table], list[Process]],
    ) -> None:
        self._given = tuple(places)
        self._wanted = wanted
        self._voice = voice
        self._clock = clock
        self._candidates = candidates
        self._folders: set[str] = set()
        self.answer: Answer | None = None

    @property
    def places(self) -> list[Place]:
        """The places given, and those where the hook saw files saved."""
        known = {str(place.path) for place in self._given if not place.narrow}
        return [*self._given, *(Place(Path(folder)) for folder in sorted(self._folders) if folder not in known)]

    @property
    def safe(self) -> bool:
        """Whether the answer is complete: the process may be ended."""
        return self.answer is not None and self.answer.parked

    @property
    def overdue(self) -> bool:
        """Whether the machine is still there a minute after it was to go."""
        return self.answer is not None and self._clock.wall() > self.answer.notice.ends + GRACE_S

    def begin(self, notice: Notice, seen: Seen) -> None:
        """A new notice: remember what stands, and say what can be done."""
        self._folders |= seen.folders
        self._voice.note(notice.id)
        if notice.action != SAVE_AND_PARK:
            self._voice.warn(
                f"{notice.reason or notice.kind}: asked to save early; a script like this can only be asked to stop: it goes on"
            )
            return
        old = self.answer
        self.answer = Answer(notice, self._look() if old is None else old.before, {} if old is None else old.sent)
        in_s = f" in {notice.deadline - self._clock.wall():.0f} s" if notice.deadline is not None else ""
        self._voice.warn(f"{notice.reason or notice.kind}: this node goes away{in_s}")
        self._voice.state("saving", rank=None if seen.save_s is None else {"save_expected_s": seen.save_s})

    def withdrawn(self) -> None:
        """The notice is gone, or long past, and the command lives: it goes on."""
        self.answer = None
        self._voice.warn("the notice is gone, or a minute past: the command goes on")
        self._voice.state("running", stopped_on_notice=False)

    def prolong(self, notice: Notice) -> None:
        """Another deadline, or while parked another notice, stands in its place."""
        if self.answer is not None and notice != self.answer.notice and notice.action == SAVE_AND_PARK:
            changed = notice.id != self.answer.notice.id
            self.answer.notice = notice
            if changed:
                self._voice.note(notice.id)

    def tick(self, seen: Seen) -> None:
        """Do what is due while the command runs."""
        answer = self.answer
        if answer is None or answer.parked:
            return
        self._folders |= seen.folders
        now = self._clock.monotonic()
        if now - answer.looked_at < LOOK_EVERY_S:
            return
        answer.looked_at = now
        table = Table()
        self._signal(answer, seen, table)
        if self._complete(answer, seen, table, now):
            self.park(answer, stopped=False)

    def park(self, answer: Answer, *, stopped: bool) -> None:
        """Say that the job may be ended. `stopped`: the command has ended because of the notice."""
        where = "" if answer.saved is None else str(answer.saved.path)
        ended = f"the command has stopped on the notice{', its checkpoint is ' if where else ''}{where}"
        told = ended if stopped else f"saved: {where}"
        self._voice.warn(f"{told}; parked, the job can be requeued")
        keys: dict[str, Any] = {"notice_id": answer.notice.id, "stopped_on_notice": stopped}
        if answer.saved is not None:
            keys |= {"checkpoint": where[:4000], "saved_tier": "shared", "bytes": sum(stamp[3] for stamp in answer.saved.stamp)}
            step = layout.step_of(answer.saved.path.name)
            if step is not None:
                keys |= {"step": step, "saved_step": step}
        self._voice.state("saved", **keys)
        self._voice.state("parked", **keys)
        answer.parked = True

    def ended(self, code: int, seen: Seen) -> bool:
        """The command has ended while a notice stands: whether it did so because of it. If so, this parks."""
        answer = self.answer
        if answer is None:
            return False
        self._folders |= seen.folders
        if not answer.sent and not (answer.parked and code != 0):
            return False  # nobody told it to stop: it is done, or it has failed
        if answer.saved is None:
            answer.saved = self._newest(self._changed(answer), answer)
        if code == 0 and (answer.saved is None or _finished(answer.saved.path)):
            if answer.saved is None:
                self._voice.warn("the command ended with code 0 and without a new checkpoint after its signal: it is taken to be done")
            return False
        self.park(answer, stopped=True)
        return True

    def _signal(self, answer: Answer, seen: Seen, table: Table) -> None:
        number, why = self._number(seen, table)
        if number is None:
            self._once(answer, why)
            return
        targets = table.targets(self._candidates(table), number)
        if not targets and not answer.sent:
            self._once(answer, f"{why}, but no process of the command has a handler for {name_of(number)} (yet): it is not sent")
        for process in targets:
            if (process.pid, process.ticks) not in answer.sent and table.send(process, number):
                answer.sent[process.pid, process.ticks] = number
                self._once(answer, f"{why}: {name_of(number)} sent to process {process.pid}")

    def _number(self, seen: Seen, table: Table) -> tuple[int | None, str]:
        """The signal to send, and why; None for none."""
        waits = "the job is requeued as soon as the script has saved by itself, at the latest at the deadline"
        if isinstance(self._wanted, int):
            return self._wanted, "as --signal says"
        if self._wanted == NONE:
            return None, f"no signal is sent (--signal none): {waits}"
        assert self._wanted == AUTO
        for pid, (framework, number) in seen.handlers.items():
            if pid in table.all:
                return number, f"{framework} waits for a signal"
        for process in self._candidates(table):
            if b"submitit.core._submit\0" in table.command(process.pid):
                name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
                return int(signal.Signals.__members__.get(f"SIG{name}", signal.SIGUSR2)), "submitit waits for a signal"
        return None, f"no framework that is known to wait for a signal was seen: {waits}"

    def _once(self, answer: Answer, text: str) -> None:
        if text not in answer.said:
            answer.said.add(text)
            self._voice.warn(text)

    def _complete(self, answer: Answer, seen: Seen, table: Table, now: float) -> bool:
        """Whether something new was saved, all of it, and it is whole."""
        changed = self._changed(answer)
        stamps = {found.path: found.stamp for found in changed}
        if stamps != answer.changed:
            answer.changed, answer.changed_at = dict(stamps), now
            return False
        busy = any(pid in table.all for pid, _ in seen.under_way) or any(layout.writing(place) for place in self.places)
        quiet_s = QUIET_S if seen.saves else QUIET_UNHOOKED_S
        if not changed or busy or now - answer.changed_at < quiet_s:
            return False
        answer.saved = self._newest(changed, answer)
        return answer.saved is not None

    def _changed(self, answer: Answer) -> list[Checkpoint]:
        return [found for found in self._found() if answer.before.get(found.path) != found.stamp]

    def _newest(self, changed: list[Checkpoint], answer: Answer) -> Checkpoint | None:
        """The newest of what has changed, if it is all whole."""
        for found in changed:
            if found.stamp in answer.bad:
                return None
            try:
                verify(found, just_saved=True)
            except (BadError, OSError) as fault:
                answer.bad.add(found.stamp)
                self._once(answer, f"{fault}: this does not count as a save")
                return None
        return max(changed, key=lambda each: each.modified_ns, default=None)

    def _found(self) -> list[Checkpoint]:
        found: dict[Path, Checkpoint] = {}
        for place in self.places:
            try:
                found |= {each.path: each for each in layout.find(place)}
            except OSError:
                continue
        return list(found.values())

    def _look(self) -> dict[Path, object]:
        return {each.path: each.stamp for each in self._found()}


def _finished(path: Path) -> bool:
    """Whether Transformers' own record says that training was over when it was saved."""
    try:
        state = json.loads((path / "trainer_state.json").read_bytes())
        return bool(state["global_step"] >= state["max_steps"] > 0)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
