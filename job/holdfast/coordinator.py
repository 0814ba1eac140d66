"""What the ranks do when they meet: save, follow a notice, park.

Every rank brings what it wishes; the greatest wish is everybody's. All that decides whether ranks call a collective comes
from what they have exchanged, so none is left waiting.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from holdfast import parking
from holdfast.agreement import Agreement, Rounds, Solo
from holdfast.board import Board
from holdfast.budget import Action, Choice, InFlight, Situation, choose
from holdfast.clock import Clock
from holdfast.errors import HoldfastError, SaveError
from holdfast.estimate import Estimate
from holdfast.jobdir import SAVE_AND_PARK, Notice
from holdfast.peers import Peers
from holdfast.retention import Keep
from holdfast.saver import Saved, Saver
from holdfast.schedule import Schedule
from holdfast.state import Training
from holdfast.tiers import LOCAL
from holdfast.watch import Watch

RETRY_DUE_S, RETRY_NOTICE_S = 30.0, 1.0
FINAL_TRIES, FINAL_PAUSE_S = 3, 5.0
GO_ON, SETTLE, SAVE, PARK = 0, 1, 2, 3
_FIRST = 2
"""The ranks always meet before the first step and after it."""


@dataclass(frozen=True)
class View:
    """What one rank wishes at a meeting, and why."""

    rank: int
    node: str
    wish: int
    why: str
    notice: Notice | None
    seen_at: float

    @property
    def weight(self) -> tuple[int, bool, float]:
        """The view with the greatest weight is followed: the one that asks for most, then the earliest deadline."""
        return self.wish, self.notice is not None, -self.notice.ends if self.notice is not None else 0.0

    @property
    def waits(self) -> bool:
        """Whether training stands still until the save is complete."""
        return self.wish == PARK or self.why == "final"


@dataclass
class Save:
    """A save that goes on in the background; `answers` are the keys of the notices that it answers."""

    step: int
    why: str
    future: Future[Saved]
    answers: tuple[tuple[str, str], ...]
    began: float
    asked: bool


class Coordinator:
    """One rank's part in the meetings of one attempt."""

    def __init__(  # noqa: PLR0913  (the parts of a run, wired in one place)
        self,
        peers: Peers,
        saver: Saver,
        training: Training,
        *,
        schedule: Schedule,
        watch: Watch,
        board: Board,
        estimate: Estimate,
        clock: Clock,
        node: str,
        callbacks: list[Callable[[Notice], None]],
        unparked: Callable[[], None],
        keep: Keep,
        asynchronous: bool,
        rest_bytes: int,
    ) -> None:
        self._peers, self._saver, self._training, self._schedule = peers, saver, training, schedule
        self._watch, self._board, self._estimate, self._clock = watch, board, estimate, clock
        self._rank, self._node = peers.place.rank, node
        self._callbacks, self._unparked, self._keep = callbacks, unparked, keep
        self.saved: Saved | None = None
        self.asked = False
        self._save: Save | None = None
        self._notice_retry_at = 0.0
        self._step, self._total = 0, 0
        self._asynchronous, self._rest_bytes = asynchronous, rest_bytes
        self._meetings = 0
        self._followed: set[tuple[str, str]] = set()
        self._fault: SaveError | None = None
        self.agreement: Agreement
        if peers.place.world_size == 1:
            self.agreement = Solo(self._wishes, clock)
        else:
            self.agreement = Rounds(peers.another(), self._wishes, clock, board.warn)

    def begin(self, step: int, total: int, saved: Saved | None) -> None:
        """A loop begins at `step`, for which `saved` is the newest checkpoint, and ends at `total`. Raises as `pass_step` does."""
        self._step, self._total = step, total
        if saved is not None:
            self.saved = saved
        self.agreement.begin(step, total)
        self.pass_step(step, 0.0)

    def expect(self, total: int) -> None:
        """The loop turns out to end at `total`."""
        self._total = total
        self.agreement.expect(total)

    def ask(self) -> None:
        """Save at the next boundary that can be had."""
        self.asked = True
        self.agreement.ask()

    def pass_step(self, step: int, step_s: float) -> None:
        """Between two steps: meet the others where that is due.

        Raises Fenced, SaveError for a save that was asked for, HoldfastError where the ranks do not do the same.
        """
        self._step, self._step_s = step, step_s
        due = step >= self._total or self._schedule.at_period(step) or self._meetings < _FIRST
        if self.agreement.at(step, step_s) or due:
            try:
                self._meet()
            finally:
                self.agreement.met()

    def end(self) -> None:
        """The loop was left. Waits for a save that still goes on; raises Fenced or, if it was asked for, SaveError."""
        self.agreement.end()
        if self._save is not None:
            self._settle(self._save)
        if self.asked:
            self._board.tell("the save that was asked for was not made: the loop was left before its step was done")
        self._saver.rest()

    @property
    def lost_steps(self) -> int:
        """Steps since the newest checkpoint."""
        return self._step - (0 if self.saved is None else self.saved.step)

    def _meet(self) -> None:
        """All ranks are here, after the same step.

        After a save that was waited for they go round again: a notice that came meanwhile finds its step saved already.
        """
        self._meetings += 1
        if self._meetings == _FIRST:  # the first step is done: by now the optimizer has its state
            self._saver.warm()
        while self._round():
            pass
        if self._step >= self._total and not self._has_step():
            self._insist()

    def _insist(self) -> None:
        """The last save has failed: there is no later one. Try again some times; all ranks fail alike, so all are here."""
        for _ in range(FINAL_TRIES):
            self._clock.sleep(FINAL_PAUSE_S)
            while self._round():
                pass
            if self._has_step():
                return
        assert self._fault is not None
        raise self._fault

    def _wishes(self) -> bool:
        """Asked between meetings, by the agreement's thread where there is one: whether to call one."""
        return self._view().wish > GO_ON

    def _view(self) -> View:
        """What this rank wishes now."""
        now = self._clock.monotonic()
        save = self._save
        notice, seen_at = self._watch.pending() or (None, 0.0)
        if now < self._notice_retry_at:
            notice = None
        if notice is not None and notice.action == SAVE_AND_PARK:
            return View(self._rank, self._node, PARK, "notice", notice, seen_at)
        why = self._reason_to_save(save, now)
        if why is not None and (why == "final" or not _busy(save) or self._schedule.at_period(self._step)):
            return View(self._rank, self._node, SAVE, why, notice, seen_at)
        if notice is not None and not _busy(save) and (save is None or notice.key not in save.answers):
            return View(self._rank, self._node, SAVE, "notice", notice, seen_at)
        return View(self._rank, self._node, SETTLE if _failed(save) else GO_ON, "", None, 0.0)

    def _reason_to_save(self, save: Save | None, now: float) -> str | None:
        step = self._step
        if step >= self._total and not self._has_step():
            return "final"
        if self.asked:
            return "asked"
        if self._has_step() or (save is not None and save.step == step):
            return None
        if self._schedule.at_period(step) or (self._rank == 0 and self._schedule.due(now)):
            return "due"
        return None

    def _round(self) -> bool:
        """One exchange and what follows from it. Whether there is reason for another."""
        mine = self._view()
        values = [mine.wish, int(_busy(self._save)), int(self.asked), self._step, -self._step]
        wish, busy_somewhere, asked, most, least = self._highest(values)
        if most != -least:
            raise HoldfastError(f"the ranks are at different steps ({-least} to {most}): each must do the same loop")
        if self._save is not None and (not busy_somewhere or self._step >= self._total):
            self._settle(self._save)
            return True
        if wish <= SETTLE:
            return False
        lead = max(self._peers.gather(mine), key=lambda view: view.weight)
        if lead.wish == PARK and lead.notice is not None and self._step < self._total:
            return self._evacuate(lead, mine, lead.notice)
        if self._save is not None:
            if not lead.waits and not self._schedule.at_period(self._step):
                return False
            self._settle(self._save)
            return True
        if lead.notice is not None:
            self._follow(lead, mine)
        return self._answer(lead, mine, asked=bool(asked))

    def _highest(self, values: list[int]) -> list[int]:
        """The first exchange of a round, in which a lost rank shows. Raises HoldfastError."""
        try:
            return self._peers.highest(values)
        except HoldfastError:
            raise
        except Exception as fault:  # what the group raises depends on the backend
            newest = "there is no checkpoint" if self.saved is None else f"the newest checkpoint is of step {self.saved.step}"
            raise HoldfastError(
                f"after step {self._step} another rank does not answer: it has ended, or its node is lost; {newest}."
                f" Start the run again on all ranks ({type(fault).__name__}: {fault})"
            ) from fault

    def _evacuate(self, lead: View, mine: View, notice: Notice) -> bool:
        """Save what the deadline allows, and park. Whether there is reason for another round."""
        self._follow(lead, mine)
        choice = self._peers.gather(self._choose(notice) if self._rank == 0 else None)[0]
        assert choice is not None
        if choice.action is not Action.FULL or choice.steps_lost:
            self._board.tell(f"notice {notice.id}: {choice.why}")
        if self._save is not None and choice.action is not Action.KEEP:
            self._settle(self._save)
            return True
        if choice.action in (Action.FULL, Action.PARTIAL) and not self._has_step():
            parts = self._training.parts if choice.action is Action.PARTIAL else None
            if self._settle(self._start(lead, [notice], asked=False, parts=parts)) is None:
                return False
            self.asked = False
        for told in (notice, mine.notice):
            if told is not None:
                self._watch.handled(told)
        self._park(notice, own=mine.notice is not None)
        return True

    def _choose(self, notice: Notice) -> Choice:
        size_bytes = self._estimate.size_bytes
        situation = Situation(
            now=self._clock.wall(),
            deadline=notice.deadline,
            step=self._step,
            saved_step=None if self.saved is None else self.saved.step,
            full_s=self._estimate.save_s(size_bytes),
            likely_s=self._estimate.save_s(size_bytes, typical=True),
            partial_s=None if self._training.parts is None else self._estimate.save_s(size_bytes - self._rest_bytes),
            in_flight=self._in_flight(),
            step_s=self._step_s or None,
        )
        return choose(situation)

    def _in_flight(self) -> InFlight | None:
        """The save that goes on. One that takes longer than expected is expected to take half as long again."""
        if self._save is None:
            return None
        elapsed_s = self._clock.monotonic() - self._save.began
        left_s = max(self._estimate.expected_s - elapsed_s, 0.0) or elapsed_s / 2
        return InFlight(self._save.step, durable_s=left_s, free_s=left_s)

    def _has_step(self) -> bool:
        return self.saved is not None and self.saved.step == self._step

    def _follow(self, lead: View, mine: View) -> None:
        """All ranks go by one rank's notice; each reports the id of its own node's where it has one."""
        assert lead.notice is not None
        notice_id = (mine.notice or lead.notice).id
        self._board.note(notice_id)
        if lead.notice.key in self._followed:
            return
        self._followed.add(lead.notice.key)
        if lead.rank != self._rank:
            self._board.followed(lead.notice, lead.seen_at, rank=lead.rank, node=lead.node)
        for callback in self._callbacks:
            try:
                callback(lead.notice)
            except Exception as fault:  # a user's callback must not cost the save
                self._board.warn(f"on_notice callback failed: {type(fault).__name__}: {fault}")

    def _answer(self, lead: View, mine: View, *, asked: bool) -> bool:
        """Save, unless this very step is saved already, and park if that is asked. Whether there is reason for another round."""
        notices = [view.notice for view in (lead, mine) if view.notice is not None]
        self.asked = False
        if not self._has_step():
            save = self._start(lead, notices, asked=asked)
            if self._asynchronous and not lead.waits:
                self._save = save
                return False
            if self._settle(save) is None:
                return False
        for notice in notices:
            self._watch.handled(notice)
        return True

    def _start(self, lead: View, notices: list[Notice], *, asked: bool, parts: tuple[str, ...] | None = None) -> Save:
        """Copy the state and have the copy saved in the background."""
        expected_s = self._estimate.expected_s
        waits = lead.waits or not self._asynchronous
        if waits:
            self._board.state("saving", rank={"save_expected_s": expected_s}, step=self._step)
        self._board.saving(self._step, self._step)
        self._board.timeline.event("save_began", step=self._step, why=lead.why, expected_s=expected_s)
        began = self._clock.monotonic()
        save = Save(self._step, lead.why, Future(), tuple(notice.key for notice in notices), began, asked)
        state = "saved" if waits else None
        try:
            save.future = self._saver.begin(
                self._step, self._training, keep=self._keep, ended=lambda saved, fault: self._ended(save, state, saved, fault), parts=parts
            )
        except SaveError as fault:
            self._ended(save, state, None, fault)
            save.future.set_exception(fault)
        return save

    def _ended(self, save: Save, state: str | None, saved: Saved | None, fault: BaseException | None) -> None:
        """A save has come to its end: report it at once (from the thread that saves, if it came so far)."""
        seconds = round(self._clock.monotonic() - save.began, 6)
        keys: dict[str, Any] = {"step": save.step, "why": save.why, "seconds": seconds}
        if saved is None:
            self._board.saving(None, self._step)
            self._board.timeline.event("save_ended", **keys, ok=False, error=str(fault)[:1000])
            return
        self._learn(saved)
        self._board.saved(state, saved, self._estimate.expected_s)
        keys |= {"bytes": saved.size_bytes, "checkpoint": saved.name, "blocked_s": round(saved.blocked_s, 6)}
        self._board.timeline.event("save_ended", **keys, ok=True, partial=saved.partial, error=None)

    def _learn(self, saved: Saved) -> None:
        whole_bytes = self._estimate.size_bytes
        written_s = saved.seconds - saved.blocked_s - saved.sending_s
        self._estimate.learn_stage(saved.size_bytes, saved.blocked_s)
        if saved.sending_s:
            self._estimate.learn(saved.size_bytes, written_s, LOCAL)
            written_s = saved.sending_s
        self._estimate.learn(saved.size_bytes, written_s, saved.tier)
        if saved.partial:
            self._estimate.learn(whole_bytes)

    def _settle(self, save: Save) -> Saved | None:
        """Wait for the end of a save and go by it; None if it failed, on all ranks alike. Raises Fenced; SaveError if it was asked for."""
        self._save = None
        try:
            saved = save.future.result()
        except SaveError as fault:
            now = self._clock.monotonic()
            self._notice_retry_at = now + RETRY_NOTICE_S
            self._schedule.failed(now, RETRY_DUE_S)
            on = "" if self._step >= self._total else ", training goes on"
            self._board.tell(f"the save at step {save.step} failed{on}: {fault}")
            self._board.state("running")
            self._fault = fault
            if save.asked and self._step < self._total:
                raise
            return None
        self.saved = saved
        self._schedule.saved(save.began, saved.blocked_s if self._asynchronous else saved.seconds, saved.seconds)
        for key in save.answers:
            self._watch.handled_key(key)
        return saved

    def _park(self, notice: Notice, *, own: bool) -> None:
        lost = self.lost_steps
        saved_step = self._step - lost
        about = f"notice {notice.id}: {notice.reason or notice.kind}"
        # before the state: then nobody waits for us
        self._board.timeline.event("parked", step=self._step, notice_id=notice.id, saved_step=saved_step, steps_lost=lost)
        self._board.state("parked", step=self._step, stopped_on_notice=True, steps_lost=lost)
        if lost:
            self._board.tell(f"safe to kill, {lost} steps since step {saved_step} are lost ({about})")
        else:
            self._board.tell(f"saved at step {self._step}, safe to kill ({about})")
        why = parking.park(self._peers, self._watch, self._clock, notice.ends, self._learnt, own=own)
        self._board.state("running", stopped_on_notice=False, steps_lost=0)
        self._board.timeline.event("unparked", step=self._step, notice_id=notice.id)
        self._board.tell(f"notice {notice.id}: {why}, going on from step {self._step}")
        self._followed.clear()
        self._unparked()

    def _learnt(self, notice: Notice, _seen_at: float) -> None:
        self._board.state("parked", notice_id=notice.id)


def _busy(save: Save | None) -> bool:
    return save is not None and not save.future.done()


def _failed(save: Save | None) -> bool:
    return save is not None and save.future.done() and save.future.exception() is not None
