"""`holdfast.Run`: the training loop's side of everything."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast import parking, process
from holdfast.bandwidth import Limiter, rate_from
from holdfast.board import Board, say
from holdfast.clock import Clock
from holdfast.errors import HoldfastError, SaveError
from holdfast.estimate import Estimate
from holdfast.jobdir import SAVE_AND_PARK, JobDirectory, Notice, NoticeFile
from holdfast.peers import Cadence, Peers, connect
from holdfast.saver import Saved, Saver
from holdfast.state import Training
from holdfast.watch import Watch

DIRECTORY_VARIABLE = "HOLDFAST_CHECKPOINT_DIR"
EVERY_S = 600.0
_RETRY_DUE_S, _RETRY_NOTICE_S = 30.0, 1.0
_GO_ON, _SAVE, _PARK = 0, 1, 2


@dataclass(frozen=True)
class _View:
    """What one rank wishes at a boundary, and why."""

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


class Run:
    """A training run that resumes where it was, saves when due and when told to, and parks when its node goes away.

    `model`, `optimizer`, `scheduler`, `loader` and further keyword arguments are anything with `state_dict` and
    `load_state_dict`. What differs between ranks belongs to the loader; all else is rank 0's. `directory` defaults to
    $HOLDFAST_CHECKPOINT_DIR, else ./checkpoints. A checkpoint is due every `every_s` seconds and/or `every_steps` steps (600 s
    if neither is given); the newest `keep` are kept. `save_bandwidth_mib_s` (or $HOLDFAST_SAVE_BANDWIDTH_MIB_S) paces the
    writing of each rank. With several ranks, torch.distributed is initialised before, and all ranks do the same calls.

    Raises TypeError and ValueError for arguments that cannot work.
    """

    def __init__(  # noqa: PLR0913  (the public interface: few are ever given)
        self,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        loader: Any = None,
        *,
        directory: str | os.PathLike[str] | None = None,
        every_s: float | None = None,
        every_steps: int | None = None,
        keep: int = 3,
        save_bandwidth_mib_s: float | None = None,
        clock: Clock | None = None,
        **stateful: Any,
    ) -> None:
        if keep < 1 or (every_steps is not None and every_steps < 1) or (every_s is not None and every_s <= 0):
            raise ValueError("keep and every_steps must be at least 1, every_s above 0")
        self._clock = clock or Clock()
        self._limiter = Limiter(rate_from(save_bandwidth_mib_s), self._clock)
        self._training = Training({"model": model, "optimizer": optimizer, "scheduler": scheduler, **stateful}, {"loader": loader})
        self._path = Path(directory or os.environ.get(DIRECTORY_VARIABLE) or "checkpoints").absolute()
        self._every_s = EVERY_S if every_s is None and every_steps is None else every_s
        self._every_steps, self._keep = every_steps, keep
        self._step, self._attempt = 0, 0
        self._step_s: float | None = None
        self._metrics: dict[str, Any] = {}
        self._callbacks: list[Callable[[Notice], None]] = []
        self._saved: Saved | None = None
        self._asked = self._stopping = self._stepped = False
        self._saved_at = self._clock.monotonic()
        self._notice_retry_at = 0.0
        self._estimate = Estimate(self._limiter.bytes_per_s)
        self._peers: Peers | None = None
        self._register()

    def _register(self) -> None:
        self._place, job = process.place(os.environ), process.job(os.environ)
        jobdir = JobDirectory.find(os.environ, say)
        context = None if jobdir is None else jobdir.context(say)
        if context is not None and not job.job_id:  # a container may hide Slurm's variables
            job = process.Job(context.job_id, context.attempt, context.node)
        self._job, self._attempt = job, job.attempt or 0
        self._board = Board(jobdir, self._place, job, self._clock)
        if process.module("torch") is not None and not self._board.timeline.waits("torch_loaded"):
            self._board.timeline.event("torch_loaded")
        notices = None if jobdir is None else NoticeFile(jobdir.notice, self._board.warn)
        self._watch = Watch(notices, self._clock, self._seen)
        self._watch.start()
        self._board.register(self._watch.wake.signal)
        self._watch.poll()  # a notice may be older than this process

    def _seen(self, notice: Notice, t: float) -> None:
        self._stopping = self._stopping or notice.action == SAVE_AND_PARK
        self._board.seen(notice, t)

    @property
    def step(self) -> int:
        """Steps done; inside the loop's body, the number of the step in hand."""
        return self._step

    @property
    def attempt(self) -> int:
        """Which run of the job this is: SLURM_RESTART_COUNT, or counted up in the directory outside Slurm (on entry)."""
        return self._attempt

    @property
    def should_stop(self) -> bool:
        """Whether a notice that ends this node stands *for this process*: the time to leave an optional long
        computation. Leaving the loop is `steps`'s work, since other ranks may not have seen it yet.
        """
        return self._stopping and self._watch.poll() is not None

    def log(self, **metrics: Any) -> None:
        """Remember the latest metrics for status.json. Tensors are read about once a second, not at each call."""
        self._metrics |= metrics

    def save(self) -> None:
        """Save at the end of the step in hand (with several ranks: at their next agreement); one rank's call is enough.

        `steps` raises SaveError on all ranks if that save fails.
        """
        self._asked = True

    def on_notice(self, callback: Callable[[Notice], None]) -> None:
        """Have `callback(notice)` called, in the main thread of every rank, before the save that a notice leads to."""
        self._callbacks.append(callback)

    def close(self) -> None:
        """Stop watching for notices. Not needed at a program's end."""
        self._watch.close()

    def steps(self, total: int) -> Iterator[int]:
        """Yield the steps that are still to be done, from the one that an earlier attempt had reached, up to `total` - 1.

        Raises Fenced when a newer attempt has taken over, HoldfastError where resuming is impossible, SaveError for a
        failed save that was asked for; a periodic save that fails is told and tried again.
        """
        self._enter(total)
        try:
            self._boundary(total)
            while self._step < total:
                began = self._clock.monotonic()
                self._first("first_step")
                yield self._step
                self._first("first_step_done")
                self._stepped = True
                self._step += 1
                took_s = self._clock.monotonic() - began
                self._step_s = took_s if self._step_s is None else 0.8 * self._step_s + 0.2 * took_s
                self._boundary(total)
        except GeneratorExit:  # the loop was left by break
            self._done()
            raise
        self._done()

    def _first(self, event: str) -> None:
        if not self._stepped:
            self._board.timeline.event(event, step=self._step)

    def _done(self) -> None:
        self._board.state("done", step=self._step)
        self._board.timeline.event("done", step=self._step)

    def _enter(self, total: int) -> None:
        """Find the ranks, own the directory, resume. The second time (another `steps`) only check."""
        if self._peers is None:
            place = process.place(os.environ)
            self._board.enter(place, self._watch.wake.signal)
            self._place, self._peers = place, connect(place)
            self._resume(self._peers)
        plans = self._peers.gather((total, self._step, self._every_steps))
        if len(set(plans)) > 1:
            raise HoldfastError(f"the ranks differ in total steps, step reached or every_steps: {plans}")
        self._cadence = Cadence(self._step, self._place.world_size)
        self._board.state("running", rank={"save_expected_s": self._estimate.expected_s}, step=self._step, total_steps=total)

    def _resume(self, peers: Peers) -> None:
        began = self._clock.monotonic()
        self._saver = Saver(self._path, peers, self._limiter, self._clock, self._board.warn, self._board.unusable)
        self._attempt = self._saver.enter(self._job.identity, self._job.attempt)
        self._board.open(self._path, self._attempt)
        self._saved = self._saver.resume(self._training)
        self._estimate.learn(self._training.size_hint_bytes())
        took_s = round(self._clock.monotonic() - began, 6)
        if self._saved is not None:
            self._step = self._saved.step
            self._estimate.learn(self._saved.size_bytes, self._saved.seconds)
            self._board.tell(f"attempt {self._attempt} resumes at step {self._step} from {self._saved.name} ({took_s:.2f} s)")
            self._board.state("running", **self._saved_keys(self._saved))
        name = None if self._saved is None else self._saved.name
        self._board.timeline.event("resumed", step=self._step, checkpoint=name, seconds=took_s)
        self._saved_at = self._clock.monotonic()

    def _saved_keys(self, saved: Saved) -> dict[str, Any]:
        keys: dict[str, Any] = {"step": self._step, "saved_step": saved.step, "saved_tier": "shared"}
        return {**keys, "bytes": saved.size_bytes, "checkpoint": saved.name}

    def _wish(self, total: int) -> _View:
        """What this rank wishes now."""
        now = self._clock.monotonic()
        rank, node = self._place.rank, self._job.node
        pending = self._watch.pending()
        if pending is not None and now >= self._notice_retry_at:
            wish = _PARK if pending[0].action == SAVE_AND_PARK else _SAVE
            return _View(rank, node, wish, "notice", pending[0], pending[1])
        why = self._reason_to_save(total, now)
        return _View(rank, node, _GO_ON if why is None else _SAVE, why or "", None, 0.0)

    def _reason_to_save(self, total: int, now: float) -> str | None:
        if self._asked:
            return "asked"
        if self._saved is not None and self._saved.step == self._step:
            return None
        if self._step >= total:
            return "final"
        if self._at_period() or (self._place.rank == 0 and self._every_s and now >= self._saved_at + self._every_s):
            return "due"
        return None

    def _at_period(self) -> bool:
        return self._every_steps is not None and self._step > 0 and self._step % self._every_steps == 0

    def _boundary(self, total: int) -> None:
        """Between two steps: agree with the other ranks, and do what the greatest wish asks for.

        After a save they agree again: a notice that came meanwhile finds its step saved already, and parks at once.
        """
        self._board.progress(self._step, self._step_s, self._metrics)
        if not (self._step >= total or self._at_period() or self._cadence.due(self._step)):
            self._watch.poll()
            return
        saved = False
        while self._round(total):
            saved = True
        if saved:
            self._board.state("running")
            self._saver.prune(self._keep)

    def _round(self, total: int) -> bool:
        """One agreement and what follows from it. Whether there is reason for another."""
        assert self._peers is not None
        mine = self._wish(total)
        step_us = int((self._step_s or 0.0) * 1e6)
        wish, slowest_us, most, least = self._peers.highest([mine.wish, step_us, self._step, -self._step])
        if most != -least:
            raise HoldfastError(f"the ranks are at different steps ({-least} to {most}): each must do the same loop")
        self._cadence.settle(self._step, slowest_us / 1e6)
        if wish == _GO_ON:
            return False
        lead = max(self._peers.gather(mine), key=lambda view: view.weight)
        if lead.notice is not None:
            self._follow(lead, mine)
        if not self._save(lead):
            return False
        for view in (lead, mine):
            if view.notice is not None:
                self._watch.handled(view.notice)
        if lead.notice is not None and lead.wish == _PARK and self._step < total:
            self._park(lead.notice, own=mine.notice is not None)
        return True

    def _follow(self, lead: _View, mine: _View) -> None:
        """All ranks go by one rank's notice; each reports the id of its own node's where it has one."""
        assert lead.notice is not None
        notice_id = (mine.notice or lead.notice).id
        self._board.note(notice_id)
        if lead.rank != self._place.rank:
            self._board.followed(lead.notice, lead.seen_at, rank=lead.rank, node=lead.node)
        for callback in self._callbacks:
            try:
                callback(lead.notice)
            except Exception as fault:  # a user's callback must not cost the save
                self._board.warn(f"on_notice callback failed: {type(fault).__name__}: {fault}")

    def _save(self, lead: _View) -> bool:
        """Save unless this very step is saved already. False if it failed (all ranks alike)."""
        asked, self._asked = lead.why == "asked", False
        if self._saved is not None and self._saved.step == self._step:
            return True
        expected_s = self._estimate.expected_s
        self._board.state("saving", rank={"save_expected_s": expected_s}, step=self._step)
        self._board.timeline.event("save_began", step=self._step, why=lead.why, expected_s=expected_s)
        began = self._clock.monotonic()
        try:
            saved = self._saver.save(self._step, self._training)
        except SaveError as fault:
            self._failed(lead, fault, self._clock.monotonic() - began)
            if asked:
                raise
            return False
        self._saved, self._saved_at = saved, self._clock.monotonic()
        self._estimate.learn(saved.size_bytes, saved.seconds)
        self._board.state("saved", rank={"save_expected_s": self._estimate.expected_s}, **self._saved_keys(saved))
        self._save_ended(lead, round(saved.seconds, 6), None)
        return True

    def _failed(self, lead: _View, fault: SaveError, seconds: float) -> None:
        now = self._clock.monotonic()
        self._notice_retry_at = now + _RETRY_NOTICE_S
        if self._every_s:
            self._saved_at = now - self._every_s + _RETRY_DUE_S
        self._board.tell(f"the save at step {self._step} failed, training goes on: {fault}")
        self._save_ended(lead, round(seconds, 6), str(fault)[:1000])
        self._board.state("running")

    def _save_ended(self, lead: _View, seconds: float, error: str | None) -> None:
        keys: dict[str, Any] = {"step": self._step, "why": lead.why, "ok": error is None, "seconds": seconds, "error": error}
        if error is None and self._saved is not None:
            keys |= {"bytes": self._saved.size_bytes, "checkpoint": self._saved.name}
        self._board.timeline.event("save_ended", **keys)

    def _park(self, notice: Notice, *, own: bool) -> None:
        assert self._peers is not None
        self._board.timeline.event("parked", step=self._step, notice_id=notice.id)  # before the state: then nobody waits for us
        self._board.state("parked", stopped_on_notice=True)
        self._board.tell(f"saved at step {self._step}, safe to kill (notice {notice.id}: {notice.reason or notice.kind})")
        why = parking.park(self._peers, self._watch, self._clock, notice.ends, self._learnt, own=own)
        self._stopping = False
        self._board.state("running", stopped_on_notice=False)
        self._board.timeline.event("unparked", step=self._step, notice_id=notice.id)
        self._board.tell(f"notice {notice.id}: {why}, going on from step {self._step}")

    def _learnt(self, notice: Notice, _seen_at: float) -> None:
        self._board.state("parked", notice_id=notice.id)
